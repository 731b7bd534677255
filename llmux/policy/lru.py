"""This module has the policy of programs that load models on demand, for comparison."""

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
    The policy loads models on demand, as Ollama does: the model of the oldest waiter is next,
    and the least recently used model makes room, an idle one if there is any.

    A model that drains still takes every request, and sleeps when it happens to have nothing in
    flight.  So the waits for another model have no limit while a model is busy. (llama.cpp's
    router takes no more requests for a model that drains, as the policy C{fifo} does.)
    """

    def admit(self, view: IScheduleView, request: WaitingRequest) -> bool:
        """Admit each request."""
        return True


@implementer(ISwitchPolicyFactory)
class LruPolicyFactory:
    """This factory makes policies of the class L{LruPolicy}, which has no settings."""

    name = "lru"
    settings = None

    def build(self, context: PolicyContext, settings: Any) -> ISwitchPolicy:
        """See L{ISwitchPolicyFactory.build}."""
        return LruPolicy(context)
