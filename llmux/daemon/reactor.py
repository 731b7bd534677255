"""
Reading from sockets without a logging context for each event, without a round
of the reactor's main loop where it has nothing else to do, and of many streams
at once.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Client, Server
from twisted.python import log

__all__ = ["bare_polling"]

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


def bare_polling(
    reactor: Any, sleep: Callable[[float], None] = time.sleep
) -> Callable[[float | None], None] | None:
    """
    A C{doIteration} for this reactor that does what its own does, with three
    differences.

    A TCP connection with something to read is read at once.  The reactor's
    own calls it by way of L{log.callWithLogger}, which puts together a
    context for log messages, for a prefix that nothing in llmux prints.

    And it polls again as long as no timed call is due or new, no thread
    calls, and the reactor is not stopping: those are all that the main loop
    looks at between two polls.

    Together they are a third of what Python spends on an event that is
    relayed.  It is for a process that llmux has to itself; another's log may
    want the prefix.

    Where backends send more than 4000 small pieces a second and clients
    nothing, it polls but once in half a millisecond, so that one awakening
    serves for several.  Network cards do the same (interrupt moderation).  A
    request, or a piece of some size, ends that as soon as it is read.

    @param sleep: does nothing for so many seconds.
    @return: None if the reactor is not Twisted's for epoll, or is not
        built as it was when this was written.
    """
    if type(reactor) is not EPollReactor:
        return None
    try:
        poller: select.epoll = reactor._poller
        selectables: dict[int, Any] = reactor._selectables
        whole: Callable[..., None] = reactor._doReadOrWrite
        disconnect: Callable[..., None] = reactor._disconnectSelectable
        seconds: Callable[[], float] = reactor.seconds
        # Looked up each time below: they are replaced now and then.
        _ = reactor._newTimedCalls, reactor._pendingTimedCalls, reactor.threadCallQueue
        _ = reactor._justStopped, reactor.running
    except AttributeError:
        return None
    poll = poller.poll
    call_with_logger: Callable[..., object] = log.callWithLogger
    readable = select.EPOLLIN
    # Since when how many small pieces have come; whether they come thick and fast.
    began = 0.0
    pieces = 0
    crowded = False

    def read(connection: Any, from_backend: bool) -> None:
        """What L{Connection.doRead} does, and what the reactor does about its outcome."""
        nonlocal pieces, crowded
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
                    pieces += 1
                else:
                    pieces = 0
                    crowded = False
                try:
                    connection.protocol.dataReceived(data)
                    return
                except Exception as error:
                    log.err()
                    why = error
        disconnect(connection, why, True)

    def iterate(timeout: float | None) -> None:
        nonlocal began, pieces, crowded
        wait = -1.0 if timeout is None else timeout
        for _ in range(_MOST_ROUNDS):
            try:
                events = poll(wait, len(selectables) or 1)
            except InterruptedError:
                return
            for descriptor, event in events:
                selectable = selectables.get(descriptor)
                kind = type(selectable)
                if event == readable and (kind is Client or kind is Server):
                    read(selectable, kind is Client)
                elif selectable is not None:
                    call_with_logger(selectable, whole, selectable, descriptor, event)
            if (
                reactor._newTimedCalls
                or reactor.threadCallQueue
                or reactor._justStopped
                or not reactor.running
            ):
                return
            now = seconds()
            pending = reactor._pendingTimedCalls
            wait = -1.0
            if pending:
                wait = pending[0].time - now
                if wait <= 0:
                    return
            if pieces >= _WINDOW:
                crowded = pieces > _CROWD * (now - began)
                began = now
                pieces = 0
            if crowded and (wait < 0 or wait > _PAUSE):
                sleep(_PAUSE)

    return iterate
