"""This module describes a switcher at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from llmux.interfaces import Phase
from llmux.switching.facts.model import Model
from llmux.switching.stories.transition import Transition

__all__ = ["ModelStatus", "SwitchStatus", "status_of_models", "status_of_switches"]


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
