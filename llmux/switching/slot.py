"""
The state machine of the GPU's one slot: which step of its life the model in it
is at, and what each thing that can happen leads to.

The table below is the whole of it.  The machine holds no data and does
nothing itself: each row names what its core does next.  A pair that has no
row cannot happen; L{automat.NoTransition} says so if it does.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from automat import TypeMachineBuilder

__all__ = ["TABLE", "Slot", "SlotCore", "SlotState", "make_slot"]


class SlotState(Enum):
    """Where the slot is."""

    NEW = "new"
    """Nobody has asked what is awake."""
    ADOPTING = "adopting"
    """Every model is asked whether it is awake."""
    IDLE = "idle"
    """Nothing is awake."""
    AWAKE = "awake"
    """One model serves."""
    DRAINING = "draining"
    """It finishes what it has; then it goes to sleep for another."""
    SLEEPING = "sleeping"
    """Its sleep hook runs."""
    WAKING = "waking"
    """The target's wake hook runs, or it is asked whether it is up."""
    CLEANING = "cleaning"
    """Models that may or may not be awake are being put to sleep."""
    BLOCKED = "blocked"
    """That failed: something may be awake, nothing may be woken until a later try."""
    SUSPECT = "suspect"
    """The awake model's backend did not answer: it is asked whether it is alive."""
    CLOSING = "closing"
    """llmux stops: what is in flight finishes."""
    LAST_SLEEP = "last sleep"
    """llmux stops, and a sleep hook runs."""
    LAST_WAKE = "last wake"
    """llmux stops, and waits for a wake hook to die."""
    LAST_CLEANING = "last cleaning"
    """llmux stops, and puts to sleep what may be awake."""
    LAST_DOUBT = "last doubt"
    """llmux stops, and waits for an alive hook's word."""
    STOPPED = "stopped"
    """The end."""


class Slot(Protocol):
    """What can happen."""

    def start(self) -> None:
        """Find out what is awake."""

    def adopted(self) -> None:
        """One model is awake already."""

    def found_none(self) -> None:
        """No model is awake."""

    def found_strays(self) -> None:
        """Models are awake that must not be, or may be."""

    def switch(self) -> None:
        """The policy wants another model."""

    def reopen(self) -> None:
        """The switch is called off."""

    def drained(self) -> None:
        """Nothing is in flight any more, or it need not finish."""

    def slept(self) -> None:
        """The model is asleep."""

    def not_slept(self) -> None:
        """It is not, or nobody knows."""

    def woke(self) -> None:
        """The target is awake."""

    def not_woken(self) -> None:
        """It is not."""

    def cleaned(self) -> None:
        """All that had to be put to sleep is asleep."""

    def not_cleaned(self) -> None:
        """Something is not, or nobody knows."""

    def retry(self) -> None:
        """Time to try to clean again."""

    def suspect(self) -> None:
        """A backend refused, or closed before it answered."""

    def cleared(self) -> None:
        """It is alive."""

    def condemned(self) -> None:
        """It is not, or does not say."""

    def stop(self) -> None:
        """llmux is told to stop."""

    def closed(self) -> None:
        """Nothing is in flight, and the awake model stays awake."""

    def closed_to_sleep(self) -> None:
        """Nothing is in flight, and the awake model is to be put to sleep."""


class SlotCore(Protocol):
    """What is done about it."""

    state: SlotState

    def ask_all(self) -> None:
        """Ask every model whether it is awake."""

    def settle_awake(self) -> None:
        """A model serves: give its waiters their guards."""

    def settle_idle(self) -> None:
        """Nothing is awake: ask the policy."""

    def begin_drain(self) -> None:
        """No more guards for the awake model."""

    def resume(self) -> None:
        """The awake model, which drained, serves on."""

    def begin_sleep(self) -> None:
        """Run the awake model's sleep hook."""

    def keep_awake(self) -> None:
        """The switch failed, the awake model serves on."""

    def begin_wake(self) -> None:
        """Run the target's wake hook."""

    def give_up_wake(self) -> None:
        """The switch failed: put the target to sleep, whatever it did."""

    def begin_cleaning(self) -> None:
        """Put to sleep what must be."""

    def wait_to_clean(self) -> None:
        """Try again after a back-off."""

    def ask_suspect(self) -> None:
        """Ask the awake model whether it is alive."""

    def acquit(self) -> None:
        """It is: it serves on."""

    def condemn(self) -> None:
        """It is not: cut off what it had, and put it to sleep."""

    def begin_close(self) -> None:
        """Wait for what is in flight."""

    def kill_hooks(self) -> None:
        """End the hooks that run."""

    def finish(self) -> None:
        """Nothing is left to do."""

    def carry_on(self) -> None:
        """Nothing to do yet."""


_S, _I, _C = SlotState, Slot, SlotCore

