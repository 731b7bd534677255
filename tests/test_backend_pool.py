"""
These tests check which connection carries which exchange, and what happens when there is none.
"""

from __future__ import annotations

import errno

import pytest
from twisted.internet.error import (
    ConnectBindError,
    ConnectError,
    ConnectionRefusedError,
    TimeoutError,
    UserError,
)
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from llmux.backend.pool import BackendPool, PoolSettings
from llmux.backend.template import Repeats
from llmux.interfaces import HookKind
from llmux.proxy.drop_connections import ConnectionDroppingHooks
from tests.conftest import LoggedEvents
from tests.fakes import FakeHookRunner
from tests.proxy_fakes import (
    PLAIN,
    BackendEnd,
    Network,
    RecordedExchange,
    Reply,
    begin,
)

WITHOUT_REPLY = "the backend closed the connection without a reply"
REFUSED = "the backend refused the connection"


def used_before(network: Network) -> BackendEnd:
    """Make an idle connection that has carried an exchange."""
    begin(network)
    end = network.connect()
    end.send(PLAIN)
    end.take()
    return end


# ------------------------------------------------------------------ reuse


def test_the_last_to_become_idle_is_used_first() -> None:
    network = Network()
    begin(network, 3)
    ends = [network.connect() for _ in range(3)]
    for number in (1, 2, 0):
        ends[number].send(PLAIN)
        ends[number].take()
    begin(network, 2)
    assert [end.take() for end in ends] == [b"1\r\n", b"", b"2\r\n"]
    assert network.attempts() == 0


def test_who_waits_takes_whichever_connection_comes_first() -> None:
    network = Network(PoolSettings(max_connecting=1))
    exchanges = begin(network, 3)
    assert network.attempts() == 1
    first = network.connect()
    assert network.attempts() == 1
    first.send(PLAIN)
    assert first.take() == b"1\r\n2\r\n"
    second = network.connect()
    assert second.take() == b"3\r\n"
    for end in (first, second):
        end.send(PLAIN)
    assert [e.reply.body for e in exchanges] == [b"ab"] * 3


def test_thousands_do_not_connect_at_once() -> None:
    network = Network(PoolSettings(max_connecting=64))
    exchanges = begin(network, 5000)
    most = 0
    done = 0
    while network.attempts():
        most = max(most, network.attempts())
        end = network.connect()
        if done % 3 == 0:
            end.send(PLAIN)
        done += 1
    assert most == 64
    assert all(e.times_connected == 1 for e in exchanges)


def test_the_idle_are_limited_in_number() -> None:
    network = Network(PoolSettings(max_idle=2))
    begin(network, 3)
    ends = [network.connect() for _ in range(3)]
    for end in ends:
        end.send(PLAIN)
    assert [end.closed for end in ends] == [False, False, True]


def test_the_idle_are_closed_after_their_time() -> None:
    network = Network(PoolSettings(idle_timeout=60))
    end = used_before(network)
    network.reactor.pump([1] * 29)
    other = begin(network)
    assert end.take() == b"1\r\n"
    end.send(PLAIN)
    assert other[0].reply.outcome == "ended"
    network.reactor.pump([1] * 60)
    assert not end.closed
    network.reactor.pump([1] * 30)
    assert end.closed
    assert network.reactor.getDelayedCalls() == []


def test_a_connection_that_closes_while_idle_is_forgotten() -> None:
    network = Network()
    end = used_before(network)
    end.close()
    begin(network)
    assert network.attempts() == 1


def test_a_forgotten_backend_keeps_no_connection_but_those_in_use() -> None:
    network = Network()
    begin(network, 2)
    idle, busy = network.connect(), network.connect()
    idle.send(PLAIN)
    network.pool.forget("10.0.0.1", 8000)
    network.pool.forget("10.0.0.1", 9999)
    assert idle.closed
    assert not busy.closed
    busy.send(PLAIN)
    assert busy.closed
    begin(network)
    assert network.attempts() == 1


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_sleep_hook_gives_up_what_waits_at_a_server_of_its_models_own(
    is_shared: bool,
) -> None:
    network = Network()
    hooks = FakeHookRunner(Clock())
    backends = {"a": ("10.0.0.1", 8000), "b": ("10.0.0.1", 8000 if is_shared else 8001)}
    dropping = ConnectionDroppingHooks(hooks, network.pool, backends)
    waiting = begin(network)
    dropping.start("a", HookKind.SLEEP)
    network.reactor.advance(0)
    if is_shared:
        network.connect().send(PLAIN)
    assert (waiting[0].reply.outcome == "ended") is is_shared
    assert waiting[0].reply.outcome


