"""
This module has the events of a switcher, which are told to the policy and to observers.

Times are seconds on the clock of the switcher (an L{IReactorTime}): only the differences
between them have a meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from msgspec import Struct

__all__ = [
    "Arrived",
    "Completed",
    "Failed",
    "Forwarded",
    "HookKind",
    "Left",
    "LeftReason",
    "Observer",
    "PolicyEvent",
    "Slept",
    "Woke",
]


class HookKind(Enum):
    """
    A hook is of one of these kinds.

    A C{prepare} hook runs beside a switch, from the choice of its model as the target until the
    model is awake or the switch has another end.  Nothing depends on its result.
    """

    WAKE = "wake"
    SLEEP = "sleep"
    ALIVE = "alive"
    PREPARE = "prepare"


class LeftReason(Enum):
    """A waiter left without a guard for one of these reasons."""

    DISCONNECTED = "disconnected"
    """The client closed the connection."""
    TIMEOUT = "timeout"
    """The request waited for longer than C{request_timeout_secs}."""
    FAILED = "failed"
    """The request was refused, because a hook failed, or because llmux stops."""


class Arrived(Struct, frozen=True):
    """
    A request for C{model} has to wait, or asks to be admitted to a drain.

    @ivar request: the request's number, which no later request has.
    """

    now: float
    model: str
    request: int


class Forwarded(Struct, frozen=True):
    """
    A request has been given a guard, and goes to its backend now.

    @ivar waited: seconds since the request arrived.  A request that found its
        model awake has 0.0, and no L{Arrived} came before.
    """

    now: float
    model: str
    request: int
    waited: float


class Completed(Struct, frozen=True):
    """
    A request's exchange with its backend is over.

    @ivar service: seconds since the request was forwarded.
    @ivar answered: True if the whole reply arrived; False if the exchange was
        cut short.
    """

    now: float
    model: str
    request: int
    service: float
    answered: bool


class Left(Struct, frozen=True):
    """
    A waiter left without a guard.

    @ivar age: seconds since the request arrived.
    """

    now: float
    model: str
    request: int
    reason: LeftReason
    age: float


class Woke(Struct, frozen=True):
    """
    C{model} is awake.

    @ivar place: the number, from 0, of the place in which the model is; None if that is not
        known.
    @ivar victims: the models that were put to sleep for this one.
    @ivar cost: seconds of the model's own wake hook and C{alive} together.  None if
        llmux found the model awake when it started, which cost nothing.
    """

    now: float
    model: str
    place: int | None
    victims: tuple[str, ...]
    cost: float | None


class Slept(Struct, frozen=True):
    """
    C{model} is asleep.

    @ivar cost: seconds of the model's own sleep hook.  None if the model was not put
        to sleep from serving, but cleaned up.
    """

    now: float
    model: str
    cost: float | None


class Failed(Struct, frozen=True):
    """
    C{model} failed, and will not be woken before C{retry_at}.

    @ivar hook: the hook that failed; None if the backend failed.
    @ivar retry_at: the time at which the model's back-off ends.
    """

    now: float
    model: str
    hook: HookKind | None
    retry_at: float


PolicyEvent = Arrived | Forwarded | Completed | Left | Woke | Slept | Failed

Observer = Callable[[PolicyEvent], None]
"""A function that is called with each event, after the policy was shown the event."""
