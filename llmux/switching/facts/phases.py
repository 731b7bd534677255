"""
This module has the life of one model: the phases that a model can be in, and the events that
lead from each phase to the next.

The table below has all transitions.  A model in any phase but ASLEEP holds what it needs of the
machine, because it may be using it.  A pair of phase and event without a row in the table
cannot happen; if it does, L{step} raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from llmux.scheduling import Phase

__all__ = ["COUNTS_AS_AWAKE", "TABLE", "Event", "ImpossibleEvent", "Phase", "step"]

COUNTS_AS_AWAKE = frozenset({Phase.AWAKE, Phase.DRAINING, Phase.SLEEPING, Phase.CHECKING})
"""A model in one of these phases counts as awake for metrics, and for a new policy."""


class Event(Enum):
    """An event is what can happen to a model."""

    FOUND_AWAKE = "found awake"
    """At start, C{alive} says yes, and there is room for the model."""
    FOUND_ASLEEP = "found asleep"
    """At start, C{alive} says no."""
    FOUND_UNSURE = "found unsure"
    """At start, C{alive} gives no answer, or more models are awake than fit."""
    CHOSEN = "chosen"
    """The policy has chosen this model, and there is room for it."""
    WOKE = "woke"
    """The wake hook succeeded, and then C{alive} said yes."""
    NOT_WOKEN = "not woken"
    """The wake failed, or was called off."""
    EVICTED = "evicted"
    """The model has to make room for another."""
    REOPENED = "reopened"
    """The switch is called off before a sleep hook has begun."""
    DRAINED = "drained"
    """Nothing is in flight any more, or the requests in flight need not finish."""
    SLEPT = "slept"
    """The model is asleep."""
    NOT_SLEPT = "not slept"
    """The sleep hook failed, and C{alive} says yes."""
    NOT_SURE_SLEPT = "not sure slept"
    """The sleep hook failed, and C{alive} gives no answer."""
    DOUBTED = "doubted"
    """The backend refused a connection, or closed one before it replied."""
    ALIVE = "alive"
    """C{alive} says yes."""
    DEAD = "dead"
    """C{alive} says no, or has given no answer for too long."""
    CLEANED = "cleaned"
    """A model that may have been awake is asleep."""
    BROKEN = "broken"
    """A defect of llmux has ended what moved the model in the middle of a move."""


TABLE: Mapping[tuple[Phase, Event], Phase] = {
    (Phase.UNKNOWN, Event.FOUND_AWAKE): Phase.AWAKE,
    (Phase.UNKNOWN, Event.FOUND_ASLEEP): Phase.ASLEEP,
    (Phase.UNKNOWN, Event.FOUND_UNSURE): Phase.UNCERTAIN,
    (Phase.ASLEEP, Event.CHOSEN): Phase.WAKING,
    (Phase.WAKING, Event.WOKE): Phase.AWAKE,
    (Phase.WAKING, Event.NOT_WOKEN): Phase.UNCERTAIN,
    (Phase.AWAKE, Event.EVICTED): Phase.DRAINING,
    (Phase.AWAKE, Event.DOUBTED): Phase.CHECKING,
    (Phase.DRAINING, Event.REOPENED): Phase.AWAKE,
    (Phase.DRAINING, Event.DRAINED): Phase.SLEEPING,
    (Phase.SLEEPING, Event.SLEPT): Phase.ASLEEP,
    (Phase.SLEEPING, Event.NOT_SLEPT): Phase.AWAKE,
    (Phase.SLEEPING, Event.NOT_SURE_SLEPT): Phase.CHECKING,
    (Phase.CHECKING, Event.ALIVE): Phase.AWAKE,
    (Phase.CHECKING, Event.DEAD): Phase.UNCERTAIN,
    (Phase.UNCERTAIN, Event.CLEANED): Phase.ASLEEP,
    (Phase.UNKNOWN, Event.BROKEN): Phase.UNCERTAIN,
    (Phase.WAKING, Event.BROKEN): Phase.UNCERTAIN,
    (Phase.DRAINING, Event.BROKEN): Phase.UNCERTAIN,
    (Phase.SLEEPING, Event.BROKEN): Phase.UNCERTAIN,
    (Phase.CHECKING, Event.BROKEN): Phase.UNCERTAIN,
}
"""Each (phase, event) that can happen leads to the phase that is given here."""


class ImpossibleEvent(RuntimeError):
    """An event has reached a model in a phase in which that event cannot happen."""


def step(phase: Phase, event: Event) -> Phase:
    """
    Return the phase that follows.

    @raise ImpossibleEvent: the table has no such row, which is a defect of llmux.
    """
    try:
        return TABLE[phase, event]
    except KeyError:
        raise ImpossibleEvent(f"{event.value} in phase {phase.value}") from None
