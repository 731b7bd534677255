"""
Exhaustive service with a priced door: stay while it pays, switch when it
pays, and let nobody starve.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec
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
from llmux.policy.knowledge import Knowledge, ModelKnowledge

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
    @ivar pace: the door stays open, for longer than C{max_wait_secs} if need
        be, while the awake model answers requests this many times as fast as
        they were answered lately, switches and all.
    @ivar initial_switch_cost_secs: what a switch is taken to cost in seconds,
        until one has been seen.
    """

    quantum: float = 1.5
    max_wait_secs: float = 120.0
    stretch: float = 1.5
    cap: float = 4.0
    floor: float = 1.0
    linger: float = 1.0
    pace: float = 1.2
    initial_switch_cost_secs: float = 10.0

    def __post_init__(self) -> None:
        """
        @raise ValueError: a value is out of range; the message names the key.
        """
        for key in self.__struct_fields__:
            value = getattr(self, key)
            least = 1.0 if key == "cap" else 0.0
            if not least <= value < float("inf"):
                raise ValueError(f"{key} must be {least:g} or more, not {value:g}")


@implementer(ISwitchPolicy)
class CostAwarePolicy:
    """
    Stays at a model for as long as that costs those who wait for others less
    than leaving it would cost its own clients.

    The model that has just woken is left alone for a while (its quantum).
    Then its door begins to close: a request for it still goes in if the delay
    that it inflicts on all who wait for others is less than the wait that it is
    spared, or if the model has so much to do that it serves faster than the
    GPU does on the whole.  A model with nothing left to do is left at once,
    unless its clients have a habit of coming back soon.  Where to: to the
    model whose waiters have waited longest in sum, per second that it takes
    to serve them; or to the one that is starving.
    """

    def __init__(self, context: PolicyContext, settings: CostAwareSettings) -> None:
        self._settings = settings
        self._timeout = context.request_timeout
        self._drains = context.drain_before_switch
        self._knowledge = Knowledge(context.weights, settings.initial_switch_cost_secs)
        self._models = self._knowledge.models
        # Each request brings three events: spare them a call.
        self._learn = self._knowledge.learn
        self.observed = frozenset(self._learn)

    def observe(self, event: PolicyEvent) -> None:
        """Learn from it."""
        self._learn[type(event)](event)

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
        context: IScheduleContext,
        wanted: Sequence[str],
        awake: str,
        target: str,
        drain: float,
    ) -> PolicyDecision:
        """Leave it alone until its quantum is over, or somebody starves."""
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
        self, context: IScheduleContext, wanted: Sequence[str], awake: str, target: str
    ) -> PolicyDecision:
        """
        Linger if its clients tend to be back sooner than the others would miss the time.

        How soon: within the upper quartile of the gaps so far.  To go by their median made
        no difference to agents, but longer waits in light traffic.
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
        until = min(
            since + 1.25 * gap + 0.25,
            min(self._starves_at(context, name, 0.0) for name in wanted),
        )
        if context.now + TICK < until:
            return PolicyDecision.stay(until)
        return PolicyDecision.switch(target)

    def admit(self, context: IScheduleContext, request: WaitingRequest) -> bool:
        """
        Through the closing door if the delay that it inflicts on the others is
        less than the wait that it is spared, or while the model serves faster
        than all are served on the whole.
        """
        wanted = context.wanted()
        if not wanted:
            return True
        if context.waiting(request.model):
            # Nobody overtakes those whom the door was closed on.
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
        self, context: IScheduleContext, wanted: Sequence[str], model: ModelKnowledge
    ) -> bool:
        """
        Charnov's marginal value theorem (1976), which says when to leave a patch: when
        it yields less than going from patch to patch does on the whole.  What a model
        yields is what it has in flight over the time that each takes (Little's law).
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

    def _toll(self, context: IScheduleContext, wanted: Sequence[str], absence: float) -> float:
        """What one second more costs all who wait for others, in weighted seconds."""
        toll = 0.0
        scale = absence**-2 if absence else 0.0
        for name in wanted:
            model = self._models[name]
            squares = context.sum_of_squared_ages(name) + model.ghosts.squares
            count = context.waiting(name) + model.ghosts.count
            toll += model.weight * (count + squares * scale)
        return toll

    # ------------------------------------------------------------- choosing

    def _pick(self, context: IScheduleContext, wanted: Sequence[str], drain: float) -> str:
        """The longest demand if it starves, else the largest index of waiting per work."""
        oldest = min(wanted, key=lambda name: self._demand_since(context, name))
        if self._starves_at(context, oldest, drain) <= context.now + TICK:
            return oldest
        return max(wanted, key=lambda name: self._index(context, name))

    def _index(self, context: IScheduleContext, name: str) -> float:
        """
        Waiting work over set-up and service (Duenyas and Van Oyen, 1996): the
        ages of its waiters, over the time until half of them will have been served.
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

    def _demand_since(self, context: IScheduleContext, name: str) -> float:
        since = self._models[name].demand_since
        return context.oldest(name) if since is None else since

    def _starves_at(
        self, context: IScheduleContext, name: str, drain: float, *, at_most: bool = False
    ) -> float:
        """
        When the model's demand reaches the limit on its age.

        @param at_most: the limit under the worst overload, and not today's.
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
        stretched = settings.stretch * self._knowledge.longest_first_wait
        return min(max(stretched, settings.max_wait_secs), most)

    # ----------------------------------------------------------- estimating

    def _absence(
        self,
        context: IScheduleContext,
        wanted: Sequence[str],
        awake: str,
        target: str,
        drain: float,
    ) -> float:
        """
        How long the awake model is away if it goes now: its drain, one request
        of each model that is waited for, and the switches between them.
        """
        seconds = drain
        previous = awake
        for name in _round(wanted, target):
            seconds += self._cost(context, previous, name) + self._models[name].service.mean
            previous = name
        return seconds + self._cost(context, previous, awake)

    def _drain(self, context: IScheduleContext) -> float:
        """Seconds until the awake model would have nothing in flight."""
        awake = context.awake
        if awake is None or not self._drains:
            return 0.0
        model = self._models[awake]
        return model.in_flight.drain(context.now, model.service)

    def _cost(self, context: IScheduleContext, source: str | None, target: str) -> float:
        known = context.switch_cost(source, target)
        return self._knowledge.costs.guess(target) if known is None else known

    def estimates(self) -> Iterable[Estimate]:
        """The limit on a demand's age, and what is known of each model."""
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
        return CostAwarePolicy(context, CostAwareSettings() if settings is None else settings)
