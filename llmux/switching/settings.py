"""What the owner of the machine wants of the switcher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmux.scheduling import ONE_SLOT, Needs

__all__ = ["ModelSettings", "SwitchSettings"]


@dataclass(frozen=True, slots=True)
class SwitchSettings:
    """
    Times are in seconds; None means no limit.

    @ivar request_timeout: how long a request may wait for its model.
    @ivar drain_before_switch: let what is in flight finish first.
    @ivar min_active: how long a model stays awake at least.
    @ivar drain_timeout: how long a drain may take.
    @ivar shutdown_timeout: how long what is in flight has to finish when
        llmux stops; putting the awake models to sleep may take as long again.
    @ivar sleep_on_exit: put the awake models to sleep when llmux stops.
    @ivar abandon_wake: after how long a wake is called off that nobody waits
        for any more, while others wait for its room; None never.
    @ivar look_after_sleep: how long after a successful sleep hook C{alive} is
        asked whether the model really sleeps; a yes is logged and counted.
        None never asks.
    """

    request_timeout: float | None = None
    drain_before_switch: bool = True
    min_active: float = 0.0
    drain_timeout: float | None = None
    shutdown_timeout: float = 30.0
    sleep_on_exit: bool = False
    abandon_wake: float | None = 30.0
    look_after_sleep: float | None = None


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """
    What is particular to one model.

    @ivar wake_timeout: seconds within which the wake hook and the C{alive}
        that follows must both have succeeded.
    @ivar sleep_timeout: seconds within which C{alive} must say no after a
        successful sleep hook, with C{confirm_sleep}.
    @ivar confirm_sleep: the model counts as asleep when C{alive} says no, and
        not already when its sleep hook has succeeded.
    @ivar check: seconds between two questions to C{alive} while the model is
        awake; None asks only when there is a reason.
    @ivar polls: seconds from one question to C{alive} to the next while the
        model wakes: the first pause, and the longest, to which pauses grow.
    @ivar prepares: the model has a C{prepare} hook.
    @ivar places: what the model needs of the machine while it may be awake: in
        each of the places where it can be.  At least one.
    @ivar always: the model is woken at start and again when it dies, and makes
        room for nobody.  Such a model has one place.
    @ivar idle_sleep: after this long without a request the model is put to sleep;
        None never.
    """

    wake_timeout: float
    sleep_timeout: float = 300.0
    confirm_sleep: bool = False
    check: float | None = None
    polls: tuple[float, float] = (0.1, 1.0)
    prepares: bool = False
    places: Sequence[Needs] = (ONE_SLOT,)
    always: bool = False
    idle_sleep: float | None = None
