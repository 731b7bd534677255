"""
Clients that hold up a switch by reading nothing.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

if TYPE_CHECKING:
    from llmux.proxy.relay import Relay

__all__ = ["Stalls", "in_socket"]

_LOOKS = 8
"""How often to look within the time limit."""


class Stalls:
    """
    Ends exchanges whose client has taken no byte for C{timeout} seconds,
    while other requests wait for the model to be drained.

    There is a timer only while some client is blocked.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, timeout: float, others_wait: Callable[[str], bool]
    ) -> None:
        self._clock = clock
        self._timeout = timeout
        self._others_wait = others_wait
        # What each had yet to take when that last changed, and when that was.
        self._watched: dict[Relay, tuple[int, float]] = {}
        self._timer: IDelayedCall | None = None

    def watch(self, relay: Relay) -> None:
        """Its client is blocked."""
        self._watched[relay] = (relay.unsent(), self._clock.seconds())
        if self._timer is None:
            self._look_later()

    def unwatch(self, relay: Relay) -> None:
        """Its client is not blocked any more, or the exchange is over."""
        self._watched.pop(relay, None)
        if not self._watched and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        self._timer = self._clock.callLater(self._timeout / _LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for relay, (before, since) in list(self._watched.items()):
            unsent = relay.unsent()
            if unsent != before:
                self._watched[relay] = (unsent, now)
            elif now - since >= self._timeout and self._others_wait(relay.turn.model):
                self._log.warn(
                    "a client of {model} has taken nothing for {seconds:.0f} s while others "
                    "wait: its request is aborted",
                    event="client_stalled",
                    model=relay.turn.model,
                    seconds=now - since,
                )
                relay.aborted("its client had stopped reading")
        if self._watched and self._timer is None:
            self._look_later()


def in_socket(transport: object) -> int:
    """
    How many bytes the kernel holds that the peer has not acknowledged; 0
    where that cannot be known.
    """
    try:
        fileno: Callable[[], int] = transport.fileno  # type: ignore[attr-defined] # asked of whatever transport there is
        answer = fcntl.ioctl(fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (AttributeError, OSError):
        return 0
    count: int = struct.unpack("i", answer)[0]
    return count
