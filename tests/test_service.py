"""
These tests check llmux as a service in a process of somebody else: made, started, stopped,
aborted.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.application.service import IService
from twisted.internet import reactor as installed
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.threads import deferToThread
from zope.interface.verify import verifyObject

from llmux import Phase
from llmux.config import Config, ConfigError
from llmux.daemon.reload import ConfigFile, Reloader
from llmux.daemon.service import LlmuxService, access_rules, make_service
from tests.daemon import Backend, ask, connect

reactor: Any = installed


def asked(port: int, model: str = "a") -> Deferred[tuple[int, bytes]]:
    """Ask in a thread, on a connection of its own; the Deferred fires with the answer."""

    def converse() -> tuple[int, bytes]:
        with closing(connect(port)) as connection:
            return ask(connection, model)

    return deferToThread(converse)


def status_for_host(port: int, host: str) -> Deferred[int]:
    """Ask for the health under a name of the host; the Deferred fires with the status."""

    def converse() -> int:
        with closing(connect(port)) as connection:
            connection.request("GET", "/health", headers={"Host": host})
            return connection.getresponse().status

    return deferToThread(converse)


@pytest_twisted.ensureDeferred
async def test_a_service_provides_its_interface(configure: Callable[..., Config]) -> None:
    service = make_service(configure(), reactor)
    verifyObject(IService, service)
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_service_answers_from_its_start_until_it_is_stopped(
    configure: Callable[..., Config],
) -> None:
    config = configure()
    service = LlmuxService(config, reactor)
    early = asked(config.port)
    service.startService()
    assert await early == (200, b'{"answer": 42}')
    assert await asked(config.port, "b") == (200, b'{"answer": 42}')
    assert service.switcher.status()["b"].phase is Phase.AWAKE
    status, body = await asked(config.port, "c")
    assert status == 404
    assert json.loads(body)["error"]["code"] == "model_not_found"
    await service.stopService()
    with pytest.raises(OSError):
        await asked(config.port)


@pytest_twisted.ensureDeferred
async def test_idle_connections_do_not_hold_up_the_end(
    configure: Callable[..., Config],
) -> None:
    config = configure()
    service = LlmuxService(config, reactor)
    service.startService()
    with closing(connect(config.port)) as idle:
        assert (await deferToThread(ask, idle))[0] == 200
        began = reactor.seconds()
        await service.stopService()
        assert reactor.seconds() - began < 2


@pytest_twisted.ensureDeferred
async def test_a_service_that_is_stopped_twice_waits_for_requests_in_flight(
    configure: Callable[..., Config], behind: Backend
) -> None:
    config = configure()
    service = LlmuxService(config, reactor)
    service.startService()
    behind.holding = True
    answer = asked(config.port)
    await deferToThread(behind.came.acquire)
    stops = [service.stopService(), service.stopService()]
    assert [stop.called for stop in stops] == [False, False]
    behind.let_go.set()
    assert await answer == (200, b'{"answer": 42}')
    for stop in stops:
        await stop
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_an_aborted_service_does_not_wait_for_requests_in_flight(
    configure: Callable[..., Config], behind: Backend
) -> None:
    config = configure()
    service = LlmuxService(config, reactor)
    service.startService()
    behind.holding = True
    answer = asked(config.port)
    await deferToThread(behind.came.acquire)
    stop = service.stopService()
    service.abort()
    await stop
    try:
        status, _ = await answer
    except (OSError, HTTPException):
        status = 0
    assert status != 200


@pytest_twisted.ensureDeferred
async def test_a_client_that_takes_nothing_of_its_reply_is_cut_off(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads nothing would keep the stop waiting for ever."""
    monkeypatch.setattr("llmux.daemon.service.LAST_REPLIES", 0.2)
    config = configure(shutdown_timeout_secs=0.1)
    service = LlmuxService(config, reactor)
    service.startService()
    with closing(socket.create_connection(("127.0.0.1", config.port))) as client:
        # A request that never becomes complete holds its connection.
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        )
        health = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

        def healthy() -> bytes:
            with closing(socket.create_connection(("127.0.0.1", config.port))) as other:
                other.sendall(health)
                return other.recv(12)

        assert await deferToThread(healthy) == b"HTTP/1.1 200"
        await service.stopService()


