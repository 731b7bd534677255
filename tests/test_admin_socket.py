"""
These tests check the daemon's Unix socket: where it is, whose it is, and what may be in its
place.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

import llmux.admin.tree  # noqa: F401 # compiled now, and not in a turn that is measured
from llmux.config import Config, ConfigError, load_config
from llmux.daemon.admin_socket import path_of
from llmux.daemon.service import LlmuxService, make_service
from tests.daemon import Backend, Daemon, free_port, write_config

reactor: Any = installed


def status_of(path: Path) -> int:
    """Return the HTTP status of /llmux/status on this socket."""
    with closing(HTTPConnection("localhost", timeout=30)) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30)
        connection.sock.connect(os.fspath(path))
        connection.request("GET", "/llmux/status")
        return connection.getresponse().status


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest_twisted.ensureDeferred
async def test_a_daemon_has_a_socket_of_its_owners_alone(
    configure: Callable[..., Config],
) -> None:
    config = configure()
    service = LlmuxService(config, reactor, is_daemon=True)
    path = path_of(config)
    assert path.is_relative_to(os.environ["XDG_RUNTIME_DIR"])
    assert (mode_of(path), mode_of(path.parent)) == (0o600, 0o700)
    service.startService()
    assert await deferToThread(status_of, path) == 200
    await service.stopService()
    assert not path.exists()


@pytest_twisted.ensureDeferred
async def test_an_embedded_llmux_has_a_socket_only_if_asked(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    service = make_service(configure(), reactor)
    assert not path_of(configure()).exists()
    await service.stopService()
    service = make_service(configure(admin={"socket": "own.sock"}), reactor)
    assert mode_of(tmp_path / "own.sock") == 0o600
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_the_socket_of_a_dead_process_is_replaced(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    path = tmp_path / "own.sock"
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(os.fspath(path))
    service = LlmuxService(configure(admin={"socket": "own.sock"}), reactor, is_daemon=True)
    service.startService()
    assert await deferToThread(status_of, path) == 200
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_the_socket_of_a_live_process_is_an_error_and_is_left(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    path = tmp_path / "own.sock"
    with closing(socket.socket(socket.AF_UNIX)) as live:
        live.bind(os.fspath(path))
        live.listen()
        config = configure(admin={"socket": "own.sock"})
        with pytest.raises(ConfigError) as caught:
            LlmuxService(config, reactor, is_daemon=True)
        assert f"another process listens on {path}" in str(caught.value)
        assert "admin.socket" in str(caught.value)
        assert path.is_socket()
    # Without the other process the next try succeeds.
    config = configure(admin={"socket": "own.sock"})
    await LlmuxService(config, reactor, is_daemon=True).stopService()


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_directory_that_is_not_ours_alone_is_an_error(
    configure: Callable[..., Config], tmp_path: Path, monkeypatch: Any, kind: str
) -> None:
    """Whoever made the directory first could put a socket of their own there."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    directory = tmp_path / "llmux"
    if kind == "open":
        directory.mkdir()
        directory.chmod(0o777)
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir(0o700)
        directory.symlink_to(tmp_path / "elsewhere")
    else:
        directory.touch()
    with pytest.raises(ConfigError, match="somebody else's, or open to others"):
        LlmuxService(configure(), reactor, is_daemon=True)


def test_what_cannot_be_is_said(configure: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, said in (
        ("file", "no socket"),
        ("x" * 200, "longer than 107 bytes"),
        ("none/own.sock", "no such file or directory"),
    ):
        with pytest.raises(ConfigError, match=said):
            LlmuxService(configure(admin={"socket": name}), reactor, is_daemon=True)
    assert (tmp_path / "file").exists()


@pytest_twisted.ensureDeferred
async def test_what_is_under_llmux_moves_to_a_listener_of_its_own(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    def ask(port: int, path: str) -> int:
        with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("GET", path)
            return connection.getresponse().status

    config = configure(admin={"listen": "tcp:0:interface=127.0.0.1"})
    service = LlmuxService(config, reactor)
    service.startService()
    url = service.entrance.listen_addresses[1].url
    assert url is not None
    own = int(url.rpartition(":")[2])
    assert await deferToThread(ask, own, "/llmux/status") == 200
    assert await deferToThread(ask, config.port, "/llmux/status") == 404
    assert await deferToThread(ask, own, "/v1/chat/completions") == 404
    await service.stopService()


def test_a_place_that_is_none_is_named_by_its_key(configure: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"admin\.listen"):
        LlmuxService(configure(admin={"listen": "tcp:what"}), reactor)


@pytest_twisted.ensureDeferred
async def test_every_address_is_free_again_after_the_last_one_was_refused(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    """An application in which llmux is embedded goes on, and may try to start llmux again."""
    (tmp_path / "file").touch()
    admin = {"listen": f"tcp:{free_port()}:interface=127.0.0.1"}
    with pytest.raises(ConfigError, match="no socket"):
        LlmuxService(configure(admin={**admin, "socket": "file"}), reactor)
    # Twisted closes a socket in the next turn of the reactor.
    await deferLater(reactor, 0)
    await LlmuxService(configure(admin=admin), reactor).stopService()


def test_the_daemon_is_found_by_its_configuration_and_cleans_up(
    tmp_path: Path, behind: Backend
) -> None:
    """A daemon that is killed leaves the socket behind, and the next daemon takes the place."""
    write_config(tmp_path, behind.port)
    file = tmp_path / "config.json"
    path = path_of(load_config(str(file)))
    with Daemon(["-c", str(file)], tmp_path) as daemon:
        assert status_of(path) == 200
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    assert path.is_socket()
    with Daemon(["-c", str(file)], tmp_path) as daemon:
        assert status_of(path) == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert not path.exists()
