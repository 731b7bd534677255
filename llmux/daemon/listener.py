"""
This module listens where clients connect.

The socket is bound when the service is made, so that a busy port leads to one line on stderr
and an exit status.  If it were bound later, a daemonizing twistd would hang and leave its
pidfile.  Clients that connect before the service starts wait in the kernel's queue.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable
from contextlib import chdir
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IPushProducer,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmux.config import Config
from llmux.config.error import ConfigError, shown
from llmux.daemon.twisted_gaps import adopt_unix_socket, bound_accepts, own_lock

__all__ = ["Listener", "describe_address", "make_endpoint"]

BACKLOG = 4096
"""This many connections may wait to be accepted: a thousand clients may come at once."""

SOCKET_MODE = "660"
"""
A Unix socket has this mode if C{listen} gives none; with Twisted's default every user could
connect.
"""

_UNIX = re.compile(r"unix:(?:address=)?(?P<path>(?:\\.|[^:\\])+)")


def _ignored(address: IAddress) -> None:
    pass


class Listener(Service):
    """
    A L{Listener} accepts connections where the configuration says.  A listener is bound when it
    has been made, and accepts connections when it has been started.

    @ivar port: the listening port; None while an endpoint has not answered yet, and after the
        listener has stopped.
    @raise ConfigError: nothing can listen at this address.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        factory: IProtocolFactory,
        *,
        owner: tuple[int, int] | None = None,
        bound: Callable[[IAddress], None] = _ignored,
    ) -> None:
        """
        @param owner: the user and the group that a Unix socket is to belong to; those
            of this process if None.
        @param bound: a function that is called with the address, before the first connection.
        """
        self._owner = owner
        self._report = bound
        self.port: IListeningPort | None = None
        self._config = config
        self._reactor = reactor
        self._stopped = False
        self._late = False
        self._failure: Failure | None = None
        self._paused = False
        self._listen(factory)

    def _listen(self, factory: IProtocolFactory) -> None:
        config = self._config
        if config.listen is None:
            try:
                port = self._reactor.listenTCP(
                    config.port, factory, backlog=BACKLOG, interface=config.host
                )
            except (CannotListenError, OSError, ValueError, OverflowError) as e:
                raise _refused(config, e) from None
            self._bound(port)
            return
        endpoint = make_endpoint(config, self._reactor)
        if _is_systemds_unix_socket(endpoint):
            descriptor = endpoint.fileno  # type: ignore[attr-defined]  # it has one
            self._bound(adopt_unix_socket(descriptor, self._reactor, factory))
            return
        # Most endpoints call back at once, but they need not.
        endpoint.listen(factory).addCallbacks(self._bound, self._not_bound)
        self._late = True
        if self._failure is not None:
            raise _refused(config, self._failure.value) from None

    def _not_bound(self, failure: Failure) -> None:
        self._failure = failure
        if self._late:
            self._log.error("{why}", why=_refused(self._config, failure.value))

    def _bound(self, port: IListeningPort) -> None:
        if self._stopped:
            port.stopListening()
            return
        self.port = port
        bound_accepts(port, 1)
        path = getattr(port.getHost(), "name", None)
        is_made_here = (self._config.listen or "").startswith("unix:")
        if self._owner is not None and path and is_made_here:
            os.chown(path, *self._owner, follow_symlinks=False)
        self._report(port.getHost())
        if self.running:
            self._accept()
        elif IPushProducer.providedBy(port):
            IPushProducer(port).pauseProducing()

    def _accept(self) -> None:
        port = self.port
        if port is None or not self.running:
            return
        if IPushProducer.providedBy(port) and not self._paused:
            IPushProducer(port).resumeProducing()
        where = describe_address(port.getHost(), self._scheme())
        self._log.info("listening on {address}", event="listening", address=where)

    def pause(self) -> None:
        """Accept no connection until L{resume}; connections wait in the kernel's queue."""
        if not self._paused:
            self._paused = True
            if self.running and IPushProducer.providedBy(self.port):
                IPushProducer(self.port).pauseProducing()

    def resume(self) -> None:
        """Accept connections again, if the service runs."""
        if self._paused:
            self._paused = False
            if self.running and IPushProducer.providedBy(self.port):
                IPushProducer(self.port).resumeProducing()

    def accept_at_once(self, count: int) -> None:
        """Let the port accept at most this many connections in one go."""
        bound_accepts(self.port, count)

    def _scheme(self) -> str:
        return "https" if (self._config.listen or "").startswith("ssl:") else "http"

    def privilegedStartService(self) -> None:
        """Take over the lock of a Unix socket, after the daemon's fork."""
        own_lock(self.port)

    def startService(self) -> None:
        """Accept connections, those included that were made since the socket was bound."""
        self.running = True
        self._reactor.callWhenRunning(self._accept)

    def stopService(self) -> Deferred[None]:
        """
        Accept no more connections.  The Deferred fires when the socket is closed, and never
        fails.
        """
        self.running = False
        self._stopped = True
        port, self.port = self.port, None
        if port is None:
            return succeed(None)
        stopped: Deferred[Any] = Deferred.fromCoroutine(_stop(port))
        return stopped.addErrback(
            lambda failure: self._log.warn(
                "while closing {address}: {why}",
                address=describe_address(port.getHost(), self._scheme()),
                why=failure.value,
            )
        )


