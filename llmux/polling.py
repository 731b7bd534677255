"""
Reading from sockets without a logging context for each event.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.tcp import Connection
from twisted.python import log

__all__ = ["bare_polling"]


def bare_polling(reactor: Any) -> Callable[[float | None], None] | None:
    """
    A C{doIteration} for this reactor that does what its own does, except that
    a TCP connection with something to read is read at once.

    The reactor's own calls it by way of L{log.callWithLogger}, which puts
    together a context for log messages: half of what Python spends on an
    event that is relayed, for a prefix that nothing in llmux prints.  It is
    for a process that llmux has to itself; another's log may want the prefix.

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
    except AttributeError:
        return None
    poll = poller.poll
    call_with_logger: Callable[..., object] = log.callWithLogger
    readable = select.EPOLLIN

    def iterate(timeout: float | None) -> None:
        try:
            events = poll(-1 if timeout is None else timeout, len(selectables) or 1)
        except InterruptedError:
            return
        for descriptor, event in events:
            selectable = selectables.get(descriptor)
            if event == readable and isinstance(selectable, Connection):
                why: Exception | None
                try:
                    why = selectable.doRead()
                except Exception as error:
                    log.err()
                    why = error
                if why:
                    disconnect(selectable, why, True)
            elif selectable is not None:
                call_with_logger(selectable, whole, selectable, descriptor, event)

    return iterate
