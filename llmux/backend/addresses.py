"""
The addresses behind a backend's host name.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from zope.interface import implementer

__all__ = ["Addresses", "Asker"]


class Asker(Protocol):
    """Who wants to know the addresses."""

    def addresses_found(self, addresses: list[str]) -> None:
        """There is at least one."""

    def not_possible(self, error: BaseException) -> None:
        """There is none."""


@implementer(IResolutionReceiver)
class Addresses:
    """
    Finds the addresses of a host, asking the resolver once for all who want
    to know at a time and keeping the answer for C{keep} seconds.
    """

    keep = 10.0

    def __init__(self, reactor: Any, host: str) -> None:
        self._reactor = reactor
        self._host = host
        self._known: list[str] = []
        self._found: list[str] = []
        self._until = float("inf")
        self._askers: list[Asker] = []
        literal = isIPAddress(host) or isIPv6Address(host)
        if literal or not IReactorPluggableNameResolver.providedBy(reactor):
            # Without a resolver the reactor's own connectTCP resolves names.
            self._known = [host]

    def find(self, asker: Asker) -> None:
        """Tell it the addresses, now or later."""
        if self._known and self._reactor.seconds() < self._until:
            asker.addresses_found(list(self._known))
            return
        self._askers.append(asker)
        if len(self._askers) == 1:
            self._reactor.nameResolver.resolveHostName(self, self._host)

    def prefer(self, address: str) -> None:
        """This one answered: name it first."""
        known = self._known
        if len(known) > 1 and known[0] != address and address in known:
            known.remove(address)
            known.insert(0, address)

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self._found = []

    def addressResolved(self, address: IAddress) -> None:
        if isinstance(address, IPv4Address | IPv6Address):
            self._found.append(address.host)

    def resolutionComplete(self) -> None:
        askers, self._askers = self._askers, []
        self._known = list(dict.fromkeys(self._found))
        self._until = self._reactor.seconds() + self.keep
        for asker in askers:
            if self._known:
                asker.addresses_found(list(self._known))
            else:
                asker.not_possible(DNSLookupError(f"no address found for {self._host!r}"))