async def _stop(port: IListeningPort) -> None:
    stopping = port.stopListening()
    if stopping is not None:
        await stopping


def make_endpoint(config: Config, reactor: Any) -> IStreamServerEndpoint:
    """
    Return the endpoint that C{listen} describes.  Relative paths in it start at the
    configuration's directory.

    @raise ConfigError: C{listen} describes no endpoint.
    """
    from twisted.internet.endpoints import serverFromString

    try:
        with chdir(config.directory):
            endpoint: IStreamServerEndpoint = serverFromString(reactor, _completed(config))
    except Exception as e:
        raise _bad_endpoint(config, e) from None
    return endpoint


def describe_address(address: object, scheme: str = "http") -> str:
    """Write an address as in C{http://127.0.0.1:3000} or C{unix:/run/llmux.sock}."""
    host = getattr(address, "host", None)
    if host is not None:
        host = f"[{host}]" if ":" in host else host
        return f"{scheme}://{host}:{getattr(address, 'port', 0)}"
    name = getattr(address, "name", None)
    if name is not None:
        return "unix:" + os.fsdecode(name)
    return str(address)


def _is_systemds_unix_socket(endpoint: IStreamServerEndpoint) -> bool:
    family: object = getattr(endpoint, "addressFamily", None)
    return family == socket.AF_UNIX and hasattr(endpoint, "fileno")


def _completed(config: Config) -> str:
    """
    Return C{listen} with what it leaves out.  A relative path of a Unix socket is made
    absolute, because a daemon changes its directory between binding and closing; and its socket
    is closed to other users unless a mode is given.
    """
    listen = config.listen or ""
    found = _UNIX.match(listen)
    if found is None:
        return listen
    path, rest = found["path"], listen[found.end() :]
    if not path.startswith(("/", "\0")):
        from twisted.internet.endpoints import quoteStringArgument

        path = f"{quoteStringArgument(config.directory)}/{path}"
    if not re.search(r":mode=", rest):
        rest += f":mode={SOCKET_MODE}"
    return f"unix:{path}{rest}"


def _where(config: Config) -> tuple[str, str]:
    """Return the key that says where to listen, and the place in words."""
    if config.listen is not None:
        return "listen", shown(config.listen)
    host = f"[{config.host}]" if ":" in config.host else config.host
    return "port", f"{host}:{config.port}"


def _refused(config: Config, error: BaseException | None) -> ConfigError:
    key, place = _where(config)
    reason: object = error
    if isinstance(error, CannotListenError):
        reason = error.socketError
    number = reason.errno if isinstance(reason, OSError) else None
    other = "choose another with port: or -p" if key == "port" else "choose another place"
    problem, remedy = f"cannot listen on {place}: {_why(reason)}", "change it"
    if isinstance(reason, socket.gaierror):
        key = "host" if key == "port" else key
        remedy = "give an address of this machine, such as 127.0.0.1 or 0.0.0.0"
    elif number == errno.EADDRINUSE or reason == "Cannot acquire lock":
        problem, remedy = f"{place} is in use", f"stop what listens there, or {other}"
    elif number in (errno.EACCES, errno.EPERM):
        problem = f"not permitted to listen on {place}"
        remedy = "choose a port from 1024 up, or start as root with twistd's --uid"
        if key == "listen":
            remedy = "choose another place, or start as a user who may"
    elif number in (errno.ENOENT, errno.ENOTDIR):
        remedy = "make its directory first, or choose another"
    elif number == errno.EADDRNOTAVAIL:
        key = "host" if key == "port" else key
        problem = f"{place} is no address of this machine"
        remedy = "give one that is, such as 127.0.0.1 or 0.0.0.0"
    return ConfigError(config.file, key, problem, remedy)


def _bad_endpoint(config: Config, error: Exception) -> ConfigError:
    listen = config.listen or ""
    problem = f"{shown(listen)} cannot be used: {_why(error)}"
    remedy = "write it as in tcp:3000:interface=127.0.0.1 or unix:/run/llmux.sock"
    if listen.startswith("systemd:"):
        remedy = "write systemd:domain=INET:index=0, and let systemd's socket unit start llmux"
        if isinstance(error, LookupError):
            problem = f"systemd has passed no socket that fits {shown(listen)}"
    elif listen.startswith("ssl:"):
        remedy = "write ssl:3000:privateKey=KEY.pem:certKey=CERT.pem, with files that exist"
        if isinstance(error, ImportError):
            remedy = "install TLS with: pip install 'twisted[tls]'"
    return ConfigError(config.file, "listen", problem, remedy)


def _why(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
        name = error.filename2 or error.filename
        if name:
            text += f": {os.fsdecode(name)}"
    else:
        text = str(error)
        if isinstance(error, LookupError | AttributeError | AssertionError) or not text:
            text = f"{type(error).__name__} {text}".strip()
    text = " ".join(text.split())
    return text[:1].lower() + text[1:]
