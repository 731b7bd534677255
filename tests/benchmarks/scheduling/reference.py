"""Another's policy, to compare with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zope.interface import implementer

from llmux.interfaces import (
    Estimate,
    IScheduleContext,
    ISwitchPolicy,
    PolicyDecision,
    PolicyEvent,
    SlotPhase,
    WaitingRequest,
)

__all__ = ["ExhaustivePolicy"]


@implementer(ISwitchPolicy)
class ExhaustivePolicy:
    """
    Serves all that is queued, arrivals included, then goes to the model of the
    oldest waiter: what llama-swap does with one model at a time.
    """

    observed: frozenset[type[Any]] = frozenset()

    def observe(self, event: PolicyEvent) -> None:
        """Nothing that happened matters."""

    def decide(self, context: IScheduleContext) -> PolicyDecision:
        """Leave when nothing is in flight."""
        wanted = context.wanted()
        if not wanted:
            return PolicyDecision.stay()
        if context.phase is SlotPhase.AWAKE and context.in_flight:
            return PolicyDecision.stay()
        return PolicyDecision.switch(min(wanted, key=context.oldest))

    def admit(self, context: IScheduleContext, request: WaitingRequest) -> bool:
        """The door is never closed on anybody."""
        return True

    def estimates(self) -> Iterable[Estimate]:
        """It learns nothing."""
        return ()
