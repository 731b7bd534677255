"""The simplest policy: first come, first served."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zope.interface import implementer

from llmux.interfaces import (
    Estimate,
    IScheduleContext,
    ISwitchPolicy,
    ISwitchPolicyFactory,
    PolicyContext,
    PolicyDecision,
    PolicyEvent,
    SlotPhase,
    WaitingRequest,
)

__all__ = ["FifoPolicy", "FifoPolicyFactory"]


@implementer(ISwitchPolicy)
class FifoPolicy:
    """
    The policy switches as soon as a request waits for another model, to the model
    whose first waiter is the oldest of all.

    Each drain is a hard one: a request that arrives for the model that drains waits
    until that model is awake again.
    """

    observed: frozenset[type[Any]] = frozenset()

    def observe(self, event: PolicyEvent) -> None:
        """Do nothing: the waiters alone decide."""

    def decide(self, context: IScheduleContext) -> PolicyDecision:
        """
        Switch to the model of the oldest waiter; call a switch off if that waiter waits
        for the model that drains.
        """
        wanted = context.wanted()
        if not wanted:
            return PolicyDecision.stay()
        target = min(wanted, key=context.oldest)
        awake = context.awake
        if (
            awake is not None
            and context.phase is not SlotPhase.AWAKE
            and context.oldest(awake) < context.oldest(target)
        ):
            return PolicyDecision.reopen()
        return PolicyDecision.switch(target)

    def admit(self, context: IScheduleContext, request: WaitingRequest) -> bool:
        """Admit no request."""
        return False

    def estimates(self) -> Iterable[Estimate]:
        """Return nothing: the policy learns nothing."""
        return ()


@implementer(ISwitchPolicyFactory)
class FifoPolicyFactory:
    """The factory of L{FifoPolicy}, which has no settings."""

    name = "fifo"
    settings = None

    def build(self, context: PolicyContext, settings: Any) -> ISwitchPolicy:
        """See L{ISwitchPolicyFactory.build}.  The context makes no difference."""
        return FifoPolicy()
