"""
Keep-alive connections to backends.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
from twisted.python.failure import Failure

from llmux.backend.addresses import Addresses
from llmux.backend.connection import BackendConnection
from llmux.backend.exchange import IExchange
from llmux.backend.reply import ReplyHead

__all__ = ["Backend", "BackendPool", "PoolSettings"]

_OURS = frozenset(
    {errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
)
"""Errors of this machine's: no files, ports or memory left for another connection."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """
    Limits for each backend.

    @ivar connect_timeout: seconds for one attempt to connect.
    @ivar idle_timeout: seconds after which an unused connection is closed (at
        the latest half as much again).
    @ivar max_idle: how many unused connections are kept.
    @ivar max_connecting: how many attempts to connect run at a time, so that
        thousands of requests that may go at once do not overflow the
        backend's listen queue.
    """

    connect_timeout: float = 10.0
    idle_timeout: float = 60.0
    max_idle: int = 1024
    max_connecting: int = 64


class BackendPool:
    """The connections to all backends."""

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
        The backend at that address.

        @param host: a name, an IPv4 or an IPv6 address (without brackets).
        """
        key = (host, port)
        backend = self._backends.get(key)
        if backend is None:
            backend = self._backends[key] = Backend(self, host, port)
        return backend

    def forget(self, host: str, port: int) -> None:
        """
        Close the connections to that backend that are unused, and those in
        use as soon as their exchange is over.
        """
        backend = self._backends.get((host, port))
        if backend is not None:
            backend.forget()

    def close(self) -> None:
        """
        Close what is unused, give up what is about to connect, leave no
        timer.  Exchanges in progress end as they end.
        """
        for backend in self._backends.values():
            backend.close()


class Backend:
    """
    One address, and the connections to it.

    @ivar host_header: what the Host header of its requests says.
    @ivar heads: of late replies, by their bytes: a pure function's table.
    @ivar generation: grows when the connections made so far are not to be
        used again.
    """

    __slots__ = (
        "_addresses",
        "_attempts",
        "_connections",
        "_epoch",
        "_fresh",
        "_idle",
        "_pool",
        "_reactor",
        "_sweep",
        "_waiting",
        "generation",
        "heads",
        "host",
        "host_header",
        "port",
        "seconds",
    )

    def __init__(self, pool: BackendPool, host: str, port: int) -> None:
        self.host = host
        self.port = port
        name = f"[{host}]" if isIPv6Address(host) else host
        self.host_header = f"{name}:{port}".encode("idna" if not name.isascii() else "ascii")
        self.generation = 0
        self.heads: dict[bytes, ReplyHead] = {}
        self.seconds: Callable[[], float] = pool.reactor.seconds
        self._pool = pool
        self._reactor: Any = pool.reactor
        self._addresses = Addresses(pool.reactor, host)
        # The last to become idle is the first to be used again.
        self._idle: dict[BackendConnection, None] = {}
        self._epoch = 0
        self._sweep: IDelayedCall | None = None
        # Those that may take a used connection, and those that must have a new one.
        self._waiting: OrderedDict[IExchange, None] = OrderedDict()
        self._fresh: OrderedDict[IExchange, None] = OrderedDict()
        self._attempts: set[_Attempt] = set()

    # --------------------------------------------------------- for exchanges

    def begin(self, exchange: IExchange) -> None:
        """
        Carry the exchange on a connection: at once if one is idle, else on
        the first that becomes free or is made.
        """
        if self._idle:
            self._idle.popitem()[0].begin(exchange)
        else:
            self._waiting[exchange] = None
            self._connect()

    def withdraw(self, exchange: IExchange) -> None:
        """The exchange waits for a connection no longer; it is told nothing more."""
        self._waiting.pop(exchange, None)
        self._fresh.pop(exchange, None)

    # ------------------------------------------------------- for connections

    def connection_made(self, connection: BackendConnection) -> None:
        """It is new and has nothing to do."""
        if self._fresh:
            connection.begin(self._fresh.popitem(last=False)[0])
        else:
            self.connection_freed(connection)
        self._connect()

    def connection_freed(self, connection: BackendConnection) -> None:
        """Its exchange is over, and it could carry another."""
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
        """It will carry nothing any more."""
        self._idle.pop(connection, None)

    def begin_anew(self, exchange: IExchange) -> None:
        """
        The connection that it went out on had been used before and was closed
        without a word: repeat it on a new one.
        """
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
        """Try one of the backend's addresses."""
        reactor: IReactorTCP = self._reactor
        return reactor.connectTCP(
            address, self.port, attempt, timeout=self._pool.settings.connect_timeout
        )

    def attempt_succeeded(self, attempt: _Attempt, address: str) -> BackendConnection:
        """Here is the protocol for it."""
        self._attempts.discard(attempt)
        self._addresses.prefer(address)
        return BackendConnection(self)

    def attempt_failed(self, attempt: _Attempt, error: BaseException) -> None:
        """No address of the backend could be connected to."""
        if attempt not in self._attempts:
            return
        self._attempts.discard(attempt)
        # Then it says nothing about the backend: no doubt is cast on it.
        ours = isinstance(error, ConnectError) and (
            isinstance(error, ConnectBindError) or error.osError in _OURS
        )
        if isinstance(error, TimeoutError):
            # Perhaps only its listen queue is full: others may have more luck.
            queue = self._fresh or self._waiting
            failed = [next(iter(queue))] if queue else []
            reason = "the backend does not accept connections (timed out)"
        else:
            failed = [*self._fresh, *self._waiting]
            reason = (
                "the backend refused the connection"
                if isinstance(error, ConnectionRefusedError)
                else f"the backend cannot be connected to ({error})"
            )
        for exchange in failed:
            # What another's failure set off may have withdrawn it, or found it a connection.
            if exchange in self._fresh or exchange in self._waiting:
                self.withdraw(exchange)
                exchange.failed(reason, ours)
        self._connect()

    # ------------------------------------------------------------- closing

    def forget(self) -> None:
        """Use none of the connections made so far again."""
        self.generation += 1
        idle = list(self._idle)
        self._idle.clear()
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """As L{forget}, and stop connecting."""
        self.forget()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for attempt in list(self._attempts):
            attempt.stop()

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
    """One new connection, at whichever of the backend's addresses answers first in turn."""

    noisy = False

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._addresses: list[str] = []
        self._connector: IConnector | None = None
        self._stopped = False

    def addresses_found(self, addresses: list[str]) -> None:
        """Try them in this order."""
        if not self._stopped:
            self._addresses = addresses[::-1]
            self._try_next()

    def _try_next(self) -> None:
        self._address = self._addresses.pop()
        self._connector = self._backend.connect_to(self, self._address)

    def buildProtocol(  # type: ignore[override] # Factory's wants a Protocol, IFactory's an IProtocol
        self, addr: IAddress | None
    ) -> BackendConnection:
        self._connector = None
        return self._backend.attempt_succeeded(self, self._address)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._connector = None
        if self._addresses and not self._stopped:
            self._try_next()
        else:
            self.not_possible(reason.value or ConnectError())

    def not_possible(self, error: BaseException) -> None:
        """There is nothing left to try."""
        self._backend.attempt_failed(self, error)

    def stop(self) -> None:
        """Give up; its exchange fails."""
        self._stopped = True
        connector = self._connector
        if connector is not None:
            connector.stopConnecting()
        else:
            self.not_possible(TimeoutError("stopped"))
