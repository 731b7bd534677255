"""This module has what the owner of the machine asks of the switcher."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llmux.scheduling import ONE_SLOT, Needs

__all__ = ["ModelSettings", "SwitchSettings"]


class SwitchSettings(Struct, frozen=True):
    """
    L{SwitchSettings} hold for all models.

    @ivar request_timeout: how long a request may wait for its model.
    @ivar drain_before_switch: whether requests in flight finish before a switch.
    @ivar min_active: how long a model stays awake at least.
    @ivar drain_timeout: how long a drain may take.
    @ivar shutdown_timeout: how long requests in flight have to finish when llmux stops; putting
        the awake models to sleep may take as long again.
    @ivar sleep_on_exit: whether the awake models are put to sleep when llmux stops.
    @ivar abandon_wake: after how long a wake is called off if no request waits for it any more,
        while others wait for its room; None for never.
    @ivar look_after_sleep: how long after a successful sleep hook C{alive} is asked whether the
        model really sleeps; a yes is logged and counted.  None for never.
    """

    request_timeout: float | None = None
    drain_before_switch: bool = True
    min_active: float = 0.0
    drain_timeout: float | None = None
    shutdown_timeout: float = 30.0
    sleep_on_exit: bool = False
    abandon_wake: float | None = 30.0
    look_after_sleep: float | None = None


class ModelSettings(Struct, frozen=True):
    """
    L{ModelSettings} hold for one model.

    @ivar wake_timeout: seconds within which the wake hook and the C{alive}
        that follows must both have succeeded.
    @ivar sleep_timeout: seconds within which C{alive} must say no after a
        successful sleep hook, with C{confirm_sleep}.
    @ivar confirm_sleep: whether the model counts as asleep only when C{alive} says no, and not
        as soon as its sleep hook has succeeded.
    @ivar check: seconds between two questions to C{alive} while the model is awake; None to ask
        only after errors.
    @ivar polls: seconds from one question to C{alive} to the next while the
        model wakes: the first pause, and the longest, to which pauses grow.
    @ivar prepares: whether the model has a C{prepare} hook.
    @ivar places: what the model needs of the machine while it may be awake, in each of the
        places where it can be; there is at least one place.
    @ivar always: whether the model is woken at start and again when its backend dies, and is
        never put to sleep for another.  Such a model has one place.
    @ivar idle_sleep: after how many seconds without a request the model is put to sleep; None
        for never.
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
