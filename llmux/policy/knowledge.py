"""
This module has what the policy C{cost_aware} has learnt of the models from events.  The words
are explained in L{llmux.policy.cost_aware}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llmux.interfaces import (
    Arrived,
    Completed,
    Estimate,
    Forwarded,
    Left,
    LeftReason,
    PolicyContext,
    Slept,
    Woke,
)
from llmux.policy.estimators import (
    AbsenceGaps,
    AnswerRate,
    CompletionInterval,
    Ghosts,
    InFlightTimes,
    MovingAverage,
    Pace,
    ScriptTimes,
    ServiceTimes,
)
from llmux.policy.turns import FirstWaits

__all__ = ["Knowledge", "ModelKnowledge"]

UNQUEUED = 4
"""
A request that is forwarded while fewer than this many are in flight is assumed to
be served at once, without a queue inside its backend.
"""


SLEEP_PART = 0.2
"""
The sleep hook is assumed to take this part of a switch's cost, until a sleep hook has run.
"""


class ModelKnowledge:
    """
    L{ModelKnowledge} is what is known of one model.

    @ivar size: the part of all capacity that the model needs in its smallest place; 1 if
        nothing else fits beside the model.
    @ivar pace: the requests answered per second by all models that take turns.
    @ivar weight: how much one second of a waiter of this model counts.
    @ivar waiting: the numbers of the model's waiters.  A request that was in flight
        before, and whose backend failed, is not among them.
    @ivar demand_since: the time at which the model's demand began; None without demand.
    @ivar ghosts: the waiters that gave up since the model last woke.
    @ivar in_flight: the requests in flight.
    @ivar unqueued: the numbers of the requests in flight that are assumed to be served
        at once.
    @ivar rate: the requests answered per second.
    @ivar service: the service times of all requests.
    @ivar alone: the average service time of the requests in C{unqueued}.
    @ivar interval: the time between completions.
    @ivar gaps: the gaps between work.
    @ivar first_wait: the average age of the model's demand when the model woke.
    """

    __slots__ = (
        "alone",
        "demand_since",
        "first_wait",
        "gaps",
        "ghosts",
        "in_flight",
        "interval",
        "pace",
        "rate",
        "service",
        "size",
        "unqueued",
        "waiting",
        "weight",
    )

    def __init__(self, weight: float, size: float, pace: Pace) -> None:
        self.weight = weight
        self.size = size
        self.pace = pace
        self.waiting: set[int] = set()
        self.unqueued: set[int] = set()
        self.demand_since: float | None = None
        self.ghosts = Ghosts()
        self.in_flight = InFlightTimes()
        self.rate = AnswerRate()
        self.service = ServiceTimes()
        self.alone = MovingAverage(0.05)
        self.interval = CompletionInterval()
        self.gaps = AbsenceGaps()
        self.first_wait = MovingAverage(0.3)

    def satisfied(self) -> None:
        """End the model's demand."""
        if self.demand_since is not None:
            self.demand_since = None
            self.ghosts.clear()

    def answers_per_second(self, now: float) -> float:
        """Return how many requests of this model are answered per second, in the long run."""
        return self.rate.per_second(now, self.service.known)

    def note_answers(self, now: float) -> None:
        """Note how many requests were answered until now."""
        self.rate.note(now, self.service.known)

    def maybe_emptied(self, now: float) -> None:
        """Begin a gap if the model has nothing to do."""
        if not self.waiting and not len(self.in_flight):
            self.gaps.emptied(now)


