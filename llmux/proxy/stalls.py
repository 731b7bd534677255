"""This module finds clients that delay a switch because they read nothing."""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["BlockedExchange", "Stalls", "bytes_in_socket"]

_LOOKS = 8
"""Clients are looked at this many times within the time limit."""


class BlockedExchange(Protocol):
    """A L{BlockedExchange} waits for its client to take what has come."""

    @property
    def model(self) -> str:
        """Return the model that the client has asked."""

    def unsent(self) -> int:
        """
        Return how many bytes of the reply the client has not taken yet, as far as can be seen.
        """

    def aborted(self, reason: str) -> None:
        """End the exchange now, for this reason."""


class Stalls:
    """
    L{Stalls} end exchanges whose client has taken no byte for C{timeout} seconds, while other
    requests wait for the model to be drained.

    There is a timer only while a client is blocked.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, timeout: float, others_wait: Callable[[str], bool]
    ) -> None:
        """
        @param timeout: the time limit, in seconds.
        @param others_wait: a function that tells whether requests wait for this model to be
            drained.
        """
        self._clock = clock
        self._timeout = timeout
        self._others_wait = others_wait
        # For each client, how many bytes it had not taken yet when that number last changed,
        # and when that was.
        self._watched: dict[BlockedExchange, tuple[int, float]] = {}
        self._timer: IDelayedCall | None = None

    def limit(self, timeout: float) -> None:
        """Set the time for which a client may take no byte from now on, in seconds."""
        self._timeout = timeout

    def watch(self, exchange: BlockedExchange) -> None:
        """Watch an exchange whose client is blocked."""
        self._watched[exchange] = (exchange.unsent(), self._clock.seconds())
        if self._timer is None:
            self._look_later()

    def unwatch(self, exchange: BlockedExchange) -> None:
        """Stop watching an exchange whose client is not blocked any more, or that is over."""
        self._watched.pop(exchange, None)
        if not self._watched and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        self._timer = self._clock.callLater(self._timeout / _LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for exchange, (before, since) in list(self._watched.items()):
            unsent = exchange.unsent()
            if unsent != before:
                self._watched[exchange] = (unsent, now)
            elif now - since >= self._timeout and self._others_wait(exchange.model):
                self._log.warn(
                    "a client of {model} has taken nothing for {seconds:.0f} s while others "
                    "wait: its request is aborted",
                    event="client_stalled",
                    model=exchange.model,
                    seconds=now - since,
                )
                exchange.aborted("its client had stopped reading")
        if self._watched and self._timer is None:
            self._look_later()


def bytes_in_socket(transport: object) -> int:
    """
    Return how many bytes the kernel keeps because the peer has not acknowledged them; 0 if that
    cannot be known.
    """
    try:
        fileno: Callable[[], int] = transport.fileno  # type: ignore[attr-defined] # asked of whatever transport there is
        answer = fcntl.ioctl(fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (AttributeError, OSError):
        return 0
    count: int = struct.unpack("i", answer)[0]
    return count
