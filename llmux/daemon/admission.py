"""
This module bounds how many clients are connected at once, and keeps descriptors back.

Clients that only wait hold a descriptor each.  If they could hold all of them no
hook could be started, so that none of them would ever be served.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.logger import Logger

from llmux.web.channel import LlhttpChannel
from llmux.web.site import LlmuxSite

__all__ = ["Admission", "AdmittingSite", "descriptors"]

LEAST_RESERVE = 32
"""Descriptors that clients leave to hooks, backends, bodies on disk and the scrape."""

RESERVE_PART = 8
"""Of many descriptors one in so many is kept back."""

BATCH = 21
"""
The most connections that Twisted accepts in one go: C{tcp.Port.numberAccepts},
which L{Admission.accepted} keeps from growing further.
"""

FEW = 512
"""Where fewer connections or descriptors are allowed, they are accepted one by one."""

DESCRIPTORS_EACH = 4
"""Of one client: its own, a backend's, and two of a request's body on disk."""

PAUSE = 0.1
"""Seconds until a port that accepts nothing is looked at again."""

SILENCE = 60.0
"""Seconds between two lines in the log about such a pause."""


class PausablePort(Protocol):
    """The part of a listener that an L{Admission} uses."""

    def pause(self) -> None:
        """Accept no connection until L{resume}: they wait in the kernel's queue."""

    def resume(self) -> None:
        """Accept connections again."""

    def accept_at_once(self, count: int) -> None:
        """Let the port accept no more than so many connections in one go."""


def descriptors() -> tuple[int, int] | None:
    """
    Return how many descriptors this process has open and may have open; None where
    the system does not tell.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        return len(os.listdir("/proc/self/fd")), limit
    except FileNotFoundError:
        return None
    except OSError:
        # There is none left to list them by.
        return limit, limit


class Admission:
    """
    Pauses a listening port while too many clients are connected or too few
    descriptors are left, and resumes it when there is room again.

    Counting the descriptors takes time in proportion to them.  So they are
    counted when a quarter of those may be gone that were left the last time,
    and not for each connection.

    @param most: the most connections at once.
    @param connections: tells how many there are.
    @param count_descriptors: as L{descriptors}.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        port: PausablePort,
        most: int,
        connections: Callable[[], int],
        count_descriptors: Callable[[], tuple[int, int] | None] = descriptors,
    ) -> None:
        self._reactor = reactor
        self._port = port
        self._most = most
        self._connections = connections
        self._count_descriptors = count_descriptors
        self._budget = 1
        self._batch = 1
        self._timer: IDelayedCall | None = None
        self._logged: float | None = None

    def accepted(self) -> None:
        """Note that one connection more has been accepted; called before it is counted."""
        self._port.accept_at_once(self._batch)
        self._budget -= 1
        if self._budget <= 0 and self._timer is None:
            self._look(1)

    def watch(self, port: PausablePort) -> None:
        """Clients connect at another port from now on."""
        if self._timer is not None:
            port.pause()
        self._port = port

    def limit(self, most: int) -> None:
        """As many clients may be connected at most, from now on."""
        self._most = most

    def stop(self) -> None:
        """Cancel the timer; the port is left as it is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, new: int) -> None:
        counted = self._count_descriptors()
        few = self._most < FEW or (counted is not None and counted[1] < FEW)
        slack = 0 if few else BATCH
        self._batch = 1 if few else BATCH
        room = self._most - self._connections() - new - slack
        why = f"{self._most} connections, as many as max_connections allows"
        if counted is not None:
            used, limit = counted
            left = limit - used - max(LEAST_RESERVE, limit // RESERVE_PART) - slack
            if left <= 0:
                why = f"{limit - used} of {limit} descriptors, which are kept for hooks"
            room = min(room, left if left <= 0 else max(1, left // DESCRIPTORS_EACH))
        if room > 0:
            self._budget = room
            self._port.resume()
            return
        self._budget = 0
        self._port.pause()
        self._timer = self._reactor.callLater(PAUSE, self._look_again)
        now = self._reactor.seconds()
        if self._logged is None or now - self._logged >= SILENCE:
            self._logged = now
            self._log.warn(
                "no connection is accepted for now: there are {why}; clients wait in the queue",
                event="accepting_paused",
                why=why,
            )

    def _look_again(self) -> None:
        self._timer = None
        self._look(0)


class AdmittingSite(LlmuxSite):
    """
    A site that tells an L{Admission} of each connection.

    @ivar admission: whom it tells; None for nobody.
    """

    admission: Admission | None = None

    def buildProtocol(self, addr: IAddress | None) -> LlhttpChannel:  # type: ignore[override]  # as its parent class
        """See L{IProtocolFactory.buildProtocol}."""
        if self.admission is not None:
            self.admission.accepted()
        return super().buildProtocol(addr)
