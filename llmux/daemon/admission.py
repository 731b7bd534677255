"""
This module limits how many clients are connected at once, and keeps file descriptors free for
other uses.

Each client that waits holds a descriptor.  If clients could hold all descriptors, no hook could
be started, so that no client would ever be served.
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
"""
At least this many descriptors are kept free for hooks, backends, bodies on disk and the scrape
of metrics.
"""

RESERVE_PART = 8
"""If there are many descriptors, one in this many is kept free."""

BATCH = 21
"""
Twisted accepts at most this many connections in one go: C{tcp.Port.numberAccepts}, which
L{Admission.accepted} keeps from growing further.
"""

FEW = 512
"""
If fewer connections or descriptors than this are allowed, connections are accepted one by one.
"""

DESCRIPTORS_EACH = 4
"""
One client may need this many descriptors: its own, a backend's, and two for a request's body on
disk.
"""

PAUSE = 0.1
"""After this many seconds a port that accepts nothing is checked again."""

SILENCE = 60.0
"""At least this many seconds pass between two lines in the log about such a pause."""


class PausablePort(Protocol):
    """This protocol is the part of a listener that an L{Admission} uses."""

    def pause(self) -> None:
        """Accept no connection until L{resume}; connections wait in the kernel's queue."""

    def resume(self) -> None:
        """Accept connections again."""

    def accept_at_once(self, count: int) -> None:
        """Let the port accept at most this many connections in one go."""


def descriptors() -> tuple[int, int] | None:
    """
    Return how many descriptors this process has open and may have open; None if the system does
    not tell.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        return len(os.listdir("/proc/self/fd")), limit
    except FileNotFoundError:
        return None
    except OSError:
        # No descriptor is left with which they could be listed.
        return limit, limit


class Admission:
    """
    An L{Admission} pauses a listening port while too many clients are connected or too few
    descriptors are left, and resumes the port when there is room again.

    Counting the descriptors takes time in proportion to their number.  So they are not counted
    for each connection, but when a quarter of those that were left the last time may have been
    used.

    @param most: the largest number of connections at once.
    @param connections: a function that returns how many connections there are.
    @param count_descriptors: a function such as L{descriptors}.
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
        """
        Note that one more connection has been accepted; called before C{connections} counts it.
        """
        self._port.accept_at_once(self._batch)
        self._budget -= 1
        if self._budget <= 0 and self._timer is None:
            self._look(1)

    def watch(self, port: PausablePort) -> None:
        """Pause and resume another port from now on."""
        if self._timer is not None:
            port.pause()
        self._port = port

    def limit(self, most: int) -> None:
        """Allow this many connections from now on."""
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
    An L{AdmittingSite} tells an L{Admission} of each connection.

    @ivar admission: the admission that is told; or None.
    """

    admission: Admission | None = None

    def buildProtocol(self, addr: IAddress | None) -> LlhttpChannel:  # type: ignore[override]  # as its parent class
        """See L{IProtocolFactory.buildProtocol}."""
        if self.admission is not None:
            self.admission.accepted()
        return super().buildProtocol(addr)
