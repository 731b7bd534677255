"""
This module has the policy C{cost_aware} as it was for one model awake at a time: the decisions
of the policy for several models are compared with it, one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from math import exp

from llmux.interfaces import Estimate, PolicyContext, PolicyEvent, WaitingRequest, Woke
from llmux.policy.estimators import MovingAverage
from llmux.policy.knowledge import Knowledge, ModelKnowledge
from llmux.policy.parameters import LATENESS, LEAST_RETURNING, TICK, CostAwareSettings
from tests.one_slot import OneSlotContext, PolicyDecision, SlotPhase

__all__ = ["OneSlotCostAwarePolicy", "SwitchCosts"]


class SwitchCosts:
    """
    This class estimates the cost of a switch that was never made, in seconds: the average over
    the switches to the same model; without any, the average over all switches; without any,
    C{initial}.  Both are exponential moving averages with step 0.3.
    """

    __slots__ = ("_all", "_by_target", "_initial")

    def __init__(self, initial: float) -> None:
        self._initial = initial
        self._all = MovingAverage(0.3)
        self._by_target: dict[str, MovingAverage] = {}

    def add(self, target: str, seconds: float) -> None:
        """Note that a switch to C{target} took C{seconds} of sleep hook and wake hook."""
        self._all.add(seconds)
        average = self._by_target.get(target)
        if average is None:
            average = self._by_target[target] = MovingAverage(0.3)
        average.add(seconds)

    def guess(self, target: str) -> float:
        """Return the expected seconds of a switch to C{target} from any model."""
        average = self._by_target.get(target, self._all).value
        return self._initial if average is None else average


class OneSlotCostAwarePolicy:
    """
    The policy stays at a model as long as that costs those who wait for other
    models less than to leave would cost the model's own clients.

    A model that has just woken is not left for a quantum.  After that it begins to drain as
    soon as another model is wanted, and L{admit} decides about each further request: the
    request goes in if the delay that it causes to all who wait is less than the wait that it is
    spared, or if the model has so much in flight that it answers faster than llmux does on the
    whole.  A model that has nothing to do is left at once, unless it pays to linger.

    The next model is the one that starves for the longest time, if any does;
    otherwise the one whose waiters have the largest sum of ages per second that it
    takes to serve them.
    """

    def __init__(self, context: PolicyContext, settings: CostAwareSettings) -> None:
        self._settings = settings
        self._timeout = context.request_timeout
        self._drains = context.drain_before_switch
        self._knowledge = Knowledge(context, settings.initial_switch_cost_secs)
        self._costs = SwitchCosts(settings.initial_switch_cost_secs)
        self._models = self._knowledge.models
        # Each request brings three events; to look the method up here saves a call for each.
        self._learn = self._knowledge.learn
        self.observed = frozenset(self._learn)

    def observe(self, event: PolicyEvent) -> None:
        """See L{ISwitchPolicy.observe}."""
        if isinstance(event, Woke) and event.cost is not None:
            self._costs.add(event.model, event.cost)
        self._learn[type(event)](event)

    # ------------------------------------------------------------- deciding

    def decide(self, context: OneSlotContext) -> PolicyDecision:
        """See L{ISwitchPolicy.decide}."""
        wanted = context.wanted()
        awake = context.awake
        phase = context.phase
        if not wanted:
            if phase is SlotPhase.DRAINING or phase is SlotPhase.DRAINED:
                return PolicyDecision.reopen()
            return PolicyDecision.stay()
        if awake is None or phase is SlotPhase.IDLE or phase is SlotPhase.DRAINED:
            return PolicyDecision.switch(self._pick(context, wanted, 0.0))
        if phase is SlotPhase.DRAINING and context.target in wanted:
            return PolicyDecision.stay()
        drain = self._drain(context)
        target = self._pick(context, wanted, drain)
        if phase is SlotPhase.DRAINING:
            return PolicyDecision.switch(target)
        if context.in_flight:
            return self._when_busy(context, wanted, awake, target, drain)
        return self._when_empty(context, wanted, awake, target)

    def _when_busy(
        self,
        context: OneSlotContext,
        wanted: Sequence[str],
        awake: str,
        target: str,
        drain: float,
    ) -> PolicyDecision:
        """
        Decide about an awake model that has requests in flight: it stays until its
        quantum is over or another model starves.
        """
        settings = self._settings
        there = self._cost(context, awake, target)
        back = self._cost(context, target, awake)
        until = context.woke_at + settings.quantum * (there + back) / 2
        starves = min(self._starves_at(context, name, drain) for name in wanted)
        until = min(until, max(starves, context.woke_at + settings.floor * there))
        if context.now + TICK < until:
            return PolicyDecision.stay(until, holds_while_busy=self._timeout is None)
        return PolicyDecision.switch(target)

    def _when_empty(
        self, context: OneSlotContext, wanted: Sequence[str], awake: str, target: str
    ) -> PolicyDecision:
        """
        Decide about an awake model that has nothing to do: to linger pays if its clients
        tend to come back in time, and the wait that lingering causes to all who wait is
        less than the wait that lingering saves.

        The next request is expected after the upper quartile of the gaps so far.
        (With the median instead, agents fared no better, and requests in light
        traffic waited longer.)
        """
        model = self._models[awake]
        gap, since = model.gaps.upper, model.gaps.idle_since
        if gap is None or since is None:
            return PolicyDecision.switch(target)
        absence = self._absence(context, wanted, awake, target, 0.0)
        weighted = sum(self._models[name].weight * context.waiting(name) for name in wanted)
        delay = weighted * (gap + model.service.mean)
        if delay >= self._settings.linger * (absence - gap):
            return PolicyDecision.switch(target)
        there_and_back = self._cost(context, awake, target) + self._cost(context, target, awake)
        ends = since + 1.25 * gap + min(LATENESS, there_and_back / 10)
        # Whether the model lingers or not, what comes of it is a lesson for the next time.
        model.gaps.awaited(ends + TICK)
        until = min(ends, min(self._starves_at(context, name, 0.0) for name in wanted))
        if context.now + TICK < until and self._come_back(model, context.now, ends - since):
            return PolicyDecision.stay(until)
        return PolicyDecision.switch(target)

    def _come_back(self, model: ModelKnowledge, now: float, window: float) -> bool:
        """
        Tell whether the model's clients tend to come back in time when others wait.

        Requests that come independently of replies come in time now and then by chance.  To
        wait for these requests saves nothing: the next of them would come during the next
        absence instead.  What counts is what comes in time beyond that.

        @param window: the seconds from a reply within which a request is in time.
        """
        by_chance = 1 - exp(-window * model.answers_per_second(now))
        return model.gaps.returning > by_chance + LEAST_RETURNING * (1 - by_chance)

    def admit(self, context: OneSlotContext, request: WaitingRequest) -> bool:
        """See L{ISwitchPolicy.admit}.  This decides about requests for a model that drains."""
        wanted = context.wanted()
        if not wanted:
            return True
        if context.waiting(request.model):
            # A request must not overtake those that were not let in.
            return False
        drain = self._drain(context)
        soon = context.now + TICK
        if any(self._starves_at(context, n, drain, at_most=True) <= soon for n in wanted):
            return False
        model = self._models[request.model]
        if self._keeps_pace(context, wanted, model):
            return True
        if any(self._starves_at(context, n, drain) <= soon for n in wanted):
            return False
        target = context.target
        if target is None or target not in wanted:
            target = self._pick(context, wanted, drain)
        absence = self._absence(context, wanted, request.model, target, drain)
        extra = model.service.mean_excess(drain)
        interval = model.interval.seconds
        if interval is not None:
            extra = min(extra, interval)
        return extra * self._toll(context, wanted, absence) < model.weight * absence

    def _keeps_pace(
        self, context: OneSlotContext, wanted: Sequence[str], model: ModelKnowledge
    ) -> bool:
        """
        Tell whether the draining model answers faster than llmux does on the whole, so that it
        is worth to go on with it.

        This is the marginal value theorem (Charnov, 1976), which says when to leave a
        patch: when it yields less than going from patch to patch yields on the whole.
        A model's yield is the number of its requests in flight over the time that
        each of them takes (Little's law).
        """
        service = model.alone.value
        if not service:
            return False
        waiting = weighted = 0.0
        for name in wanted:
            count = context.waiting(name)
            waiting += count
            weighted += count * self._models[name].weight
        here = model.weight * (context.in_flight + 1) / service
        overall = self._knowledge.pace.per_second(context.now) * weighted / waiting
        return here > self._settings.pace * overall

    def _toll(self, context: OneSlotContext, wanted: Sequence[str], absence: float) -> float:
        """Return the cost of one more second of drain to all waiters, in weighted seconds."""
        toll = 0.0
        scale = absence**-2 if absence else 0.0
        for name in wanted:
            model = self._models[name]
            squares = context.sum_of_squared_ages(name) + model.ghosts.squares
            count = context.waiting(name) + model.ghosts.count
            toll += model.weight * (count + squares * scale)
        return toll

    # ------------------------------------------------------------- choosing

    def _pick(self, context: OneSlotContext, wanted: Sequence[str], drain: float) -> str:
        """
        Choose the model of the oldest demand if that starves, else the model with the largest
        index.
        """
        oldest = min(wanted, key=lambda name: self._demand_since(context, name))
        if self._starves_at(context, oldest, drain) <= context.now + TICK:
            return oldest
        return max(wanted, key=lambda name: self._index(context, name))

    def _index(self, context: OneSlotContext, name: str) -> float:
        """
        Compute how urgent a model is: the sum of its waiters' ages, over the seconds until half
        of them will have been served (after Duenyas and Van Oyen, 1996).
        """
        model = self._models[name]
        ages = context.sum_of_ages(name)
        if model.ghosts.count:
            ages += context.now - self._demand_since(context, name)
        interval = model.interval.seconds or 0.0
        work = (
            self._cost(context, context.awake, name)
            + model.service.mean
            + context.waiting(name) * interval / 2
        )
        return model.weight * ages / work if work else model.weight * ages

    def _demand_since(self, context: OneSlotContext, name: str) -> float:
        since = self._models[name].demand_since
        return context.oldest(name) if since is None else since

    def _starves_at(
        self, context: OneSlotContext, name: str, drain: float, *, at_most: bool = False
    ) -> float:
        """
        Return the time at which the model's demand reaches the limit.

        @param at_most: take the limit that holds under the worst overload, instead of
            the present one.
        """
        limit = self._limit(at_most)
        if self._timeout is not None:
            ahead = self._cost(context, context.awake, name) + drain
            limit = max(0.0, min(limit, self._timeout - ahead))
        return self._demand_since(context, name) + limit

    def _limit(self, at_most: bool) -> float:
        settings = self._settings
        most = settings.cap * settings.max_wait_secs
        if at_most:
            return most
        stretched = settings.stretch * self._knowledge.longest_first_wait()
        return min(max(stretched, settings.max_wait_secs), most)

    # ----------------------------------------------------------- estimating

    def _absence(
        self,
        context: OneSlotContext,
        wanted: Sequence[str],
        awake: str,
        target: str,
        drain: float,
    ) -> float:
        """
        Return the seconds for which the awake model is away if it is left now: its drain, one
        request of each wanted model, and the switches between them.
        """
        seconds = drain
        previous = awake
        for name in _round(wanted, target):
            seconds += self._cost(context, previous, name) + self._models[name].service.mean
            previous = name
        return seconds + self._cost(context, previous, awake)

    def _drain(self, context: OneSlotContext) -> float:
        """Return the expected seconds until the awake model has nothing in flight."""
        awake = context.awake
        if awake is None or not self._drains:
            return 0.0
        model = self._models[awake]
        return model.in_flight.drain(context.now, model.service)

    def _cost(self, context: OneSlotContext, source: str | None, target: str) -> float:
        known = context.switch_cost(source, target)
        return self._costs.guess(target) if known is None else known

    def estimates(self) -> Iterable[Estimate]:
        """See L{ISwitchPolicy.estimates}."""
        limit = Estimate(
            "starvation_limit_seconds",
            "Age of a model's oldest demand from which it goes first.",
            self._limit(at_most=False),
        )
        return chain((limit,), self._knowledge.estimates())


def _round(wanted: Sequence[str], first: str) -> Iterator[str]:
    yield first
    for name in wanted:
        if name != first:
            yield name