def test_a_closed_pool_keeps_no_connection_but_those_in_use() -> None:
    network = Network()
    begin(network, 2)
    idle, busy = network.connect(), network.connect()
    idle.send(PLAIN)
    network.pool.close()
    assert idle.closed
    assert not busy.closed
    busy.send(PLAIN)
    assert busy.closed
    assert network.reactor.getDelayedCalls() == []


def test_a_pool_that_closes_while_it_connects_stops_connecting() -> None:
    network = Network()
    (exchange,) = begin(network)
    network.pool.close()
    (connector,) = network.reactor.connectors
    assert connector.stoppedConnecting
    network.reactor.tcpClients[0][2].clientConnectionFailed(connector, Failure(UserError()))
    assert exchange.reply.in_doubt is True
    assert network.attempts() == 0


def test_a_withdrawn_exchange_leaves_its_connection_to_the_next() -> None:
    network = Network(PoolSettings(max_connecting=1))
    first, second = begin(network, 2)
    network.backend.withdraw(first)
    end = network.connect()
    assert end.take() == b"2\r\n"
    assert first.times_connected == 0
    end.send(PLAIN)
    assert second.reply.outcome == "ended"
    assert network.attempts() == 0


# ------------------------------------------------------------- repeating


@pytest.mark.parametrize("cleanly", [True, False])
def test_a_used_connection_that_closes_without_a_word(cleanly: bool) -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network)
    assert end.take() == b"1\r\n"
    end.close(cleanly=cleanly)
    assert exchange.reply == Reply()
    fresh = network.connect()
    assert fresh.take() == b"1\r\n"
    fresh.send(PLAIN)
    assert exchange.reply.body == b"ab"
    assert exchange.times_connected == 2


def test_a_request_is_repeated_on_a_new_connection_and_no_other() -> None:
    network = Network(PoolSettings(max_connecting=2))
    dead, other = used_before(network), None
    (exchange,) = begin(network)
    (waits,) = begin(network)
    other = network.connect()
    assert other.take() == b"1\r\n"
    dead.close()
    other.send(PLAIN)
    assert waits.reply.outcome == "ended"
    # The connection is idle now, but it is not used for an exchange that must have a new one.
    assert other.take() == b""
    fresh = network.connect()
    assert fresh.take() == b"1\r\n"
    fresh.close()
    assert exchange.reply == Reply(outcome=WITHOUT_REPLY, in_doubt=True)


def test_a_post_is_not_repeated_when_the_backend_may_have_worked_on_it() -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network)
    network.reactor.advance(1.5)
    end.close()
    assert exchange.reply == Reply(outcome=WITHOUT_REPLY, in_doubt=True)
    assert network.attempts() == 0


def test_an_idempotent_request_is_repeated_on_a_new_connection() -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network, repeats=Repeats.ALWAYS)
    network.reactor.advance(1.5)
    end.close()
    assert network.attempts() == 1
    network.connect().send(PLAIN)
    assert exchange.reply.outcome == "ended"


def test_what_must_not_be_repeated_is_not() -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network, repeats=Repeats.NEVER)
    end.close()
    assert exchange.reply == Reply(outcome=WITHOUT_REPLY, in_doubt=True)
    assert network.attempts() == 0


def test_nothing_is_repeated_after_a_byte() -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network, repeats=Repeats.ALWAYS)
    end.send(b"H")
    end.close()
    assert exchange.reply == Reply(
        outcome="the backend closed the connection in mid-reply", in_doubt=False
    )
    assert network.attempts() == 0


def test_withdrawing_what_is_to_be_repeated() -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network)
    end.close()
    network.backend.withdraw(exchange)
    assert network.connect().take() == b""


def test_a_request_is_begun_anew_once_and_no_more() -> None:
    network = Network()
    first, second = used_before(network), None
    (exchange,) = begin(network, repeats=Repeats.ALWAYS)
    first.close()
    assert network.attempts() == 1
    assert exchange.repeats.value == "always", "it has not been sent again"
    second = network.connect()
    assert exchange.repeats.value == "never"
    second.close()
    assert exchange.reply == Reply(outcome=WITHOUT_REPLY, in_doubt=True)


# ------------------------------------------------- a backend that is about to go

ASLEEP = "the model was put to sleep first"


def test_what_is_lost_on_an_outdated_connection_is_not_repeated() -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network, repeats=Repeats.ALWAYS)
    network.pool.forget("10.0.0.1", 8000)
    end.close()
    assert exchange.reply == Reply(outcome=WITHOUT_REPLY, in_doubt=True)
    assert network.attempts() == 0


