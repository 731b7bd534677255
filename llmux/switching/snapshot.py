"""This module describes a switcher at one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from llmux.interfaces import Estimate, Phase
from llmux.switching.facts.capacity import Capacity
from llmux.switching.facts.cost import SwitchCostTracker
from llmux.switching.facts.model import Model
from llmux.switching.facts.phases import COUNTS_AS_AWAKE
from llmux.switching.stories.transition import Transition

__all__ = [
    "ModelStatus",
    "Readings",
    "SwitchStatus",
    "status_of_models",
    "status_of_switches",
]


class ModelStatus(Struct, frozen=True):
    """
    A L{ModelStatus} describes one model now.

    @ivar phase: the phase of the model's life.
    @ivar since: when the model came to this phase, in seconds on the switcher's clock.
    @ivar waiters: how many requests wait for the model.
    @ivar in_flight: how many requests are in flight to the model's backend.
    @ivar place: the number of the place where the model is, from 0; None if it is asleep, or if
        that is not known.
    @ivar oldest: when the first of the waiters arrived; None if no request waits.
    """

    phase: Phase
    since: float
    waiters: int
    in_flight: int
    place: int | None = None
    oldest: float | None = None


class SwitchStatus(Struct, frozen=True):
    """
    A L{SwitchStatus} describes a switch that is under way.

    @ivar target: the name of the model that is to wake.
    @ivar victims: the names of the models that make room.
    @ivar phase: DRAINING, SLEEPING or WAKING.
    @ivar place: the number of the place, from 0, in which the target is to wake.
    @ivar since: when the switch began, in seconds on the switcher's clock.
    """

    target: str
    victims: Sequence[str]
    phase: Phase
    place: int
    since: float


def status_of_models(models: Mapping[str, Model]) -> Mapping[str, ModelStatus]:
    """Return the status of each model now."""
    return {
        name: ModelStatus(
            model.phase,
            model.since,
            model.waiting,
            len(model.guards),
            model.place,
            model.oldest() if model.waiting else None,
        )
        for name, model in models.items()
    }


def status_of_switches(transitions: Sequence[Transition]) -> Sequence[SwitchStatus]:
    """Return the status of each switch that is under way."""
    return [
        SwitchStatus(
            transition.target.name,
            [model.name for model in transition.victims],
            transition.phase,
            transition.place,
            transition.began,
        )
        for transition in transitions
    ]


class Readings:
    """
    L{Readings} are what is read from a switcher at each scrape of the metrics: see
    L{SwitcherView<llmux.monitoring.metrics.SwitcherView>}.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        costs: SwitchCostTracker,
        capacity: Capacity,
        estimates: Callable[[], Iterable[Estimate]],
    ) -> None:
        """@param estimates: a function that returns what the policy has learnt."""
        self._models = models
        self._costs = costs
        self._capacity = capacity
        self._estimates = estimates

    def per_model(self) -> Iterable[tuple[str, int, int, bool]]:
        """
        Yield (model, number of waiters, number of requests in flight, whether awake) for each
        model.
        """
        for name, model in self._models.items():
            yield name, model.waiting, len(model.guards), model.phase in COUNTS_AS_AWAKE

    def switch_costs(self) -> Iterable[tuple[str | None, str, float]]:
        """Yield (from, to, seconds) for each switch whose cost is known."""
        return iter(self._costs)

    def resources(self) -> Iterable[tuple[str, float]]:
        """Yield (resource, capacity) for each resource."""
        for name, amount in self._capacity.total.items():
            yield name, float(amount)

    def holdings(self) -> Iterable[tuple[str, str, float]]:
        """Yield (resource, model, amount that the model holds), where the amount is not 0."""
        for model in self._capacity.holders():
            for name, amount in self._capacity.held(model).items():
                yield name, model, float(amount)

    def estimates(self) -> Iterable[Estimate]:
        """Return what the policy has learnt."""
        return self._estimates()
