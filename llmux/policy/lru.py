"""The policy of programs that load models on demand, to compare with."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from llmux.interfaces import (
    IScheduleView,
    ISwitchPolicy,
    ISwitchPolicyFactory,
    PolicyContext,
    WaitingRequest,
)
from llmux.policy.fifo import FifoPolicy

__all__ = ["LruPolicy", "LruPolicyFactory"]


class LruPolicy(FifoPolicy):
    """
    The policy loads models on demand, as Ollama does: the model of the oldest waiter is
    next, and the least recently used model goes, an idle one if there is any.

    Nobody closes a door: requests go on arriving at a model that is to go, which sleeps
    when it happens to have nothing in flight.  So the waits for another model have no
    bound while a model is busy.  (llama.cpp's router shuts the door at once; that is
    the policy C{fifo}.)
    """

    def admit(self, view: IScheduleView, request: WaitingRequest) -> bool:
        """Admit each request."""
        return True


@implementer(ISwitchPolicyFactory)
class LruPolicyFactory:
    """The factory of L{LruPolicy}, which has no settings."""

    name = "lru"
    settings = None

    def build(self, context: PolicyContext, settings: Any) -> ISwitchPolicy:
        """See L{ISwitchPolicyFactory.build}."""
        return LruPolicy(context)