def test_what_waits_for_a_connection_does_not_go_out_any_more() -> None:
    network = Network(PoolSettings(max_connecting=1))
    used = used_before(network)
    repeated, first, second = begin(network, 3)
    used.close()
    network.pool.forget("10.0.0.1", 8000)
    # The exchanges have not failed yet: the model is just being put to sleep.
    assert [e.reply for e in (repeated, first, second)] == [Reply()] * 3
    network.backend.withdraw(second)
    network.reactor.advance(0)
    for exchange in (repeated, first):
        assert exchange.reply == Reply(outcome=ASLEEP, in_doubt=True)
    assert second.reply == Reply()
    assert (repeated.times_connected, first.times_connected) == (1, 0)


def test_a_connection_that_is_being_made_is_given_up() -> None:
    network = Network(PoolSettings(max_connecting=1))
    begin(network)
    network.pool.forget("10.0.0.1", 8000)
    (connector,) = network.reactor.connectors
    assert connector.stoppedConnecting
    # The end of that connection does not concern later exchanges.
    (later,) = begin(network)
    network.reactor.tcpClients[0][2].clientConnectionFailed(connector, Failure(UserError()))
    assert later.reply == Reply()
    network.reactor.advance(0)
    network.connect().send(PLAIN)
    assert later.reply.outcome == "ended"


# ------------------------------------------------------------ connecting


def test_a_refusal_is_everybodys() -> None:
    network = Network(PoolSettings(max_connecting=2))
    exchanges = begin(network, 5)
    network.refuse(ConnectionRefusedError())
    assert [e.reply for e in exchanges] == [Reply(outcome=REFUSED, in_doubt=True)] * 5
    network.refuse(ConnectionRefusedError())
    assert network.attempts() == 0
    (later,) = begin(network)
    network.connect().send(PLAIN)
    assert later.reply.outcome == "ended"


def test_a_time_limit_is_one_requests() -> None:
    network = Network(PoolSettings(max_connecting=1, connect_timeout=7))
    first, second = begin(network, 2)
    assert network.reactor.tcpClients[0][3] == 7
    network.refuse(TimeoutError())
    assert first.reply.outcome == "the backend does not accept connections (timed out)"
    assert first.reply.in_doubt is True
    assert second.reply == Reply()
    network.connect().send(PLAIN)
    assert second.reply.outcome == "ended"


def test_errors_of_the_system_are_for_the_log_and_not_for_clients(
    logged: LoggedEvents,
) -> None:
    network = Network()
    for _ in range(2):
        (exchange,) = begin(network)
        network.refuse(ConnectError(string="no more sockets"))
        assert exchange.reply.outcome == "the backend cannot be connected to"
    # The event is logged once a second.
    (event,) = logged.of("backend_not_connected")
    assert "no more sockets" in event
    assert "10.0.0.1:8000" in event
    network.reactor.advance(1)
    begin(network)
    network.refuse(ConnectError())
    assert len(logged.of("backend_not_connected")) == 2


@pytest.mark.parametrize(
    "error",
    [
        ConnectBindError(errno.EMFILE, "Too many open files"),
        ConnectError(errno.EADDRNOTAVAIL, "Cannot assign requested address"),
    ],
)
def test_what_this_machine_lacks_is_not_the_backends_fault(error: ConnectError) -> None:
    network = Network()
    exchanges = begin(network, 2)
    network.refuse(error)
    assert [e.reply.in_doubt for e in exchanges] == [False, False]


def test_a_failure_that_sets_off_the_withdrawal_of_others() -> None:
    network = Network()

    class Exchange(RecordedExchange):
        def failed(self, reason: str, *, backend_in_doubt: bool) -> None:
            super().failed(reason, backend_in_doubt=backend_in_doubt)
            network.backend.withdraw(second)

    first, second, third = Exchange(), RecordedExchange(), RecordedExchange()
    for exchange in (first, second, third):
        network.backend.begin(exchange)
    network.refuse(ConnectionRefusedError())
    assert first.reply.outcome == third.reply.outcome == REFUSED
    assert second.reply == Reply()


def test_a_backend_has_a_host_header_and_is_made_once() -> None:
    pool = BackendPool(MemoryReactorClock())
    assert pool.backend("127.0.0.1", 80).host_header == b"127.0.0.1:80"
    assert pool.backend("::1", 8000).host_header == b"[::1]:8000"
    assert pool.backend("gpu.example", 8000).host_header == b"gpu.example:8000"
    assert pool.backend("bücher", 8000).host_header == b"xn--bcher-kva:8000"
    assert pool.backend("gpu.example", 8000) is pool.backend("gpu.example", 8000)
