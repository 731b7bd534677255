"""These tests check backends that are known by name."""

from __future__ import annotations

from typing import cast

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from zope.interface import directlyProvides, implementer, providedBy

from tests.conftest import LoggedEvents
from tests.proxy_fakes import (
    PLAIN,
    Network,
    Reply,
    begin,
)

REFUSED = "the backend refused the connection"


@implementer(IHostResolution)
class Resolution:
    name = "gpu"

    def cancel(self) -> None:
        raise NotImplementedError


class Names:
    """This resolver answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[IResolutionReceiver] = []

    def resolveHostName(
        self, receiver: IResolutionReceiver, hostName: str, *args: object
    ) -> IHostResolution:
        assert hostName == "gpu"
        self.asked.append(receiver)
        resolution = Resolution()
        receiver.resolutionBegan(resolution)
        return resolution

    def answer(self, *addresses: str) -> None:
        receiver = self.asked.pop()
        for address in addresses:
            family = IPv6Address if ":" in address else IPv4Address
            receiver.addressResolved(family("TCP", address, 0))
        receiver.resolutionComplete()


@pytest.fixture
def named() -> tuple[Network, Names]:
    network = Network()
    names = Names()
    network.reactor.nameResolver = cast(IHostnameResolver, names)
    directlyProvides(
        network.reactor, IReactorPluggableNameResolver, *providedBy(network.reactor)
    )
    network.backend = network.pool.backend("gpu", 8000)
    return network, names


def test_a_name_is_asked_for_once_by_all(named: tuple[Network, Names]) -> None:
    network, names = named
    begin(network, 5)
    assert len(names.asked) == 1
    names.answer("10.0.0.7")
    assert [client[0] for client in network.reactor.tcpClients] == ["10.0.0.7"] * 5


def test_the_next_address_is_tried_and_remembered(named: tuple[Network, Names]) -> None:
    network, names = named
    exchange, _ = begin(network, 2)
    names.answer("::1", "127.0.0.1")
    network.refuse(ConnectionRefusedError())
    assert exchange.reply == Reply()
    assert [client[0] for client in network.reactor.tcpClients] == ["::1", "::1", "127.0.0.1"]
    network.refuse(ConnectionRefusedError())
    network.connect().send(PLAIN)
    assert exchange.reply.outcome == "ended"
    network.connect()
    begin(network, 3)
    assert network.reactor.tcpClients[-1][0] == "127.0.0.1"


def test_no_address_is_left(named: tuple[Network, Names]) -> None:
    network, names = named
    (exchange,) = begin(network)
    names.answer("::1", "127.0.0.1")
    network.refuse(ConnectionRefusedError())
    network.refuse(ConnectionRefusedError())
    assert exchange.reply.outcome == REFUSED


def test_an_unknown_name_is_for_the_log_and_not_for_clients(
    named: tuple[Network, Names], logged: LoggedEvents
) -> None:
    network, names = named
    exchanges = begin(network, 2)
    names.answer()
    for exchange in exchanges:
        assert exchange.reply.outcome == "the backend cannot be connected to"
        assert exchange.reply.in_doubt is True
    (event,) = logged.of("backend_not_connected")
    assert "no address found for 'gpu'" in event
    begin(network)
    assert len(names.asked) == 1


def test_a_name_is_asked_for_again_after_a_while(named: tuple[Network, Names]) -> None:
    network, names = named
    begin(network)
    names.answer("10.0.0.7")
    network.connect()
    begin(network)
    assert names.asked == []
    network.reactor.advance(11)
    begin(network)
    assert len(names.asked) == 1


def test_a_pool_that_closes_while_a_name_is_looked_up_connects_no_more(
    named: tuple[Network, Names],
) -> None:
    network, names = named
    (exchange,) = begin(network)
    network.pool.close()
    assert exchange.reply.in_doubt is True
    names.answer("10.0.0.7")
    assert network.reactor.tcpClients == []