@pytest_twisted.ensureDeferred
async def test_models_are_put_to_sleep_on_exit_if_configured(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    hooks = {"wake": "touch awake", "sleep": "rm awake", "alive": "test -e awake"}
    config = configure(
        models={"a": {"port": 1, **hooks}}, sleep_on_exit=True, shutdown_timeout_secs=5
    )
    service = LlmuxService(config, reactor)
    service.startService()
    # Nothing listens at port 1, but it has been woken to find out.
    assert (await asked(config.port))[0] in (502, 503)
    await service.stopService()
    assert service.switcher.status()["a"].phase is Phase.ASLEEP
    assert "awake" not in os.listdir(tmp_path)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("error", [ValueError("a setting"), RuntimeError("a defect")])
async def test_a_new_address_changes_nothing_if_the_configuration_is_not_taken_over(
    configure: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    config = configure(host="0.0.0.0")
    service = LlmuxService(config, reactor)
    service.startService()
    listen_address = service.entrance.listen_addresses[0]
    url = f"http://127.0.0.1:{config.port}"
    assert (listen_address.is_private, listen_address.url) == (False, url)
    refused = configure(host="127.0.0.1", request_log="requests.jsonl", policy={"name": "fifo"})

    def fails(*arguments: object) -> None:
        raise error

    reloader = Reloader(service, ConfigFile(str(tmp_path / "config.json")), reactor)
    with monkeypatch.context() as patch:
        patch.setattr("llmux.app.build_policy", fails)
        with pytest.raises((ConfigError, RuntimeError)):
            reloader.reload()
    assert b"llmux_config_last_reload_success 0.0" in service.metrics.expose()
    assert (listen_address.is_private, listen_address.url) == (False, url)
    assert service.config.port == config.port
    turn: Deferred[None] = Deferred()
    reactor.callLater(0, turn.callback, None)
    await turn
    with pytest.raises(OSError):
        await asked(refused.port)
    assert await status_for_host(config.port, "any.example") == 200
    # The same configuration is taken over when nothing fails.
    reloader.reload()
    assert (listen_address.is_private, listen_address.url) == (
        True,
        f"http://127.0.0.1:{refused.port}",
    )
    assert await status_for_host(refused.port, "any.example") == 421
    assert (await asked(refused.port))[0] == 200
    configure(port=None, listen="unix:llmux.sock")
    reloader.reload()
    assert (listen_address.is_private, listen_address.url) == (True, None)
    reloader.stop()
    await service.stopService()


class TestRefused:
    def test_no_service_is_made_for_a_busy_port(self, configure: Callable[..., Config]) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as other:
            config = configure(port=other.getsockname()[1])
            with pytest.raises(ConfigError):
                make_service(config, reactor)

    def test_no_service_is_made_for_a_request_log_that_cannot_be_written(
        self, configure: Callable[..., Config], tmp_path: Path
    ) -> None:
        config = configure(request_log="no/such/file")
        with pytest.raises(ConfigError) as caught:
            make_service(config, reactor)
        assert str(caught.value) == (
            f"{config.file}: request_log: {tmp_path}/no/such/file cannot be written: "
            "no such file or directory; "
            "name a file in a directory that exists and may be written"
        )


@pytest.mark.parametrize(
    ("address", "checked"),
    [
        (IPv4Address("TCP", "127.0.0.1", 1), True),
        (IPv4Address("TCP", "127.1.2.3", 1), True),
        (IPv6Address("TCP", "::1", 1), True),
        (UNIXAddress(b"/run/x"), True),
        (IPv4Address("TCP", "0.0.0.0", 1), False),
        (IPv6Address("TCP", "::", 1), False),
        (IPv4Address("TCP", "192.168.1.2", 1), False),
    ],
)
def test_host_is_checked_where_only_this_machine_reaches(
    configure: Callable[..., Config], address: IAddress, checked: bool
) -> None:
    """The Origin is checked everywhere, by the same configuration."""
    rules = access_rules(
        configure(allowed_hosts=["llm.lan"], cors_origins=["app://*"]), address
    )
    assert rules.accepts_host(b"evil.example") is not checked
    assert rules.accepts_host(b"llm.lan:80")
    assert rules.accepts_host(socket.gethostname().encode())
    assert rules.accepts_origin(b"app://x", b"llm.lan")
    assert not rules.accepts_origin(b"https://evil.example", b"llm.lan")


@pytest_twisted.ensureDeferred
async def test_a_page_of_another_site_wakes_nothing(configure: Callable[..., Config]) -> None:
    """
    The page can do so neither by a simple request across origins nor by a name of its own.
    """
    config = configure()
    service = LlmuxService(config, reactor)
    service.startService()
    body = b'{"model": "a"}'

    def status(headers: bytes) -> bytes:
        with closing(socket.create_connection(("127.0.0.1", config.port))) as client:
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b"
                % (headers, len(body), body)
            )
            return client.recv(12)[9:]

    page = b"Host: 127.0.0.1:%d\r\nOrigin: https://evil.example\r\n" % config.port
    assert await deferToThread(status, page) == b"403"
    assert await deferToThread(status, b"Host: rebind.evil.example\r\n") == b"421"
    assert {
        (waiting, flying) for _, waiting, flying, _ in service.switcher.readings.per_model()
    } == {(0, 0)}
    await service.stopService()
