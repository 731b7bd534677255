"""
This module has the reactor of a process that belongs to llmux alone: Twisted's epoll reactor
with a monotonic clock, without a logging context for each event, and without a round of the
main loop between two polls if that loop has nothing to do.
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
"""After this many polls the reactor's own loop gets its turn in any case."""

_CROWD = 4000.0
"""Pieces of replies are read together if more than this many come in a second."""

_PAUSE = 0.0005
"""
The reactor then sleeps for this many seconds between two polls, so a piece may come later by as
much.
"""

_WINDOW = 40
"""The rate of pieces is measured over this many pieces."""

_LARGE_PIECE = 4096
"""
A piece of this many bytes or more belongs to a large body, which should be passed on quickly.
"""


class LlmuxReactor(EPollReactor):
    """
    A L{LlmuxReactor} is Twisted's reactor for epoll, with five differences.

    The clock is monotonic, so that a step of the system's clock neither delays
    a timed call nor brings one forward.

    A TCP connection with something to read is read at once, and every other event is passed on
    by a plain call.  The parent class calls through L{log.callWithLogger}, which makes a
    context for log messages, for the sake of a prefix that llmux never prints.

    The reactor polls again as long as no timed call is due or new, no thread calls, and the
    reactor is not stopping: the main loop does nothing else between two polls.

    While backends send more than 4000 small pieces a second and clients send nothing, the
    reactor polls only once in half a millisecond, so that it wakes up once for several pieces.
    Network cards do the same (interrupt moderation).  A request, or a large piece, ends this as
    soon as it is read.

    An event for a descriptor that was closed, and whose number has gone to
    another, since the poll that brought the event, is not passed on.

    The second and the third difference together save a third of the time that Python spends on
    an event that is relayed.  A process that llmux shares with other services should keep the
    usual reactor, because their log may need the prefix.
    """

    seconds = staticmethod(time.monotonic)

    def __init__(self, sleep: Callable[[float], object] = time.sleep) -> None:
        """@param sleep: a function that waits for a number of seconds."""
        self._sleep = sleep
        # When counting began, how many small pieces have come since, and whether they come so
        # fast that they are read together.
        self._began = 0.0
        self._pieces = 0
        self._crowded = False
        # Descriptors that have been registered since the last poll.
        self._fresh: set[int] = set()
        EPollReactor.__init__(self)
        check_reactor_parts(self)

    def doPoll(self, timeout: float | None) -> None:
        """
        Wait for events, C{timeout} seconds at most (None for no limit), and pass them on, until
        the main loop has something to do.
        """
        poller: select.epoll = self._poller
        poll = poller.poll
        selectables: dict[int, Any] = self._selectables
        whole: Callable[..., None] = self._doReadOrWrite
        readable = select.EPOLLIN
        wait = -1.0 if timeout is None else timeout
        fresh = self._fresh
        pieces = self._pieces
        try:
            for _ in range(_MOST_ROUNDS):
                if fresh:
                    fresh.clear()
                try:
                    events = poll(wait, len(selectables) or 1)
                except InterruptedError:
                    return
                for descriptor, event in events:
                    if fresh and descriptor in fresh:
                        # The event is about a descriptor that was closed in this round, and
                        # whose number another one has got.
                        continue
                    selectable: Any = selectables.get(descriptor)
                    kind = type(selectable)
                    if event != readable or not (kind is Server or kind is Client):
                        if selectable is not None:
                            try:
                                whole(selectable, descriptor, event)
                            except Exception:
                                log.err()
                        continue
                    # This does what Connection.doRead does.
                    try:
                        data = selectable.socket.recv(65536)
                    except BlockingIOError:
                        continue
                    except OSError:
                        self._read_failed(selectable, CONNECTION_LOST)
                        continue
                    if not data:
                        self._read_failed(selectable, CONNECTION_DONE)
                        continue
                    if kind is Client and len(data) < _LARGE_PIECE:
                        pieces += 1
                    elif pieces or self._crowded:
                        pieces = 0
                        self._crowded = False
                    try:
                        selectable.protocol.dataReceived(data)
                    except Exception as error:
                        log.err()
                        self._read_failed(selectable, error)
                if (
                    self._newTimedCalls
                    or self.threadCallQueue
                    or self._justStopped
                    or not self.running
                ):
                    return
                pending = self._pendingTimedCalls
                if pending:
                    wait = pending[0].time - self.seconds()
                    if wait <= 0:
                        return
                else:
                    wait = -1.0
                if pieces >= _WINDOW:
                    now = self.seconds()
                    self._crowded = pieces > _CROWD * (now - self._began)
                    self._began = now
                    pieces = 0
                if self._crowded and (wait < 0 or wait > _PAUSE):
                    self._sleep(_PAUSE)
        finally:
            self._pieces = pieces

    doIteration = doPoll

    def _add(
        self, xer: Any, primary: set[int], other: set[int], selectables: Any, *flags: Any
    ) -> None:
        """Register a descriptor, and remember until the next poll that it is new."""
        descriptor = xer.fileno()
        if descriptor not in primary and descriptor not in other:
            self._fresh.add(descriptor)
        add: Callable[..., None] = super()._add
        add(xer, primary, other, selectables, *flags)

    def _read_failed(self, connection: Any, why: Exception) -> None:
        """End a connection that cannot be read any more, as the parent class does."""
        disconnect: Callable[..., None] = self._disconnectSelectable
        disconnect(connection, why, True)


def install() -> None:
    """
    Install a L{LlmuxReactor} as the reactor of this process.

    @raise ReactorAlreadyInstalledError: the process has a reactor.
    @raise AttributeError: the reactor of this version of Twisted lacks a part that
        L{LlmuxReactor} needs.
    """
    installReactor(LlmuxReactor())
