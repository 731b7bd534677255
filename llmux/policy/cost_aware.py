"""
Exhaustive service with a priced door: stay while it pays, switch when it
pays, and let nobody starve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
from zope.interface import implementer

from llmux.interfaces import (
    Arrived,
    Completed,
    Estimate,
    Forwarded,
    IScheduleContext,
    ISwitchPolicy,
    ISwitchPolicyFactory,
    Left,
    LeftReason,
    PolicyContext,
    PolicyDecision,
    PolicyEvent,
    SlotPhase,
    WaitingRequest,
    Woke,
)
from llmux.policy.estimators import (
    AbsenceGaps,
    CompletionInterval,
    Ghosts,
    InFlightTimes,
    MovingAverage,
    ServiceTimes,
    SwitchCosts,
)

__all__ = ["CostAwarePolicy", "CostAwarePolicyFactory", "CostAwareSettings"]

TICK = 0.001
"""Seconds.  What is due within them is due: a timer may ring a rounding error early."""


class CostAwareSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    The keys that C{policy: {name: cost_aware}} may have.

    @ivar quantum: how long a model that has work is left alone after it woke, in
        switch costs (there and back, halved).
    @ivar max_wait_secs: seconds after which a model that is waited for goes
        first, whatever it costs; stretched under overload.
    @ivar stretch: the limit grows to this many times what first waiters have
        lately had to wait.
    @ivar cap: the limit grows to at most this many times C{max_wait_secs}.
    @ivar floor: not even such a model evicts one that woke less than this many
        switch costs ago.
    @ivar linger: how gladly a model that has just run out of work is kept awake
        for its next request; 0 never does.
    @ivar initial_switch_cost_secs: what a switch is taken to cost in seconds,
        until one has been seen.
    """

    quantum: float = 1.5
    max_wait_secs: float = 120.0
    stretch: float = 1.5
    cap: float = 4.0
    floor: float = 1.0
    linger: float = 0.5
    initial_switch_cost_secs: float = 10.0

    def __post_init__(self) -> None:
        """
        @raise ValueError: a value is out of range; the message names the key.
        """
        for key, least in (
            ("quantum", 0.0),
            ("max_wait_secs", 0.0),
            ("stretch", 0.0),
            ("cap", 1.0),
            ("floor", 0.0),
            ("linger", 0.0),
            ("initial_switch_cost_secs", 0.0),
        ):
            value = getattr(self, key)
            if not least <= value < float("inf"):
                raise ValueError(f"{key} must be {least:g} or more, not {value:g}")


class _Model:
    """What is known of one model."""

    __slots__ = (
        "demand_since",
        "first_wait",
        "gaps",
        "ghosts",
        "in_flight",
        "interval",
        "service",
        "waiting",
        "weight",
    )

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.waiting: set[int] = set()
        self.demand_since: float | None = None
        self.ghosts = Ghosts()
        self.in_flight = InFlightTimes()
        self.service = ServiceTimes()
        self.interval = CompletionInterval()
        self.gaps = AbsenceGaps()
        self.first_wait = MovingAverage(0.3)


