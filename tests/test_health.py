"""These tests check models without an alive script: llmux asks their backends itself."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.error import ConnectionRefusedError, TimeoutError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from llmux.config import ModelConfig
from llmux.hooks.health import HealthAsking, health_pool
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook
from tests.fakes import FakeHookRunner
from tests.interpreter import printed_by
from tests.proxy_fakes import BackendEnd


class Asked:
    """This is a question that is on its way to a backend."""

    def __init__(self, **model: Any) -> None:
        self.reactor = MemoryReactorClock()
        self.scripts = FakeHookRunner(self.reactor)
        keys: dict[str, Any] = {"port": 8001, "wake": "w", "sleep": "s"} | model
        config = ModelConfig(alive_timeout_secs=5.0, **keys)
        pool = health_pool(self.reactor)
        self.awake: list[str] = []
        self.hooks = HealthAsking(
            self.scripts,
            self.reactor,
            pool,
            {"a": config},
            {"a": config.address},
            awake=self.awake.append,
        )
        self.results: list[HookResult] = []
        self._accepted = 0

    def ask(self) -> IRunningHook:
        running = self.hooks.start("a", HookKind.ALIVE)
        running.exited.addCallback(self.results.append)
        return running

    def accept(self) -> BackendEnd:
        factory = self.reactor.tcpClients[self._accepted][2]
        self._accepted += 1
        connection: Any = factory.buildProtocol(None)
        return BackendEnd(connection)

    def refuse(self, error: Exception) -> None:
        factory = self.reactor.tcpClients[self._accepted][2]
        factory.clientConnectionFailed(self.reactor.connectors[self._accepted], Failure(error))
        self._accepted += 1

    def answer(self) -> HookResult:
        (result,) = self.results
        assert not self.reactor.getDelayedCalls() or self._accepted
        return result


def test_status_200_is_a_yes_and_others_are_a_no() -> None:
    for status, yes in ((200, True), (204, False), (404, False), (500, False), (503, False)):
        asked = Asked()
        verifyObject(IHookRunner, asked.hooks)
        verifyObject(IRunningHook, asked.ask())
        end = asked.accept()
        assert end.take().startswith(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:8001\r\n")
        end.send(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % status)
        result = asked.answer()
        assert (result.ok, result.says_no) == (yes, not yes), status
        assert str(status) in result.reason
        assert asked.awake == ["a"] * yes, "a wake's note goes when the model has said yes"


def test_no_connection_is_kept_and_a_backend_that_is_not_there_is_no_line_in_the_log() -> None:
    events: list[Any] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    try:
        asked = Asked()
        asked.ask()
        end = asked.accept()
        end.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert end.closed
        end.close()
        asked.ask()
        asked.refuse(ConnectionRefusedError())
    finally:
        globalLogPublisher.removeObserver(observer)
    assert [event for event in events if event.get("event")] == []


def test_the_path_may_be_set_and_the_host_may_be_an_ipv6_address() -> None:
    asked = Asked(health="/v1/up?x=1", host="::1")
    asked.ask()
    assert asked.accept().take().startswith(b"GET /v1/up?x=1 HTTP/1.1\r\nHost: [::1]:8001\r\n")


def test_a_refused_connection_is_a_no() -> None:
    asked = Asked()
    asked.ask()
    asked.refuse(ConnectionRefusedError())
    assert asked.answer().says_no


def test_a_connection_that_is_closed_without_a_reply_is_a_no() -> None:
    asked = Asked()
    asked.ask()
    asked.accept().close()
    assert asked.answer().says_no


def test_no_answer_in_time_is_no_answer() -> None:
    asked = Asked()
    asked.ask()
    end = asked.accept()
    asked.reactor.advance(4.9)
    assert asked.results == []
    asked.reactor.advance(0.2)
    result = asked.answer()
    assert not result.ok and not result.says_no and result.timed_out
    assert end.closed, "nobody waits for the rest"


def test_a_question_that_cannot_be_put_for_want_of_descriptors_is_no_answer() -> None:
    from errno import EMFILE

    from twisted.internet.error import ConnectError

    asked = Asked()
    asked.ask()
    asked.refuse(ConnectError(osError=EMFILE))
    result = asked.answer()
    assert not result.ok and not result.says_no


def test_a_connection_that_times_out_is_one_that_was_not_answered() -> None:
    asked = Asked()
    asked.ask()
    asked.reactor.advance(5.1)
    assert not asked.answer().says_no
    asked.refuse(TimeoutError())


def test_a_question_can_be_killed() -> None:
    asked = Asked()
    running = asked.ask()
    running.kill()
    running.kill()
    assert not asked.answer().ok
    assert [c for c in asked.reactor.getDelayedCalls() if c.active()] == []


def test_a_reply_without_an_end_is_an_answer_all_the_same() -> None:
    asked = Asked()
    asked.ask()
    asked.accept().send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
    assert asked.answer().ok


def test_a_model_with_an_alive_script_is_asked_by_that() -> None:
    asked = Asked(alive="true")
    asked.ask()
    for kind in (HookKind.WAKE, HookKind.SLEEP):
        asked.hooks.start("a", kind)
    assert [kind for _, kind in asked.scripts.started] == [
        HookKind.ALIVE,
        HookKind.WAKE,
        HookKind.SLEEP,
    ]
    asked.reactor.advance(1)
    assert asked.reactor.tcpClients == []


def test_a_model_whose_backend_nobody_knows_yet_says_no() -> None:
    asked = Asked(port=None)
    asked.ask()
    asked.reactor.advance(0)
    assert asked.answer().says_no and asked.reactor.tcpClients == []


def test_the_rest_of_a_long_reply_is_not_waited_for_longer_than_for_its_head() -> None:
    asked = Asked()
    asked.ask()
    end = asked.accept()
    end.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
    assert asked.answer().ok and not end.closed
    asked.reactor.advance(5.1)
    assert end.closed


def test_a_question_imports_nothing_large() -> None:
    """OpenSSL would cost 70 ms at the start, and 13 MiB."""
    code = (
        "import sys\n"
        "from llmux.daemon.reactor_choice import install_reactor\n"
        "from llmux.daemon.twisted_gaps import without_openssl\n"
        "with without_openssl():\n"
        "    install_reactor()\n"
        "import llmux.hooks.assembly, llmux.hooks.health\n"
        "print(sorted({'OpenSSL', 'cryptography', 'twisted.web.client'} & set(sys.modules)))\n"
    )
    assert printed_by(code) == "[]\n"


@pytest.mark.parametrize("status", [404, 500])
def test_the_log_says_an_odd_status_once(status: int) -> None:
    events: list[Any] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    try:
        asked = Asked()
        for _ in range(3):
            asked.ask()
            end = asked.accept()
            end.send(
                b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status
            )
            end.close()
    finally:
        globalLogPublisher.removeObserver(observer)
    assert [e["status"] for e in events if e.get("event") == "health_odd"] == [status]
