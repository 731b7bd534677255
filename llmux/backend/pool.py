"""This module has the pool of connections to backends, which are kept and used again."""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from twisted.internet.abstract import isIPv6Address
from twisted.internet.error import (
    ConnectBindError,
    ConnectError,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IReactorTCP,
    IReactorTime,
)
from twisted.internet.protocol import ClientFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmux.backend.addresses import Addresses
from llmux.backend.connection import BackendConnection
from llmux.backend.exchange import IExchange
from llmux.backend.reply import ReplyHead

__all__ = ["Backend", "BackendPool", "PoolSettings"]

_OURS = frozenset(
    {errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
)
"""
These errors are not the backend's: this machine has no files, ports or memory left for another
connection.
"""

_LOG_INTERVAL = 1.0
"""Failures to connect to a backend are logged at most once in this many seconds."""


class PoolSettings(Struct, frozen=True):
    """
    L{PoolSettings} are the limits that hold for each backend.

    @ivar connect_timeout: how many seconds one attempt to connect may take.
    @ivar idle_timeout: after how many seconds an unused connection is closed; at the latest
        after one and a half times as many.
    @ivar max_idle: how many unused connections are kept at most.
    @ivar max_connecting: how many attempts to connect run at a time at most.  Without a limit,
        thousands of requests that begin at once would overflow the backend's listen queue.
    @ivar logs_failures: whether the log says that a backend cannot be connected to.
    """

    connect_timeout: float = 10.0
    idle_timeout: float = 60.0
    max_idle: int = 1024
    max_connecting: int = 64
    logs_failures: bool = True


class BackendPool:
    """A pool has all backends, each with the connections to it."""

    def __init__(self, reactor: Any, settings: PoolSettings | None = None) -> None:
        """
        @param reactor: an L{IReactorTCP} and L{IReactorTime}, and an
            L{IReactorPluggableNameResolver<twisted.internet.interfaces.IReactorPluggableNameResolver>}
            if hosts have names.
        """
        self.reactor = reactor
        self.settings = PoolSettings() if settings is None else settings
        self._backends: dict[tuple[str, int], Backend] = {}

    def backend(self, host: str, port: int) -> Backend:
        """
        Return the backend at this address, which is always the same object.

        @param host: a name, an IPv4 or an IPv6 address (without brackets).
        """
        key = (host, port)
        backend = self._backends.get(key)
        if backend is None:
            backend = self._backends[key] = Backend(self, host, port)
        return backend

    def forget(self, host: str, port: int) -> None:
        """
        Stop using the connections to a backend that is about to be put to sleep: see
        L{Backend.forget}.
        """
        backend = self._backends.get((host, port))
        if backend is not None:
            backend.forget()

    def close_unused(self, host: str, port: int) -> None:
        """Close the connections to a backend that are unused."""
        backend = self._backends.get((host, port))
        if backend is not None:
            backend.close_unused()

    def drop(self, host: str, port: int) -> None:
        """
        Remove a backend, because nobody will use this address again.  Exchanges in progress are
        not aborted.
        """
        backend = self._backends.pop((host, port), None)
        if backend is not None:
            backend.forget()

    def close(self) -> None:
        """
        Close the connections that are unused, give up those that are being made, and leave no
        timer.  Exchanges in progress are not aborted.
        """
        for backend in self._backends.values():
            backend.close()


class Backend:
    """
    A L{Backend} has one address, the connections to it, and the exchanges that wait for a
    connection.

    @ivar host_header: the value of the Host header of requests to this backend.
    @ivar reply_heads: a cache, from the bytes of a reply's head to the parsed head.  An entry
        never becomes wrong, because the result depends on the bytes alone.
    @ivar generation: a number that grows with each L{forget}.  Connections of an earlier
        generation are not used again, and a request that is lost on one is not repeated.
    """

    __slots__ = (
        "_addresses",
        "_attempts",
        "_epoch",
        "_fresh",
        "_given_up",
        "_giving_up",
        "_idle",
        "_log_next",
        "_pool",
        "_reactor",
        "_sweep",
        "_waiting",
        "generation",
        "host",
        "host_header",
        "port",
        "reply_heads",
        "seconds",
    )

    _log = Logger()

    def __init__(self, pool: BackendPool, host: str, port: int) -> None:
        self.host = host
        self.port = port
        name = f"[{host}]" if isIPv6Address(host) else host
        self.host_header = name.encode("ascii" if name.isascii() else "idna") + b":%d" % port
        self.generation = 0
        self.reply_heads: dict[bytes, ReplyHead] = {}
        self.seconds: Callable[[], float] = pool.reactor.seconds
        self._pool = pool
        self._reactor: Any = pool.reactor
        self._addresses = Addresses(pool.reactor, host)
        # The connection that became idle last is used first.
        self._idle: dict[BackendConnection, None] = {}
        self._epoch = 0
        self._sweep: IDelayedCall | None = None
        # These exchanges may take a used connection; those in the next mapping must have a new
        # one.
        self._waiting: OrderedDict[IExchange, None] = OrderedDict()
        self._fresh: OrderedDict[IExchange, None] = OrderedDict()
        # These exchanges will get no connection, and are told so in the reactor's next turn.
        self._given_up: OrderedDict[IExchange, None] = OrderedDict()
        self._giving_up: IDelayedCall | None = None
        self._attempts: set[_Attempt] = set()
        self._log_next = 0.0

    # --------------------------------------------------------- for exchanges

    def begin(self, exchange: IExchange) -> None:
        """
        Carry the exchange on a connection: at once if a connection is idle, else on the first
        one that becomes free or is made.
        """
        if self._idle:
            self._idle.popitem()[0].begin(exchange)
        else:
            self._waiting[exchange] = None
            self._connect()

    def withdraw(self, exchange: IExchange) -> None:
        """
        Remove an exchange, which no longer waits for a connection, and is not called any more.
        """
        self._waiting.pop(exchange, None)
        self._fresh.pop(exchange, None)
        self._given_up.pop(exchange, None)

    # ------------------------------------------------------- for connections

    def connection_made(self, connection: BackendConnection) -> None:
        """See L{ConnectionOwner<llmux.backend.connection.ConnectionOwner>}."""
        if self._fresh:
            exchange, _ = self._fresh.popitem(last=False)
            exchange.begun_anew()
            connection.begin(exchange)
        else:
            self.connection_freed(connection)
        self._connect()

    def connection_freed(self, connection: BackendConnection) -> None:
        """See L{ConnectionOwner<llmux.backend.connection.ConnectionOwner>}."""
        if connection.generation != self.generation:
            connection.close()
        elif self._waiting:
            connection.begin(self._waiting.popitem(last=False)[0])
        elif len(self._idle) >= self._pool.settings.max_idle:
            connection.close()
        else:
            self._idle[connection] = None
            connection.idle_epoch = self._epoch
            if self._sweep is None:
                self._sweep_later()

    def connection_lost(self, connection: BackendConnection) -> None:
        """See L{ConnectionOwner<llmux.backend.connection.ConnectionOwner>}."""
        self._idle.pop(connection, None)

    def begin_anew(self, exchange: IExchange) -> None:
        """See L{ConnectionOwner<llmux.backend.connection.ConnectionOwner>}."""
        self._fresh[exchange] = None
        self._connect()

    # ---------------------------------------------------------- connecting

    def _connect(self) -> None:
        attempts = self._attempts
        most = self._pool.settings.max_connecting
        while len(attempts) < min(most, len(self._waiting) + len(self._fresh)):
            attempt = _Attempt(self)
            attempts.add(attempt)
            self._addresses.find(attempt)

    def connect_to(self, attempt: _Attempt, address: str) -> IConnector:
        """Try to connect to this address, which is one of the backend's."""
        reactor: IReactorTCP = self._reactor
        return reactor.connectTCP(
            address, self.port, attempt, timeout=self._pool.settings.connect_timeout
        )

    def attempt_succeeded(self, attempt: _Attempt, address: str) -> BackendConnection:
        """Return the protocol for the new connection."""
        self._attempts.discard(attempt)
        self._addresses.prefer(address)
        return BackendConnection(self)

    def attempt_failed(self, attempt: _Attempt, error: BaseException) -> None:
        """
        Fail the exchanges that wait, because no address of the backend could be connected to.
        """
        if attempt not in self._attempts:
            return
        self._attempts.discard(attempt)
        self._not_connected(error)
        self._connect()

    def _not_connected(self, error: BaseException) -> None:
        """Fail the exchanges that waited for a connection that could not be made."""
        # If this machine lacks something, that says nothing about the backend.
        ours = isinstance(error, ConnectError) and (
            isinstance(error, ConnectBindError) or error.osError in _OURS
        )
        failed = [*self._fresh, *self._waiting]
        if isinstance(error, TimeoutError):
            # Perhaps only the backend's listen queue is full, so the other exchanges may still
            # succeed.
            failed = failed[:1]
            reason = "the backend does not accept connections (timed out)"
        elif isinstance(error, ConnectionRefusedError):
            reason = "the backend refused the connection"
        else:
            # Addresses and errors of the system are for the log, not for clients.
            reason = "the backend cannot be connected to"
        now = self.seconds()
        if failed and now >= self._log_next and self._pool.settings.logs_failures:
            self._log_next = now + _LOG_INTERVAL
            self._log.info(
                "no connection to the backend at {host}:{port}: {error}",
                event="backend_not_connected",
                host=self.host,
                port=self.port,
                error=str(error) or repr(error),
            )
        for exchange in failed:
            # While an earlier exchange failed, this one may have been withdrawn, or connected.
            if exchange in self._fresh or exchange in self._waiting:
                self.withdraw(exchange)
                exchange.failed(reason, backend_in_doubt=not ours)

    # ------------------------------------------------------------- closing

    def forget(self) -> None:
        """
        Use none of the connections made so far again, and carry no exchange that waits for a
        connection, because the model is about to be put to sleep.  Each of these exchanges
        fails in the reactor's next turn, and not at once, because the caller is in the middle
        of a switch.
        """
        self.generation += 1
        self.close_unused()
        attempts = list(self._attempts)
        self._attempts.clear()
        for attempt in attempts:
            attempt.stop()
        for waiting in (self._fresh, self._waiting):
            self._given_up.update(waiting)
            waiting.clear()
        if self._given_up and self._giving_up is None:
            clock: IReactorTime = self._reactor
            self._giving_up = clock.callLater(0, self._give_up)

    def close_unused(self) -> None:
        """Close the connections that are unused."""
        idle = list(self._idle)
        self._idle.clear()
        for connection in idle:
            connection.close()

    def _give_up(self) -> None:
        self._giving_up = None
        while self._given_up:
            exchange, _ = self._given_up.popitem(last=False)
            exchange.failed("the model was put to sleep first", backend_in_doubt=True)

    def close(self) -> None:
        """Do as L{forget} does, without delay, and leave no timer."""
        self.forget()
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._give_up()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _sweep_later(self) -> None:
        clock: IReactorTime = self._reactor
        self._sweep = clock.callLater(self._pool.settings.idle_timeout / 2, self._sweep_idle)

    def _sweep_idle(self) -> None:
        self._sweep = None
        self._epoch += 1
        old = [c for c in self._idle if c.idle_epoch < self._epoch - 2]
        for connection in old:
            del self._idle[connection]
            connection.close()
        if self._idle:
            self._sweep_later()


class _Attempt(ClientFactory):
    """
    An attempt makes one new connection, to the first of the backend's addresses that accepts
    it.
    """

    noisy = False

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._addresses: list[str] = []
        self._connector: IConnector | None = None
        self._stopped = False

    def addresses_found(self, addresses: list[str]) -> None:
        """See L{AddressesWanted<llmux.backend.addresses.AddressesWanted>}."""
        if not self._stopped:
            self._addresses = addresses[::-1]
            self._try_next()

    def addresses_not_found(self, error: BaseException) -> None:
        """See L{AddressesWanted<llmux.backend.addresses.AddressesWanted>}."""
        self._backend.attempt_failed(self, error)

    def _try_next(self) -> None:
        self._address = self._addresses.pop()
        self._connector = self._backend.connect_to(self, self._address)

    def buildProtocol(  # type: ignore[override] # Factory's wants a Protocol, IFactory's an IProtocol
        self, addr: IAddress | None
    ) -> BackendConnection:
        """See L{IProtocolFactory.buildProtocol}."""
        self._connector = None
        return self._backend.attempt_succeeded(self, self._address)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        """Try the next address, because this one cannot be connected to."""
        self._connector = None
        if self._addresses and not self._stopped:
            self._try_next()
        else:
            self._backend.attempt_failed(self, reason.value or ConnectError())

    def stop(self) -> None:
        """Give up the attempt to connect."""
        self._stopped = True
        connector = self._connector
        if connector is not None:
            connector.stopConnecting()
        else:
            self._backend.attempt_failed(self, TimeoutError("stopped"))
