"""A policy whose decisions the simulator follows."""

from __future__ import annotations

from collections.abc import Iterable

from zope.interface import implementer

from llmux.interfaces import (
    Estimate,
    IScheduleContext,
    ISwitchPolicy,
    PolicyDecision,
    SlotPhase,
    WaitingRequest,
)

__all__ = ["FollowedPolicy"]


@implementer(ISwitchPolicy)
class FollowedPolicy:
    """
    A policy that answers exactly as another policy does, and remembers to which
    model the latest answer leads.

    The simulator thereby knows for which model a sleep hook makes room, without
    a look into the switcher.

    @ivar target: the model that the latest answer wakes; None if that answer
        keeps the awake model awake.
    """

    def __init__(self, policy: ISwitchPolicy) -> None:
        self._policy = policy
        self.observed = policy.observed
        # Every request brings events; a method here would be one more call for each.
        self.observe = policy.observe
        self.target: str | None = None

    def decide(self, context: IScheduleContext) -> PolicyDecision:
        """See L{ISwitchPolicy.decide}."""
        decision = self._policy.decide(context)
        if decision.target is not None:
            self.target = decision.target
        elif context.phase in (SlotPhase.DRAINING, SlotPhase.DRAINED):
            # To stay means here that the drain goes on to where it leads.
            self.target = None if decision.reopens else context.target
        else:
            self.target = None
        return decision

    def admit(self, context: IScheduleContext, request: WaitingRequest) -> bool:
        """See L{ISwitchPolicy.admit}."""
        return self._policy.admit(context, request)

    def estimates(self) -> Iterable[Estimate]:
        """See L{ISwitchPolicy.estimates}."""
        return self._policy.estimates()
