"""This module has what the policy C{cost_aware} expects at the time of one question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from llmux.interfaces import IScheduleView, PolicyContext
from llmux.policy.knowledge import Knowledge
from llmux.policy.parameters import TICK, CostAwareSettings

__all__ = ["Outlook"]


class Outlook:
    """
    An L{Outlook} is what is seen at the time of one question, together with what has been
    learnt.

    @ivar now: the time of the question.
    @ivar wanted: the models that C{view.wanted()} returns.
    @ivar turns: how many models take turns: the models that hold something and may be
        put to sleep; 1 if there are none.
    """

    __slots__ = (
        "_drains",
        "_limit",
        "_sleep_ahead",
        "_timeout",
        "knowledge",
        "models",
        "now",
        "settings",
        "turns",
        "view",
        "wanted",
    )

    def __init__(
        self,
        view: IScheduleView,
        knowledge: Knowledge,
        settings: CostAwareSettings,
        context: PolicyContext,
    ) -> None:
        self.view = view
        self.knowledge = knowledge
        self.models = knowledge.models
        self.settings = settings
        self.now: float = view.now
        self.wanted: Sequence[str] = view.wanted()
        self._timeout = context.request_timeout
        self._drains = context.drain_before_switch
        self._limit: float | None = None
        movable = [model for model in view.holders() if view.may_sleep_from(model) < inf]
        self.turns = len(movable) or 1
        self._sleep_ahead = (
            sum(map(knowledge.sleeps.of, movable)) / len(movable) if movable else 0.0
        )

    # ---------------------------------------------------------------- seconds

    def cost(self, source: str, target: str) -> float:
        """Return the time in which C{source} sleeps and C{target} wakes, in seconds."""
        return self.knowledge.sleeps.of(source) + self.knowledge.wakes.of(target)

    def cost_of(self, target: str) -> float:
        """Return the time in which an average model sleeps and C{target} wakes, in seconds."""
        return self._sleep_ahead + self.knowledge.wakes.of(target)

    def drain(self, models: Iterable[str]) -> float:
        """
        Return the expected time until none of the models has anything in flight, in seconds.
        """
        if not self._drains:
            return 0.0
        longest = 0.0
        for name in models:
            model = self.models[name]
            longest = max(longest, model.in_flight.drain(self.now, model.service))
        return longest

    def drain_in_full(self, models: Iterable[str]) -> float:
        """
        Return the expected seconds until none of the models has anything in flight.  What is
        queued inside a backend counts: answers come as fast as lately.
        """
        if not self._drains:
            return 0.0
        longest = 0.0
        for name in models:
            model = self.models[name]
            queue = len(model.in_flight) * (model.interval.seconds or 0.0)
            longest = max(longest, queue, model.in_flight.drain(self.now, model.service))
        return longest

    def absence(self, model: str, target: str, drain: float) -> float:
        """
        Return how many seconds C{model} is not awake if it is left now for C{target}: the
        drain, one request of each wanted model, and the switches between them.  As many models
        as take turns are served at a time.
        """
        sleeps, wakes, models = self.knowledge.sleeps, self.knowledge.wakes, self.models
        seconds = drain + self.cost(model, target) + models[target].service.mean
        others = 0.0
        for name in self.wanted:
            if name != target:
                others += sleeps.of(name) + wakes.of(name) + models[name].service.mean
        return seconds + others / self.turns + self.cost(target, model)

    # --------------------------------------------------------------- urgency

    def weighted_waiters(self, target: str) -> float:
        """
        Return the weighted number of waiters that wait for longer if C{target} does: its own,
        and the part of the other wanted models' that wait for the same turn.
        """
        view, models = self.view, self.models
        others = sum(
            models[name].weight * view.waiting(name) for name in self.wanted if name != target
        )
        return models[target].weight * view.waiting(target) + others / self.turns

    def demand_since(self, name: str) -> float:
        """Return the time at which the model's demand began."""
        since = self.models[name].demand_since
        return self.view.oldest(name) if since is None else since

    def limit(self) -> float:
        """Return the age from which a demand starves, in seconds."""
        if self._limit is None:
            self._limit = limit(self.knowledge, self.settings)
        return self._limit

    def starves_at(self, name: str, *, at_most: bool = False) -> float:
        """
        Return the time at which the model's demand reaches the limit.

        @param at_most: whether to use the limit under the worst overload, in place of the
            present one.
        """
        settings = self.settings
        age = settings.cap * settings.max_wait_secs if at_most else self.limit()
        if self._timeout is not None:
            ahead = self.cost_of(name) + self._drain_ahead(name)
            age = max(0.0, min(age, self._timeout - ahead))
        return self.demand_since(name) + age

    def starves(self, name: str, *, at_most: bool = False) -> bool:
        """Tell whether the model's demand has reached the limit."""
        return self.starves_at(name, at_most=at_most) <= self.now + TICK

    def _drain_ahead(self, name: str) -> float:
        """Return the shortest drain that may come before the model wakes, in seconds."""
        view = self.view
        shortest = inf
        for needs in view.places(name):
            in_the_way = [
                holder
                for holder in view.holders()
                if view.may_sleep_from(holder) < inf
                and any(needs.get(r, 0) for r, amount in view.held(holder).items() if amount)
            ]
            shortest = min(shortest, self.drain(in_the_way))
        return shortest if shortest < inf else 0.0

    def index(self, name: str) -> float:
        """
        Return how urgent a model is: the sum of its waiters' ages, divided by the seconds until
        half of them will have been served (after I. Duenyas and M. P. Van Oyen, "Heuristic
        scheduling of parallel heterogeneous queues with set-ups", 1996).
        """
        model = self.models[name]
        ages = self.view.sum_of_ages(name)
        if model.ghosts.count:
            ages += self.now - self.demand_since(name)
        interval = model.interval.seconds or 0.0
        work = self.cost_of(name) + model.service.mean + self.view.waiting(name) * interval / 2
        return model.weight * ages / work if work else model.weight * ages

    def order(self, names: Iterable[str]) -> list[str]:
        """
        Sort models: first those that starve, by the age of their demands, then the others by
        urgency.
        """
        starving: list[str] = []
        others: list[str] = []
        for name in names:
            (starving if self.starves(name) else others).append(name)
        starving.sort(key=self.demand_since)
        if len(others) > 1:
            others.sort(key=self.index, reverse=True)
        return starving + others


def limit(knowledge: Knowledge, settings: CostAwareSettings) -> float:
    """Return the age from which a demand starves, in seconds."""
    stretched = settings.stretch * knowledge.longest_first_wait()
    most = settings.cap * settings.max_wait_secs
    return min(max(stretched, settings.max_wait_secs), most)