TABLE: tuple[tuple[SlotState, Any, SlotState, Callable[[Any], None]], ...] = (
    (_S.NEW, _I.start, _S.ADOPTING, _C.ask_all),
    (_S.NEW, _I.stop, _S.STOPPED, _C.finish),
    (_S.ADOPTING, _I.found_none, _S.IDLE, _C.settle_idle),
    (_S.ADOPTING, _I.adopted, _S.AWAKE, _C.settle_awake),
    (_S.ADOPTING, _I.found_strays, _S.CLEANING, _C.begin_cleaning),
    (_S.ADOPTING, _I.stop, _S.LAST_DOUBT, _C.kill_hooks),
    (_S.IDLE, _I.switch, _S.WAKING, _C.begin_wake),
    (_S.IDLE, _I.stop, _S.CLOSING, _C.begin_close),
    (_S.AWAKE, _I.switch, _S.DRAINING, _C.begin_drain),
    (_S.AWAKE, _I.suspect, _S.SUSPECT, _C.ask_suspect),
    (_S.AWAKE, _I.stop, _S.CLOSING, _C.begin_close),
    (_S.DRAINING, _I.reopen, _S.AWAKE, _C.resume),
    (_S.DRAINING, _I.drained, _S.SLEEPING, _C.begin_sleep),
    (_S.DRAINING, _I.stop, _S.CLOSING, _C.begin_close),
    (_S.SLEEPING, _I.slept, _S.WAKING, _C.begin_wake),
    (_S.SLEEPING, _I.not_slept, _S.AWAKE, _C.keep_awake),
    (_S.SLEEPING, _I.stop, _S.LAST_SLEEP, _C.carry_on),
    (_S.WAKING, _I.woke, _S.AWAKE, _C.settle_awake),
    (_S.WAKING, _I.not_woken, _S.CLEANING, _C.give_up_wake),
    (_S.WAKING, _I.stop, _S.LAST_WAKE, _C.kill_hooks),
    (_S.CLEANING, _I.cleaned, _S.IDLE, _C.settle_idle),
    (_S.CLEANING, _I.adopted, _S.AWAKE, _C.settle_awake),
    (_S.CLEANING, _I.not_cleaned, _S.BLOCKED, _C.wait_to_clean),
    (_S.CLEANING, _I.stop, _S.LAST_CLEANING, _C.carry_on),
    (_S.BLOCKED, _I.retry, _S.CLEANING, _C.begin_cleaning),
    (_S.BLOCKED, _I.stop, _S.LAST_CLEANING, _C.begin_cleaning),
    (_S.SUSPECT, _I.cleared, _S.AWAKE, _C.acquit),
    (_S.SUSPECT, _I.condemned, _S.CLEANING, _C.condemn),
    (_S.SUSPECT, _I.stop, _S.LAST_DOUBT, _C.carry_on),
    (_S.CLOSING, _I.closed, _S.STOPPED, _C.finish),
    (_S.CLOSING, _I.closed_to_sleep, _S.LAST_SLEEP, _C.begin_sleep),
    (_S.LAST_SLEEP, _I.slept, _S.CLOSING, _C.begin_close),
    (_S.LAST_SLEEP, _I.not_slept, _S.STOPPED, _C.finish),
    (_S.LAST_WAKE, _I.woke, _S.LAST_CLEANING, _C.begin_cleaning),
    (_S.LAST_WAKE, _I.not_woken, _S.LAST_CLEANING, _C.begin_cleaning),
    (_S.LAST_CLEANING, _I.cleaned, _S.CLOSING, _C.begin_close),
    (_S.LAST_CLEANING, _I.adopted, _S.CLOSING, _C.begin_close),
    (_S.LAST_CLEANING, _I.not_cleaned, _S.STOPPED, _C.finish),
    (_S.LAST_DOUBT, _I.cleared, _S.CLOSING, _C.begin_close),
    (_S.LAST_DOUBT, _I.condemned, _S.LAST_CLEANING, _C.condemn),
    (_S.LAST_DOUBT, _I.found_none, _S.STOPPED, _C.finish),
    (_S.LAST_DOUBT, _I.adopted, _S.STOPPED, _C.finish),
    (_S.LAST_DOUBT, _I.found_strays, _S.STOPPED, _C.finish),
    (_S.STOPPED, _I.stop, _S.STOPPED, _C.carry_on),
)
"""Rows of (state, input, next state, what the core does once it is there)."""


def _build() -> Callable[[SlotCore], Slot]:
    builder = TypeMachineBuilder(Slot, SlotCore)  # type: ignore[type-abstract]  # as Automat wants
    states = {state: builder.state(state.value) for state in SlotState}

    def output(new: SlotState, act: Callable[[Any], None]) -> Callable[..., None]:
        def arrive(slot: Slot, core: SlotCore) -> None:
            core.state = new
            getattr(core, act.__name__)()

        return arrive

    for state, input_, new, act in TABLE:
        states[state].upon(input_).to(states[new])(output(new, act))
    return builder.build()


make_slot = _build()
"""Make a slot, in state NEW, for a core."""