class Knowledge:
    """
    L{Knowledge} is what is known of all models.

    @ivar models: what is known of each model, by name.
    @ivar learn: the method to call with an event, by the event's type.
    @ivar sleeps: the expected seconds of the models' sleep hooks.
    @ivar wakes: the expected seconds of the models' wake hooks, C{alive} included.
    @ivar pace: the requests answered per second, over all models that take turns.
    """

    def __init__(self, context: PolicyContext, initial_switch_cost: float) -> None:
        self.pace = Pace()
        # Models that are always awake take no turns, so they do not count in the pace.
        apart = Pace()
        self.models = {
            name: ModelKnowledge(
                weight, _size(context, name), apart if name in context.always else self.pace
            )
            for name, weight in context.weights.items()
        }
        self.sleeps = ScriptTimes(SLEEP_PART * initial_switch_cost)
        self.wakes = ScriptTimes((1 - SLEEP_PART) * initial_switch_cost)
        self.first_waits = FirstWaits()
        self._longest_first_waits: dict[float, float] = {}
        self.learn: Mapping[type[Any], Callable[[Any], None]] = {
            Arrived: self._arrived,
            Forwarded: self._forwarded,
            Completed: self._completed,
            Left: self._left,
            Woke: self._woke,
            Slept: self._slept,
        }

    def take_over(self, before: Knowledge) -> None:
        """Take over what is known of the same models; weights and sizes may be others."""
        own = self.pace
        self.pace = before.pace
        for name, model in self.models.items():
            known = before.models.get(name)
            if known is None:
                if model.pace is own:
                    model.pace = self.pace
                continue
            known.weight, known.size = model.weight, model.size
            known.pace = self.pace if model.pace is own else model.pace
            self.models[name] = known
        self.sleeps.take_over(before.sleeps)
        self.wakes.take_over(before.wakes)
        self.first_waits = before.first_waits
        for model in self.models.values():
            self._note_first_wait(model.size)

    def _note_first_wait(self, size: float) -> None:
        waits = [
            known.first_wait.value
            for known in self.models.values()
            if known.first_wait.value is not None and known.size == size
        ]
        if waits:
            self._longest_first_waits[size] = max(waits)

    def longest_first_wait(self) -> float:
        """Return the longest of the models' C{first_wait}, in seconds."""
        return max(self._longest_first_waits.values(), default=0.0)

    def _arrived(self, event: Arrived) -> None:
        model = self.models[event.model]
        model.waiting.add(event.request)
        if model.demand_since is None:
            model.demand_since = event.now
        model.gaps.arrived(event.now)

    def _forwarded(self, event: Forwarded) -> None:
        model = self.models[event.model]
        now, request = event.now, event.request
        if model.gaps.idle_since is not None:
            model.gaps.arrived(now)
        if model.waiting:
            model.waiting.discard(request)
        if model.demand_since is not None and not model.waiting:
            # If a drain is called off, its model's waiters are served without a wake.
            model.satisfied()
        in_flight = model.in_flight
        if len(in_flight) < UNQUEUED:
            model.unqueued.add(request)
        in_flight[request] = now

    def _completed(self, event: Completed) -> None:
        model = self.models[event.model]
        now, request = event.now, event.request
        in_flight, unqueued = model.in_flight, model.unqueued
        in_flight.pop(request, None)
        if event.answered:
            service = event.service
            if request in unqueued:
                unqueued.remove(request)
                model.alone.add(service)
            model.service.add(service)
            model.interval.completed(now)
            model.pace.completed(now)
        elif request in unqueued:
            unqueued.remove(request)
        if not in_flight and not model.waiting:
            model.gaps.emptied(now)

    def _left(self, event: Left) -> None:
        model = self.models[event.model]
        model.waiting.discard(event.request)
        if event.reason is not LeftReason.FAILED:
            model.ghosts.add(event.age)
        elif not model.waiting:
            # The waiters were answered, with an error, so the demand is over.
            model.satisfied()
        model.maybe_emptied(event.now)

    def _woke(self, event: Woke) -> None:
        model = self.models[event.model]
        for victim in event.victims:
            self.models[victim].gaps.overtaken()
            self.models[victim].note_answers(event.now)
        if event.cost is not None:
            self.wakes.add(event.model, event.cost)
        if model.demand_since is not None:
            model.first_wait.add(event.now - model.demand_since)
            self.first_waits.add(event.model, event.now - model.demand_since)
            self._note_first_wait(model.size)
        model.satisfied()
        model.interval.restart(event.now)
        model.note_answers(event.now)

    def _slept(self, event: Slept) -> None:
        if event.cost is not None:
            self.sleeps.add(event.model, event.cost)

    def estimates(self) -> Iterable[Estimate]:
        """Yield the service times, gaps, intervals and first waits that are known."""
        for name, model in self.models.items():
            labels = {"model": name}
            for metric, documentation, value in (
                (
                    "service_seconds",
                    "Moving average of the time from forwarding a request to its reply's end.",
                    model.service.mean if len(model.service) else None,
                ),
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
                if value is not None:
                    yield Estimate(metric, documentation, value, labels)


def _size(context: PolicyContext, model: str) -> float:
    """Return the part of all capacity that the model needs in its smallest place."""
    total = sum(context.resources.values())
    places = context.places.get(model)
    if not places or not total:
        return 1.0
    return float(min(sum(needs.values()) for needs in places) / total)
