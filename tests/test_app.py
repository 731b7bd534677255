"""
These tests check the parts put together: each setting of a configuration reaches the part that
it is for.
"""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from twisted.internet.error import TimeoutError
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from llmux.app import assemble, build_app
from llmux.backend.connection import BackendConnection
from llmux.backend.pool import BackendPool
from llmux.config import Config, ModelConfig
from llmux.web.site import LlmuxSite
from tests.fakes import FakeHookRunner
from tests.proxy_fakes import BackendEnd
from tests.proxy_world import ClientEnd, chat

MODEL = ModelConfig(port=8001, host="10.0.0.1", wake="w", sleep="s", alive="a")


class App:
    """An application has a model C{a} that is awake, under a clock."""

    def __init__(self, model: ModelConfig) -> None:
        self.reactor = MemoryReactorClock()
        hooks = FakeHookRunner(self.reactor)
        hooks.awake.add("a")
        root, switcher = build_app(Config(models={"a": model}), self.reactor, hooks=hooks)
        switcher.start()
        self.settle()
        self.client = ClientEnd(LlmuxSite(root, self.reactor))

    def settle(self) -> None:
        """Let everything happen that takes no time."""
        for _ in range(30):
            self.reactor.advance(0)


def test_a_models_first_byte_timeout_reaches_its_requests() -> None:
    for limit in (3.0, None):
        app = App(
            ModelConfig(
                port=8001,
                host="10.0.0.1",
                wake="w",
                sleep="s",
                alive="a",
                first_byte_timeout_secs=limit,
            )
        )
        app.client.send(chat())
        connection = app.reactor.tcpClients[0][2].buildProtocol(None)
        assert isinstance(connection, BackendConnection)
        BackendEnd(connection)
        app.reactor.advance(2.9)
        app.settle()
        assert app.client.received == b""
        app.reactor.advance(0.2)
        app.settle()
        assert app.client.received.startswith(b"HTTP/1.1 502" if limit else b"")
        assert (app.client.received == b"") == (limit is None)


def test_a_502_names_neither_host_nor_port() -> None:
    app = App(MODEL)
    app.client.send(chat())
    connector = app.reactor.connectors[0]
    error = Failure(TimeoutError(osError=110, string="10.0.0.1:8001 timed out"))
    app.reactor.tcpClients[0][2].clientConnectionFailed(connector, error)
    app.settle()
    assert app.client.received.startswith(b"HTTP/1.1 502")
    assert b"10.0.0.1" not in app.client.received
    assert b"8001" not in app.client.received


def test_what_a_removed_models_hooks_have_written_is_forgotten() -> None:
    reactor = MemoryReactorClock()
    hooks = FakeHookRunner(reactor)
    app = assemble(Config(models={"a": MODEL, "b": MODEL}), reactor, hooks=hooks)
    app.switcher.start()
    for model in "ab":
        app.parts.ring.add(model, "wake", "stdout", b"ready")
    app.reconfigure(Config(models={"b": MODEL}))
    for _ in range(30):
        reactor.advance(0)
    assert list(app.switcher.models) == ["b"]
    assert [line.model for line in app.parts.ring.tail(None, 10)] == ["b"]


def pools() -> int:
    """Count the pools of connections that are still alive."""
    gc.collect()
    return sum(isinstance(each, BackendPool) for each in gc.get_objects())


def test_a_pool_for_questions_of_health_goes_with_its_configuration(tmp_path: Path) -> None:
    reactor = MemoryReactorClock()
    model = ModelConfig(port=8001, wake="w", sleep="s")

    def config(timeout: float) -> Config:
        return Config(
            models={"a": model}, client_stall_timeout_secs=timeout, state_dir=str(tmp_path)
        )

    app = assemble(config(1.0), reactor)
    before = pools()
    # One of the generations stays, because the model is not known to be asleep.
    app.reconfigure(config(2.0))
    for timeout in range(3, 9):
        app.reconfigure(config(float(timeout)))
    assert pools() == before + 1
    app.switcher.steering.pin("a", None, False, "socket").addErrback(lambda failure: None)
    for _ in range(5):
        with pytest.raises(ValueError, match="a is pinned"):
            app.reconfigure(Config(models={"b": model}, state_dir=str(tmp_path)))
    assert pools() == before + 1
