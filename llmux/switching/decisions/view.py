"""This module has what a policy sees when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from zope.interface import implementer

from llmux.interfaces import Amount, IScheduleView, Needs, Phase, SwitchView
from llmux.switching.facts.capacity import Capacity
from llmux.switching.facts.model import INFINITY, Model
from llmux.switching.stories.transition import Transition

__all__ = ["ScheduleView"]


@implementer(IScheduleView)
class ScheduleView:
    """
    A L{ScheduleView} is the policy's view of the switcher, which is brought up to date before
    each question.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        wanted: Mapping[str, Model],
        capacity: Capacity,
        transitions: Sequence[Transition],
        min_active: float,
        is_pinned: Callable[[str], bool],
    ) -> None:
        """
        @param wanted: the models that requests wait for; this mapping is changed elsewhere.
        @param transitions: the switches under way; this sequence is changed elsewhere.
        @param is_pinned: a function that tells whether a command keeps a model awake.
        """
        self._models = models
        self._wanted = wanted
        self._capacity = capacity
        self._transitions = transitions
        self.min_active = min_active
        self._is_pinned = is_pinned
        self.now = 0.0
        self.switches: Sequence[SwitchView] = ()

    def look(self, now: float) -> None:
        """Bring the view up to date."""
        self.now = now
        self.switches = [transition.seen() for transition in self._transitions]

    def places(self, model: str) -> Sequence[Needs]:
        """See L{IScheduleView.places}."""
        return self._models[model].settings.places

    def phase(self, model: str) -> Phase:
        """See L{IScheduleView.phase}."""
        return self._models[model].phase

    def holders(self) -> Sequence[str]:
        """See L{IScheduleView.holders}."""
        return list(self._capacity.holders())

    def held(self, model: str) -> Needs:
        """See L{IScheduleView.held}."""
        return self._capacity.held(model)

    def place(self, model: str) -> int | None:
        """See L{IScheduleView.place}."""
        return self._models[model].place

    def free(self, resource: str) -> Amount:
        """See L{IScheduleView.free}."""
        return self._capacity.free(resource)

    def awake_since(self, model: str) -> float:
        """See L{IScheduleView.awake_since}."""
        return self._models[model].woke_at

    def in_flight(self, model: str) -> int:
        """See L{IScheduleView.in_flight}."""
        return len(self._models[model].guards)

    def may_sleep_from(self, model: str) -> float:
        """See L{IScheduleView.may_sleep_from}."""
        if self._is_pinned(model):
            return INFINITY
        return self._models[model].may_sleep_from(self.min_active)

    def wanted(self) -> Sequence[str]:
        """See L{IScheduleView.wanted}."""
        now = self.now
        return [
            name
            for name, model in self._wanted.items()
            if model.phase is Phase.ASLEEP
            and not (model.busy or model.settings.always)
            and model.wake_backoff.until <= now
        ]

    def next_time(self) -> float:
        """
        Return the next time at which more may be possible, even if nothing happens until then.
        """
        now = self.now
        times = [model.wake_backoff.until for model in self._wanted.values()]
        for name in self._capacity.holders():
            model = self._models[name]
            if model.phase is Phase.AWAKE:
                times.append(self.may_sleep_from(name))
        return min((time for time in times if time > now), default=INFINITY)

    def waiting(self, model: str) -> int:
        """See L{IScheduleView.waiting}."""
        return self._models[model].waiting

    def oldest(self, model: str) -> float:
        """See L{IScheduleView.oldest}."""
        return self._models[model].oldest()

    def sum_of_ages(self, model: str) -> float:
        """See L{IScheduleView.sum_of_ages}."""
        return self._models[model].sum_of_ages(self.now)

    def sum_of_squared_ages(self, model: str) -> float:
        """See L{IScheduleView.sum_of_squared_ages}."""
        return self._models[model].sum_of_squared_ages(self.now)
