"""
This module has what a policy sees and answers that knows of one model awake at a time, and it
lets such a policy take part where questions are put in general terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Protocol

from msgspec import Struct
from zope.interface import implementer

from llmux.interfaces import (
    Decision,
    Estimate,
    IScheduleView,
    ISwitchPolicy,
    Phase,
    PolicyEvent,
    Rebind,
    Reopen,
    Slept,
    Stay,
    Switch,
    SwitchView,
    WaitingRequest,
    Woke,
)
from llmux.policy.estimators import MovingAverage

__all__ = ["OneSlotContext", "OneSlotPolicy", "PolicyDecision", "SlotPhase"]


class SlotPhase(Enum):
    """These are the phases of the slot in which a policy is asked."""

    IDLE = "idle"
    """No model is awake."""
    AWAKE = "awake"
    """C{context.awake} serves."""
    DRAINING = "draining"
    """C{context.awake} finishes its requests, to make room for C{context.target}."""
    DRAINED = "drained"
    """The last request is finished: this is the last question before the sleep hook starts."""


class PolicyDecision(Struct, frozen=True):
    """
    This is the answer of a policy for one slot.  Use L{stay}, L{switch} and L{reopen} to make
    one.

    @ivar target: the model to wake, or to which a drain is to lead; None to
        change nothing.
    @ivar reopens: True to call a switch off while the awake model drains.
    @ivar ask_again_at: the time at which the policy wants to be asked again at
        the latest.
    """

    target: str | None = None
    reopens: bool = False
    ask_again_at: float | None = None

    @classmethod
    def stay(
        cls, ask_again_at: float | None = None, *, holds_while_busy: bool = False
    ) -> PolicyDecision:
        """Make the decision to change nothing."""
        return cls(ask_again_at=ask_again_at)

    @classmethod
    def switch(cls, target: str) -> PolicyDecision:
        """Make the decision to wake C{target}."""
        return cls(target=target)

    @classmethod
    def reopen(cls) -> PolicyDecision:
        """Make the decision that the awake model, which drains, is to go on serving."""
        return cls(reopens=True)


class OneSlotContext:
    """This object has what a policy for one slot sees, made from the view of all models."""

    def __init__(self) -> None:
        self.now = 0.0
        self.phase = SlotPhase.IDLE
        self.awake: str | None = None
        self.woke_at = 0.0
        self.in_flight = 0
        self.target: str | None = None
        self._view: IScheduleView
        self._costs: dict[tuple[str | None, str], MovingAverage] = {}

    def look(
        self,
        view: IScheduleView,
        phase: SlotPhase,
        awake: str | None,
        target: str | None = None,
    ) -> None:
        """Bring the context up to date."""
        self._view = view
        self.now = view.now
        self.phase, self.awake, self.target = phase, awake, target
        self.woke_at = 0.0 if awake is None else view.awake_since(awake)
        self.in_flight = 0 if awake is None else view.in_flight(awake)
        wanted = list(view.wanted())
        if target is not None and view.waiting(target):
            wanted = sorted([target, *wanted], key=view.oldest)
        self._wanted = wanted

    def wanted(self) -> Sequence[str]:
        """Return the models that have waiters and may be woken now, the target included."""
        return self._wanted

    def waiting(self, model: str) -> int:
        """Return the number of requests that wait for C{model}."""
        return self._view.waiting(model)

    def oldest(self, model: str) -> float:
        """Return the time at which the first waiter of C{model} arrived."""
        return self._view.oldest(model)

    def sum_of_ages(self, model: str) -> float:
        """Return the sum of the ages of the waiters of C{model}, in seconds."""
        return self._view.sum_of_ages(model)

    def sum_of_squared_ages(self, model: str) -> float:
        """Return the sum of the squared ages of the waiters of C{model}, in squared seconds."""
        return self._view.sum_of_squared_ages(model)

    def switch_cost(self, source: str | None, target: str) -> float | None:
        """Return the average seconds that a switch from C{source} to C{target} took lately."""
        average = self._costs.get((source, target))
        return None if average is None else average.value

    def learn(self, source: str | None, target: str, seconds: float) -> None:
        """Note how many seconds a switch took."""
        average = self._costs.get((source, target))
        if average is None:
            average = self._costs[source, target] = MovingAverage(0.3)
        average.add(seconds)


class PolicyForOneSlot(Protocol):
    """This protocol is what a policy for one slot must have."""

    observed: frozenset[type[Any]]

    def observe(self, event: PolicyEvent) -> None: ...
    def decide(self, context: OneSlotContext) -> PolicyDecision: ...
    def admit(self, context: OneSlotContext, request: WaitingRequest) -> bool: ...
    def estimates(self) -> Iterable[Estimate]: ...


@implementer(ISwitchPolicy)
class OneSlotPolicy:
    """
    This class makes a policy for one slot out of a policy for all, where each model needs the
    whole of the one resource.
    """

    def __init__(self, policy: PolicyForOneSlot) -> None:
        self.policy = policy
        self.observed = frozenset(policy.observed) | {Slept, Woke}
        self._observe: Callable[[PolicyEvent], None] = policy.observe
        self._passes = frozenset(policy.observed)
        self._slept: dict[str, float] = {}
        self._context = OneSlotContext()

    def observe(self, event: PolicyEvent) -> None:
        """See L{ISwitchPolicy.observe}.  The cost of a switch is that of both its hooks."""
        if isinstance(event, Slept):
            if event.cost is not None:
                self._slept[event.model] = event.cost
        elif isinstance(event, Woke) and event.cost is not None:
            slept = [self._slept.get(victim, 0.0) for victim in event.victims]
            cost = max(slept, default=0.0) + event.cost
            source = event.victims[0] if event.victims else None
            self._context.learn(source, event.model, cost)
            event = Woke(event.now, event.model, event.place, event.victims, cost)
        if type(event) in self._passes:
            self._observe(event)

    def decide(self, view: IScheduleView) -> Decision:
        """See L{ISwitchPolicy.decide}."""
        context = self._context
        for switch in view.switches:
            if switch.phase is Phase.DRAINING:
                return self._while_draining(view, switch)
            return Stay()
        awake = None
        for awake in view.holders():
            if view.phase(awake) is not Phase.AWAKE:
                return Stay()
            if view.may_sleep_from(awake) > view.now:
                return Stay(view.may_sleep_from(awake))
        if not view.wanted():
            return Stay()
        context.look(view, SlotPhase.IDLE if awake is None else SlotPhase.AWAKE, awake)
        decision = self.policy.decide(context)
        if decision.target is None:
            return Stay(decision.ask_again_at)
        return Switch(decision.target, 0, () if awake is None else (awake,))

    def _while_draining(self, view: IScheduleView, switch: SwitchView) -> Decision:
        context = self._context
        phase = SlotPhase.DRAINED if switch.drained else SlotPhase.DRAINING
        context.look(view, phase, switch.victims[0], switch.target)
        wanted = context.wanted()
        if not wanted:
            return Stay()
        decision = self.policy.decide(context)
        if decision.reopens:
            return Reopen(switch.number)
        target = decision.target or switch.target
        if target not in wanted:
            target = min(wanted, key=context.oldest)
        if target != switch.target:
            return Rebind(switch.number, target, 0, switch.victims)
        return Stay(decision.ask_again_at)

    def admit(self, view: IScheduleView, request: WaitingRequest) -> bool:
        """See L{ISwitchPolicy.admit}."""
        switch = view.switches[0]
        self._context.look(view, SlotPhase.DRAINING, request.model, switch.target)
        return self.policy.admit(self._context, request)

    def estimates(self) -> Iterable[Estimate]:
        """See L{ISwitchPolicy.estimates}."""
        return self.policy.estimates()
