"""
This module has every place where llmux uses a private part of Twisted, with the reason.

A private part may change with any release of Twisted, so the tests run with the
lowest version that setup.cfg admits and with the latest.

===================================  ==========================================
where                                what, and why
===================================  ==========================================
L{check_reactor_parts}               the names that
                                     L{llmux.daemon.reactor.LlmuxReactor} reads:
                                     Twisted has no public hook between the poll
                                     and C{doRead}
L{adopt_unix_socket}                 systemd's Unix socket must keep its mode and
                                     its file; a Twisted port takes both over
L{bound_accepts}                     C{tcp.Port} accepts ever more connections in one
                                     go; pausing it does not end a round
L{own_lock}                          a daemon's lock names the process that made
                                     it, which is not the daemon
L{without_openssl}                   C{twisted.internet.tcp} imports OpenSSL for
                                     connections that may never come
L{use_monotonic_clock}               a reactor's clock is C{time.time}, and no option
                                     changes that
L{has_reactor}                       whether a reactor is installed cannot be
                                     asked without installing one
===================================  ==========================================

Other modules use private parts as well, and say why: the HTTP server those of
C{twisted.web.http.HTTPChannel} and C{Request} (C{llmux/web/channel.py}, C{request.py},
C{site.py}), on the transport's C{_tempDataBuffer} and C{dataBuffer}
(C{llmux/web/transport.py}), the hooks on C{twisted.internet.process.Process}
(C{llmux/hooks/runs/spawn.py}), the log on C{LogFile}, whose C{reopen} closes the file before it
opens the new one (C{llmux/monitoring/log_file.py}).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, cast

from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.python import runtime

__all__ = [
    "adopt_unix_socket",
    "bound_accepts",
    "check_reactor_parts",
    "has_reactor",
    "own_lock",
    "use_monotonic_clock",
    "without_openssl",
]


REACTOR_PARTS = (
    "_add",
    "_poller",
    "_selectables",
    "_doReadOrWrite",
    "_disconnectSelectable",
    "_newTimedCalls",
    "_pendingTimedCalls",
    "_justStopped",
    "threadCallQueue",
    "running",
)
"""L{llmux.daemon.reactor.LlmuxReactor} uses these attributes of its parent class."""


def check_reactor_parts(reactor: object) -> None:
    """
    Check that this reactor has the parts that L{llmux.daemon.reactor.LlmuxReactor} uses.

    @raise AttributeError: a part is missing.
    """
    for name in REACTOR_PARTS:
        getattr(reactor, name)


def has_reactor() -> bool:
    """Tell whether a reactor is installed, without installing one."""
    return "twisted.internet.reactor" in sys.modules


def use_monotonic_clock(reactor: Any) -> None:
    """
    Give a reactor of Twisted's a clock that is never set.

    A reactor that has timed calls already is left alone, because they were scheduled by its
    present clock, and so is a reactor whose clock is not Twisted's.
    """
    if reactor.seconds is runtime.seconds and not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic


@contextmanager
def without_openssl() -> Iterator[None]:
    """
    Keep Twisted from importing OpenSSL while a reactor is imported.  Importing OpenSSL takes a
    fifth of the time until llmux listens, and of the memory that it then has, and is of use
    only if clients connect by TLS. Nothing is done if OpenSSL or a reactor has been imported
    already.
    """
    if "OpenSSL" in sys.modules or has_reactor():
        yield
        return
    sys.modules["OpenSSL"] = cast(ModuleType, None)
    try:
        yield
    finally:
        del sys.modules["OpenSSL"]


def adopt_unix_socket(
    descriptor: int, reactor: Any, factory: IProtocolFactory
) -> IListeningPort:
    """
    Return a port on the Unix socket that systemd listens on.

    A port of Twisted's would change the mode of the socket, and at the end shut the socket down
    and delete its file, all of which is systemd's business.  Twisted does so to paths only, not
    to abstract names, which begin with NUL.

    @param descriptor: the descriptor of the socket, which this function closes.
    """
    from twisted.internet.unix import Port

    os.set_blocking(descriptor, False)
    port: Any = Port._fromListeningDescriptor(reactor, descriptor, factory)
    # Before Twisted 26.4 the path was in another attribute.
    path = "_bindPath" if hasattr(port, "_bindPath") else "port"
    setattr(port, path, b"\0" + getattr(port, path))
    port._shouldShutdown = False
    port.startListening()
    os.close(descriptor)
    adopted: IListeningPort = port
    return adopted


_FIRST_ACCEPTS = 100


def bound_accepts(port: Any, count: int) -> None:
    """
    Make a port accept at most C{count} connections, 1 or 21, in one go.

    Call this before the port accepts anything, and for each connection, from the
    factory's C{buildProtocol}.

    C{numberAccepts} is 100 at first.  After a round C{tcp.Port.doRead} adds 20 to it if exactly
    this many connections have been accepted, and otherwise sets it to the number that were
    accepted.  The value that is set here within a round differs from that number, so that
    C{numberAccepts} stays where it is.
    """
    number = getattr(port, "numberAccepts", None)
    if number is None:
        return
    if number == _FIRST_ACCEPTS:
        port.numberAccepts = 1
    elif number >= count:
        port.numberAccepts = 0


def own_lock(port: IListeningPort | None) -> None:
    """
    Write this process into the lock beside a Unix socket.

    The lock names the process that made it.  A daemon is another process, so an unchanged lock
    would count as stale.
    """
    lock = getattr(port, "lockFile", None)
    if lock is None or not lock.locked:
        return
    owner = os.readlink(lock.name)
    if int(owner) != os.getpid():
        new = lock.name + b".new"
        os.symlink(str(os.getpid()), new)
        os.replace(new, lock.name)
