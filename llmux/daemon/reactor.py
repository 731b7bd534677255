"""
The reactor of a process that llmux has to itself: Twisted's epoll reactor with a
monotonic clock, without a logging context for each event, and without a round of
the main loop between two polls where that loop has nothing to do.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST, installReactor
from twisted.internet.tcp import Client, Server
from twisted.python import log

from llmux.daemon.twisted_gaps import check_reactor_parts

__all__ = ["LlmuxReactor", "install"]

_MOST_ROUNDS = 256
"""Polls before the reactor's own loop gets its turn, come what may."""

_CROWD = 4000.0
"""Pieces of replies per second from which on they are read together."""

_PAUSE = 0.0005
"""Seconds between two polls then, and the most that a piece comes later for it."""

_WINDOW = 40
"""Pieces over which their rate is taken."""

_PIECE = 4096
"""Bytes; what brings as many at once is a body, and wants speed."""


class LlmuxReactor(EPollReactor):
    """
    Twisted's reactor for epoll, with five differences.

    The clock is monotonic, so that a step of the system's clock neither delays
    a timed call nor brings one forward.

    A TCP connection with something to read is read at once.  The parent class
    calls the connection by way of L{log.callWithLogger}, which puts together a
    context for log messages, for a prefix that nothing in llmux prints.

    The reactor polls again as long as no timed call is due or new, no thread
    calls, and the reactor is not stopping: the main loop looks at nothing else
    between two polls.

    Where backends send more than 4000 small pieces a second and clients
    nothing, the reactor polls but once in half a millisecond, so that one
    awakening serves for several pieces.  Network cards do the same (interrupt
    moderation).  A request, or a piece of some size, ends that as soon as it
    is read.

    An event for a descriptor that was closed, and whose number has gone to
    another, since the poll that brought the event, is not passed on.

    The second and the third difference are together a third of what Python
    spends on an event that is relayed.  A process that llmux shares with other
    services had better keep the usual reactor: their log may want the prefix.
    """

    seconds = staticmethod(time.monotonic)

    def __init__(self, sleep: Callable[[float], object] = time.sleep) -> None:
        """
        @param sleep: does nothing for so many seconds.
        """
        self._sleep = sleep
        # Since when how many small pieces have come; whether they come thick and fast.
        self._began = 0.0
        self._pieces = 0
        self._crowded = False
        # Descriptors that have been registered since the last poll.
        self._fresh: set[int] = set()
        EPollReactor.__init__(self)
        check_reactor_parts(self)

    def doPoll(self, timeout: float | None) -> None:
        """
        Wait for events and pass them on, C{timeout} seconds at most; without
        limit if None.  Returns when the main loop has something to do.
        """
        poller: select.epoll = self._poller
        poll = poller.poll
        selectables: dict[int, Any] = self._selectables
        whole: Callable[..., None] = self._doReadOrWrite
        call_with_logger: Callable[..., object] = log.callWithLogger
        read = self._read
        readable = select.EPOLLIN
        wait = -1.0 if timeout is None else timeout
        fresh = self._fresh
        for _ in range(_MOST_ROUNDS):
            if fresh:
                fresh.clear()
            try:
                events = poll(wait, len(selectables) or 1)
            except InterruptedError:
                return
            for descriptor, event in events:
                if fresh and descriptor in fresh:
                    # The event is about one that was closed in this very round, and
                    # whose number has gone to another.
                    continue
                selectable = selectables.get(descriptor)
                kind = type(selectable)
                if event == readable and (kind is Client or kind is Server):
                    read(selectable, kind is Client)
                elif selectable is not None:
                    call_with_logger(selectable, whole, selectable, descriptor, event)
            if (
                self._newTimedCalls
                or self.threadCallQueue
                or self._justStopped
                or not self.running
            ):
                return
            now = self.seconds()
            pending = self._pendingTimedCalls
            wait = -1.0
            if pending:
                wait = pending[0].time - now
                if wait <= 0:
                    return
            if self._pieces >= _WINDOW:
                self._crowded = self._pieces > _CROWD * (now - self._began)
                self._began = now
                self._pieces = 0
            if self._crowded and (wait < 0 or wait > _PAUSE):
                self._sleep(_PAUSE)

    doIteration = doPoll

    def _add(
        self, xer: Any, primary: set[int], other: set[int], selectables: Any, *flags: Any
    ) -> None:
        """Register a descriptor, and remember that as long as older events are passed on."""
        descriptor = xer.fileno()
        if descriptor not in primary and descriptor not in other:
            self._fresh.add(descriptor)
        add: Callable[..., None] = super()._add
        add(xer, primary, other, selectables, *flags)

    def _read(self, connection: Any, from_backend: bool) -> None:
        """What L{Connection.doRead} does, and what the reactor does about its outcome."""
        why: Exception | None
        try:
            data = connection.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            why = CONNECTION_LOST
        else:
            if not data:
                why = CONNECTION_DONE
            else:
                if from_backend and len(data) < _PIECE:
                    self._pieces += 1
                else:
                    self._pieces = 0
                    self._crowded = False
                try:
                    connection.protocol.dataReceived(data)
                    return
                except Exception as error:
                    log.err()
                    why = error
        disconnect: Callable[..., None] = self._disconnectSelectable
        disconnect(connection, why, True)


def install() -> None:
    """
    Install a L{LlmuxReactor} as the reactor of this process.

    @raise ReactorAlreadyInstalledError: the process has a reactor.
    @raise AttributeError: this Twisted's reactor is built in another way than
        L{LlmuxReactor} takes for granted.
    """
    installReactor(LlmuxReactor())
