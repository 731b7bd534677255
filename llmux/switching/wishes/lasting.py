"""This module has the commands that last, pins and the pause, also after a restart of llmux."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import Interface

from llmux.control import Pause, Pin

__all__ = ["ICommandNotes", "LastingCommands"]


class ICommandNotes(Interface):
    """L{ICommandNotes} keep commands that last from one llmux to the next."""

    def load() -> Mapping[str, Any]:
        """
        Return what was kept last; an empty mapping if there is nothing, or nothing that can be
        read.  This method never raises.
        """

    def keep(commands: Mapping[str, Any]) -> None:
        """
        Keep these commands, in place of those that were kept before.  This method never raises.

        @param commands: a mapping of strings, numbers, booleans, None, lists and mappings.
        """


class LastingCommands:
    """
    L{LastingCommands} are the pins and the pause, with the times of their ends.

    @ivar pins: the pins, by the names of their models.
    @ivar pause: the pause; None if switching is not paused.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        notes: ICommandNotes | None = None,
        wall_clock: Callable[[], float] | None = None,
    ) -> None:
        """
        @param notes: what keeps pins and the pause; None if they are forgotten when llmux ends.
        @param wall_clock: a function that returns the time since 1970, in seconds.  Notes use
            this time, since the clock of the switcher begins anew with each llmux.
        """
        self.pins: dict[str, Pin] = {}
        self.pause: Pause | None = None
        self._clock = clock
        self._notes = notes
        self._wall_clock = clock.seconds if wall_clock is None else wall_clock
        self._timers: dict[str | None, IDelayedCall] = {}
        self._pin_over: Callable[[], None] = _nothing
        self._pause_over: Callable[[], None] = _nothing

    def call_when_over(self, pin: Callable[[], None], pause: Callable[[], None]) -> None:
        """Register functions to be called when the time of a pin, or of the pause, is over."""
        self._pin_over = pin
        self._pause_over = pause

    def seconds_left(self, until: float | None) -> float | None:
        """Return how many seconds are left until this time; None if C{until} is None."""
        return None if until is None else max(0.0, until - self._clock.seconds())

    def pin(self, pin: Pin) -> None:
        """Begin a pin, in place of an earlier pin of the same model."""
        self.pins[pin.model] = pin
        self._set_timer(pin.model, pin.until)
        self._keep()

    def unpin(self, model: str) -> bool:
        """End a pin; return False if the model has none."""
        found = self.pins.pop(model, None) is not None
        self._set_timer(model, None)
        if found:
            self._keep()
        return found

    def begin_pause(self, pause: Pause) -> None:
        """Begin a pause, in place of an earlier pause."""
        self.pause = pause
        self._set_timer(None, pause.until)
        self._keep()

    def end_pause(self) -> bool:
        """End the pause; return False if there is none."""
        found, self.pause = self.pause is not None, None
        self._set_timer(None, None)
        if found:
            self._keep()
        return found

    def _set_timer(self, of: str | None, until: float | None) -> None:
        timer = self._timers.pop(of, None)
        if timer is not None and timer.active():
            timer.cancel()
        if until is not None:
            left = max(0.0, until - self._clock.seconds())
            self._timers[of] = self._clock.callLater(left, self._over, of)

    def _over(self, of: str | None) -> None:
        if of is None:
            self._log.info("the pause is over", event="pause_over")
            self.end_pause()
            self._pause_over()
        else:
            self._log.info("the pin of {model} is over", event="pin_over", model=of)
            self.unpin(of)
            self._pin_over()

    def end(self) -> None:
        """Set no more timers.  Pins and the pause are kept for the next llmux."""
        for of in list(self._timers):
            self._set_timer(of, None)

    # ------------------------------------------------------------ over a restart

    def _keep(self) -> None:
        if self._notes is None:
            return
        offset = self._wall_clock() - self._clock.seconds()

        def at(until: float | None) -> float | None:
            return None if until is None else round(until + offset, 3)

        pause = self.pause
        self._notes.keep(
            {
                "pins": [
                    {"model": pin.model, "until": at(pin.until), "refuses": pin.refuses}
                    for pin in self.pins.values()
                ],
                "pause": pause
                and {
                    "until": at(pause.until),
                    "refuses": pause.refuses,
                    "sleeps": pause.sleeps,
                    "by": pause.by,
                },
            }
        )

    def restore(self, models: Collection[str]) -> None:
        """
        Take over the pins and the pause of an earlier llmux, as far as they still last, and log
        them.

        @param models: the configured models; pins of others are forgotten.
        """
        if self._notes is None:
            return
        offset = self._wall_clock() - self._clock.seconds()
        now = self._clock.seconds()
        try:
            kept = self._notes.load()
            for note in kept.get("pins", ()):
                until = None if note["until"] is None else float(note["until"]) - offset
                if note["model"] in models and (until is None or until > now):
                    pin = Pin(str(note["model"]), until, bool(note["refuses"]))
                    self.pins[pin.model] = pin
                    self._set_timer(pin.model, until)
                    self._log.warn(
                        "{model} is pinned, by a command before the restart",
                        event="pinned",
                        model=pin.model,
                    )
            note = kept.get("pause")
            if note:
                until = None if note["until"] is None else float(note["until"]) - offset
                if until is None or until > now:
                    self.pause = Pause(
                        until, bool(note["refuses"]), bool(note["sleeps"]), str(note["by"])
                    )
                    self._set_timer(None, until)
                    self._log.warn(
                        "switching is paused, by a command before the restart", event="paused"
                    )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            self._log.warn(
                "pins and the pause could not be read from the state directory, and are "
                "forgotten: {error}",
                event="commands_forgotten",
                error=error,
            )


def _nothing() -> None:
    pass