@implementer(ISwitchPolicy)
class CostAwarePolicy:
    """
    Stays at a model for as long as that costs those who wait for others less
    than leaving it would cost its own clients.

    The model that has just woken is left alone for a while (its quantum).
    Then its door begins to close: a request for it still goes in if the delay
    that it inflicts on all who wait for others is less than the wait that it is
    spared.  A model with nothing left to do is left at once, unless its clients
    have a habit of coming back soon.  Where to: to the model whose waiters have
    waited longest in sum, per second that it takes to serve them; or to the one
    that is starving.
    """

    observed: frozenset[type[Any]] = frozenset({Arrived, Forwarded, Completed, Left, Woke})

    def __init__(self, context: PolicyContext, settings: CostAwareSettings) -> None:
        self._settings = settings
        self._timeout = context.request_timeout
        self._drains = context.drain_before_switch
        self._costs = SwitchCosts(settings.initial_switch_cost_secs)
        self._models = {name: _Model(weight) for name, weight in context.weights.items()}
        self._limit = settings.max_wait_secs
        self._observe: dict[type[Any], Callable[[Any], None]] = {
            Arrived: self._arrived,
            Forwarded: self._forwarded,
            Completed: self._completed,
            Left: self._left,
            Woke: self._woke,
        }

    # ------------------------------------------------------------ observing

    def observe(self, event: PolicyEvent) -> None:
        """Learn from it."""
        self._observe[type(event)](event)

    def _arrived(self, event: Arrived) -> None:
        model = self._models[event.model]
        model.waiting.add(event.request)
        if model.demand_since is None:
            model.demand_since = event.now
        model.gaps.arrived(event.now)

    def _forwarded(self, event: Forwarded) -> None:
        model = self._models[event.model]
        model.waiting.discard(event.request)
        # A drain that is called off serves its model's waiters without a wake.
        self._satisfied(model)
        model.in_flight.forwarded(event.request, event.now)

    def _completed(self, event: Completed) -> None:
        model = self._models[event.model]
        model.in_flight.completed(event.request)
        if event.answered:
            model.service.add(event.service)
            model.interval.completed(event.now)
        self._emptied(model, event.now)

    def _left(self, event: Left) -> None:
        model = self._models[event.model]
        model.waiting.discard(event.request)
        if event.reason is not LeftReason.FAILED:
            model.ghosts.add(event.age)
        elif not model.waiting:
            # They were answered, if with an error: nobody wants it any more.
            self._satisfied(model)
        self._emptied(model, event.now)

    def _woke(self, event: Woke) -> None:
        model = self._models[event.model]
        if event.cost is not None:
            self._costs.add(event.model, event.cost)
        if model.demand_since is not None:
            model.first_wait.add(event.now - model.demand_since)
            self._stretch()
        self._satisfied(model)
        model.interval.restart(event.now)

    def _satisfied(self, model: _Model) -> None:
        if model.demand_since is not None:
            model.demand_since = None
            model.ghosts.clear()

    def _emptied(self, model: _Model, now: float) -> None:
        if not model.waiting and not len(model.in_flight):
            model.gaps.emptied(now)

    def _stretch(self) -> None:
        settings = self._settings
        longest = max(
            (
                model.first_wait.value
                for model in self._models.values()
                if model.first_wait.value is not None
            ),
            default=0.0,
        )
        self._limit = min(
            max(settings.stretch * longest, settings.max_wait_secs),
            settings.cap * settings.max_wait_secs,
        )

    # ------------------------------------------------------------- deciding

    def decide(self, context: IScheduleContext) -> PolicyDecision:
        """Stay, linger, close the door, choose where to go, or call it off."""
        wanted = context.wanted()
        awake = context.awake
        phase = context.phase
        if not wanted:
            if phase is SlotPhase.DRAINING or phase is SlotPhase.DRAINED:
                return PolicyDecision.reopen()
            return PolicyDecision.stay()
        if awake is None or phase is SlotPhase.IDLE or phase is SlotPhase.DRAINED:
            return PolicyDecision.switch(self._pick(context, wanted, 0.0))
        if phase is SlotPhase.DRAINING:
            if context.target in wanted:
                return PolicyDecision.stay()
            return PolicyDecision.switch(self._pick(context, wanted, self._drain(context)))
        drain = self._drain(context)
        target = self._pick(context, wanted, drain)
        if context.in_flight:
            return self._when_busy(context, wanted, target, drain)
        return self._when_empty(context, wanted, target)

    def _when_busy(
        self, context: IScheduleContext, wanted: Sequence[str], target: str, drain: float
    ) -> PolicyDecision:
        """Leave it alone until its quantum is over, or somebody starves."""
        now = context.now
        quantum_ends = self._quantum_ends(context, target)
        starves = max(
            min(self._starves_at(context, model, drain) for model in wanted),
            context.woke_at + self._settings.floor * self._cost(context, context.awake, target),
        )
        ask_at = min(quantum_ends, starves)
        if now + TICK < ask_at:
            return PolicyDecision.stay(ask_at, holds_while_busy=self._timeout is None)
        return PolicyDecision.switch(target)

    def _when_empty(
        self, context: IScheduleContext, wanted: Sequence[str], target: str
    ) -> PolicyDecision:
        """Linger if its clients tend to be back sooner than the others would miss the time."""
        awake = context.awake
        assert awake is not None
        model = self._models[awake]
        median, upper = model.gaps.median, model.gaps.upper
        since = model.gaps.idle_since
        if median is None or upper is None or since is None:
            return PolicyDecision.switch(target)
        absence = self._absence(context, wanted, target, 0.0)
        weighted = sum(self._models[name].weight * context.waiting(name) for name in wanted)
        if weighted * (median + model.service.mean) >= self._settings.linger * (
            absence - median
        ):
            return PolicyDecision.switch(target)
        until = min(
            self._quantum_ends(context, target),
            since + 1.25 * upper + 0.25,
            min(self._starves_at(context, name, 0.0) for name in wanted),
        )
        if context.now + TICK < until:
            return PolicyDecision.stay(until)
        return PolicyDecision.switch(target)

    def admit(self, context: IScheduleContext, request: WaitingRequest) -> bool:
        """
        Through the closing door if the delay that it inflicts on the others is
        less than the wait that it is spared.
        """
        wanted = context.wanted()
        if not wanted:
            return True
        now = context.now
        drain = self._drain(context)
        if any(self._starves_at(context, name, drain) <= now + TICK for name in wanted):
            return False
        model = self._models[request.model]
        target = context.target
        if target is None or target not in wanted:
            target = self._pick(context, wanted, drain)
        absence = self._absence(context, wanted, target, drain)
        extra = min(model.service.mean_excess(drain), model.interval.seconds)
        return extra * self._toll(context, wanted, absence) < model.weight * absence

    def _toll(self, context: IScheduleContext, wanted: Sequence[str], absence: float) -> float:
        """What one second more costs all who wait for others, in weighted seconds."""
        toll = 0.0
        scale = 1 / (absence * absence)
        for name in wanted:
            model = self._models[name]
            count = context.waiting(name)
            squares = context.sum_of_squared_ages(name)
            toll += model.weight * (
                count + model.ghosts.count + (squares + model.ghosts.squares) * scale
            )
        return toll

    def _pick(self, context: IScheduleContext, wanted: Sequence[str], drain: float) -> str:
        """The longest demand if it starves, else the largest index of waiting per work."""
        now = context.now
        oldest = min(wanted, key=lambda name: self._demand_since(context, name))
        if self._starves_at(context, oldest, drain) <= now + TICK:
            return oldest
        return max(wanted, key=lambda name: self._index(context, name))

    def _index(self, context: IScheduleContext, name: str) -> float:
        """Waiting work over set-up and service: Duenyas & Van Oyen (1996)."""
        now = context.now
        model = self._models[name]
        ages = context.sum_of_ages(name)
        if model.ghosts.count:
            ages += now - self._demand_since(context, name)
        work = self._cost(context, context.awake, name) + model.service.mean
        return model.weight * ages / work

    def _demand_since(self, context: IScheduleContext, name: str) -> float:
        since = self._models[name].demand_since
        return context.oldest(name) if since is None else since

    def _starves_at(self, context: IScheduleContext, name: str, drain: float) -> float:
        """When the model's demand reaches the limit on its age."""
        limit = self._limit
        if self._timeout is not None:
            ahead = self._cost(context, context.awake, name) + drain
            limit = max(0.0, min(limit, self._timeout - ahead))
        return self._demand_since(context, name) + limit

    def _quantum_ends(self, context: IScheduleContext, target: str) -> float:
        awake = context.awake
        assert awake is not None
        there = self._cost(context, awake, target)
        back = self._cost(context, target, awake)
        return context.woke_at + self._settings.quantum * (there + back) / 2

    def _absence(
        self, context: IScheduleContext, wanted: Sequence[str], target: str, drain: float
    ) -> float:
        """
        How long the awake model is away if it goes now: its drain, one request
        of each model that is waited for, and the switches between them.
        """
        seconds = drain
        previous = context.awake
        for name in self._round(wanted, target):
            seconds += self._cost(context, previous, name) + self._models[name].service.mean
            previous = name
        assert context.awake is not None
        return seconds + self._cost(context, previous, context.awake)

    def _round(self, wanted: Sequence[str], target: str) -> Iterator[str]:
        yield target
        for name in wanted:
            if name != target:
                yield name

    def _drain(self, context: IScheduleContext) -> float:
        """Seconds until the awake model would have nothing in flight."""
        awake = context.awake
        if awake is None or not self._drains:
            return 0.0
        model = self._models[awake]
        return model.in_flight.drain(context.now, model.service)

    def _cost(self, context: IScheduleContext, source: str | None, target: str) -> float:
        known = context.switch_cost(source, target)
        return self._costs.guess(target) if known is None else known

    # ------------------------------------------------------------ reporting

    def estimates(self) -> Iterable[Estimate]:
        """The starvation limit; per model the service time, gaps and first waits."""
        yield Estimate(
            "starvation_limit_seconds",
            "Age of a model's oldest demand from which it goes first.",
            self._limit,
        )
        for name, model in self._models.items():
            labels = {"model": name}
            yield Estimate(
                "service_seconds",
                "Moving average of the time from forwarding a request to its reply's end.",
                model.service.mean,
                labels,
            )
            for metric, documentation, value in (
                (
                    "gap_seconds",
                    "Median time from having nothing to do to the next request.",
                    model.gaps.median,
                ),
                (
                    "first_wait_seconds",
                    "Moving average of the time from a model's first waiter to its wake.",
                    model.first_wait.value,
                ),
                (
                    "completion_interval_seconds",
                    "Moving average of the time between completions while awake.",
                    model.interval.seconds,
                ),
            ):
                if value is not None and value != float("inf"):
                    yield Estimate(metric, documentation, value, labels)


@implementer(ISwitchPolicyFactory)
class CostAwarePolicyFactory:
    """Makes L{CostAwarePolicy}."""

    name = "cost_aware"
    settings = CostAwareSettings

    def build(self, context: PolicyContext, settings: Any) -> ISwitchPolicy:
        """
        One policy for these models.

        @raise ValueError: a setting is out of range; the message names it.
        """
        assert isinstance(settings, CostAwareSettings)
        return CostAwarePolicy(context, settings)
