"""
This module lists every place where llmux uses a private part of Twisted, with the reason
(L{PRIVATE_PARTS}), and has those uses that need more than a line.

A private part may change with any release of Twisted, so the tests run with the
lowest version that setup.cfg admits and with the latest; a test compares the list
with the code.

Three functions here depend on how Twisted behaves, but on no private name:
L{without_openssl}, because C{twisted.internet.tcp} imports OpenSSL for connections that may
never come; L{use_monotonic_clock}, because a reactor's clock is C{time.time}, and no option
changes that; L{has_reactor}, because nothing else tells whether a reactor is installed without
installing one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple, cast

from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.python import runtime

__all__ = [
    "PRIVATE_PARTS",
    "PrivateUse",
    "adopt_unix_socket",
    "bound_accepts",
    "check_reactor_parts",
    "has_reactor",
    "own_lock",
    "use_monotonic_clock",
    "without_openssl",
]


class PrivateUse(NamedTuple):
    """
    A L{PrivateUse} is a use of private parts of Twisted in one module.

    @ivar module: the path of the module below C{llmux/}.
    @ivar names: the names that the module uses.  Those without an underscore are attributes
        that Twisted does not document.
    @ivar reason: why nothing public does what is needed.
    """

    module: str
    names: Sequence[str]
    reason: str


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

PRIVATE_PARTS = (
    PrivateUse(
        "daemon/reactor.py",
        tuple(name for name in REACTOR_PARTS if name != "running"),
        "Twisted has no hook between the poll and doRead.",
    ),
    PrivateUse(
        "daemon/twisted_gaps.py",
        ("_fromListeningDescriptor", "_bindPath", "_shouldShutdown"),
        "systemd's Unix socket must keep its mode and its file; Twisted's port changes both.",
    ),
    PrivateUse(
        "daemon/twisted_gaps.py",
        ("numberAccepts",),
        "tcp.Port accepts ever more connections in one go; pausing it does not end a round.",
    ),
    PrivateUse(
        "daemon/twisted_gaps.py",
        ("lockFile",),
        "A daemon's lock names the process that made the lock, which is not the daemon.",
    ),
    PrivateUse(
        "hooks/runs/spawn.py",
        ("_trySpawnInsteadOfFork", "_getReason"),
        "Process decides by itself how a program is started, and takes an unknown exit status "
        "for a success.",
    ),
    PrivateUse(
        "monitoring/log_file.py",
        ("_file", "_openFile"),
        "LogFile.reopen closes the file before it opens the new one, which may fail.",
    ),
    PrivateUse(
        "web/channel.py",
        ("_tempDataBuffer", "dataBuffer"),
        "A reply goes to the socket at once if the transport holds nothing before it, which "
        "nothing public tells.",
    ),
    PrivateUse(
        "web/channel.py",
        ("_appSendBuffer",),
        "A TLS connection that is closing waits for the client unless nothing is left to be "
        "encrypted, which nothing public tells.",
    ),
    PrivateUse(
        "web/transport.py",
        ("_tempDataLen", "dataBuffer", "offset", "_appSendBuffer"),
        "Nothing public tells how many bytes a transport holds.",
    ),
    PrivateUse(
        "web/transport.py",
        ("_producer_helpers", "_PullToPush"),
        "Whoever is given a pull producer, as HTTPChannel is, needs this adapter.",
    ),
    PrivateUse(
        "web/request.py",
        ("_adapterCache", "_parsePOSTFormSubmission", "_log", "_encoder", "_disconnected"),
        "LlmuxRequest does not call Request.__init__, which makes all attributes at once; the "
        "methods of Request need these.",
    ),
    PrivateUse(
        "web/request.py",
        ("_cleanup",),
        "Request.finish calls this method, which is the only place where a request ends.",
    ),
    PrivateUse(
        "web/request.py",
        ("_handleStar", "_IEncodingResource", "_MultiPartParseException", "_getMultiPartArgs"),
        "Request.process and Request.requestReceived do more than is wanted; what is wanted of "
        "them is said again with the same parts.",
    ),
)
"""These are all uses of private parts of Twisted."""


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
    try:
        port._bindPath = b"\0" + port._bindPath
    except AttributeError:
        # Twisted 26.4, the oldest that may be installed, has the path in another attribute.
        port.port = b"\0" + port.port
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
