"""
What can be said of a switcher at one moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmux.interfaces import Phase
from llmux.switching.model import Model
from llmux.switching.transition import Transition

__all__ = ["ModelStatus", "SwitchStatus", "status_of_models", "status_of_switches"]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """
    What can be said of one model now.

    @ivar phase: where in its life it is.
    @ivar since: when it came to this phase, on the switcher's clock.
    @ivar waiters: how many requests wait for it.
    @ivar in_flight: how many requests its backend has.
    @ivar place: the number of the place where it is, from 0; None if it is asleep,
        or nobody knows.
    @ivar oldest: when the first of the waiters arrived; None if nobody waits.
    """

    phase: Phase
    since: float
    waiters: int
    in_flight: int
    place: int | None = None
    oldest: float | None = None


@dataclass(frozen=True, slots=True)
class SwitchStatus:
    """
    What can be said of a switch that is under way.

    @ivar target: the name of the model that is to wake.
    @ivar victims: the names of the models that make room.
    @ivar phase: DRAINING, SLEEPING or WAKING.
    @ivar place: the number of the place, from 0, in which the target is to wake.
    @ivar since: when the switch began, on the switcher's clock.
    """

    target: str
    victims: Sequence[str]
    phase: Phase
    place: int
    since: float


def status_of_models(models: Mapping[str, Model]) -> Mapping[str, ModelStatus]:
    """Say what can be said of each model now."""
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
    """Say what can be said of the switches that are under way."""
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
