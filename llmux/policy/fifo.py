"""First come, first served: the model of the oldest waiter is next."""

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
    Switches as soon as anybody waits for another model, to the model whose
    waiter has waited longest.  A drain is hard: who arrives for a model that
    drains waits behind the switch.
    """

    observed: frozenset[type[Any]] = frozenset()

    def observe(self, event: PolicyEvent) -> None:
        """Nothing that happened matters: the queue says it all."""

    def decide(self, context: IScheduleContext) -> PolicyDecision:
        """The oldest waiter's model; the one that drains, if its own waiter is the oldest."""
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
        """Never."""
        return False

    def estimates(self) -> Iterable[Estimate]:
        """It learns nothing."""
        return ()


@implementer(ISwitchPolicyFactory)
class FifoPolicyFactory:
    """Makes L{FifoPolicy}; it has no settings."""

    name = "fifo"
    settings = None

    def build(self, context: PolicyContext, settings: Any) -> ISwitchPolicy:
        """One policy, the same for every context."""
        return FifoPolicy()
