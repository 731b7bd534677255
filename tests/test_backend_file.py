"""These tests check the address that a wake hook leaves in $LLMUX_STATE/backend."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from llmux.backend.whereabouts import Whereabouts, address_text
from llmux.config import ModelConfig
from llmux.hooks.backend_file import AddressReading, BadAddress, parse_address
from llmux.hooks.persistence.state import StateDirectory
from llmux.interfaces import HookKind, HookResult, IHookRunner
from tests.daemon import Backend, Daemon, ask, backend, connect, free_port
from tests.fakes import FakeHookRunner


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("node7:8001", ("node7", 8001)),
        (" 10.0.0.7:1\n", ("10.0.0.7", 1)),
        ("[fe80::1]:65535", ("fe80::1", 65535)),
    ],
)
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert parse_address(address_text(address)) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not HOST:PORT"),
        ("node7", "is not HOST:PORT"),
        ("http://node7:80", "is not HOST:PORT"),
        ("node7:80 node8:80", "is not HOST:PORT"),
        ("fe80::1:80", "is not HOST:PORT"),
        ("node7:x", "is not HOST:PORT"),
        ("node7:0", "names no port from 1 to 65535"),
        ("node7:65536", "names no port from 1 to 65535"),
        ("[node7]:80", "names no host"),
        ("a/b:80", "names no host"),
        ("\ufffd:80", "names no host"),
    ],
)
def test_rubbish_is_told_as_such(text: str, why: str) -> None:
    with pytest.raises(BadAddress, match=why):
        parse_address(text)


class World:
    """This world has one model, whose file the test writes as its wake hook would."""

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.clock = Clock()
        self.scripts = FakeHookRunner(self.clock)
        self.state = StateDirectory(str(directory / "state"))
        self.models = {"a": ModelConfig(port=port, wake="w", sleep="s", alive="l")}
        self.start_llmux()

    def start_llmux(self) -> None:
        """Start llmux, as after a restart."""
        addresses = {name: model.address for name, model in self.models.items()}
        self.whereabouts = Whereabouts(addresses)
        self.hooks = AddressReading(
            self.scripts, self.clock, self.state, self.models, self.whereabouts
        )

    @property
    def file(self) -> Path:
        return Path(self.state.model_directory("a")) / "backend"

    def run(self, hook: HookKind, writes: str | bytes | None = None) -> HookResult:
        results: list[HookResult] = []
        run = self.hooks.start("a", hook)
        run.exited.addCallback(results.append)
        if isinstance(writes, bytes):
            self.file.write_bytes(writes)
        elif writes is not None:
            self.file.write_text(writes)
        self.clock.advance(0)
        return results[0]


def test_a_wake_says_where_its_backend_is(tmp_path: Path) -> None:
    world = World(tmp_path)
    verifyObject(IHookRunner, world.hooks)
    moved: list[object] = []
    world.whereabouts.call_when_moved(lambda name, address: moved.append((name, address)))
    assert world.run(HookKind.WAKE, "node7:8001\n").ok
    assert world.whereabouts.addresses["a"] == ("node7", 8001)
    assert world.run(HookKind.ALIVE).ok and world.run(HookKind.SLEEP).ok
    assert world.run(HookKind.WAKE, "node8:8001\n").ok
    assert world.whereabouts.addresses["a"] == ("node8", 8001)
    assert moved[0] == ("a", ("node7", 8001)) and moved[-1] == ("a", ("node8", 8001))


def test_an_address_of_an_earlier_wake_is_none(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.run(HookKind.WAKE, "node7:8001").ok
    result = world.run(HookKind.WAKE)
    assert not result.ok and result.exit_code is None
    assert result.reason == (
        "nothing has written HOST:PORT to $LLMUX_STATE/backend, and the model has no port"
    )


def test_the_configured_port_serves_where_the_wake_writes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, port=8001)
    assert world.run(HookKind.WAKE, "node7:9").ok
    assert world.run(HookKind.WAKE).ok
    assert world.whereabouts.addresses["a"] == ("127.0.0.1", 8001)


@pytest.mark.parametrize("rubbish", ["hello", b"\xff\xfe:1", "", "a" * 5000 + ":1"])
def test_rubbish_fails_the_wake(tmp_path: Path, rubbish: str | bytes) -> None:
    world = World(tmp_path, port=8001)
    result = world.run(HookKind.WAKE, rubbish)
    assert not result.ok and "what is in $LLMUX_STATE/backend" in result.reason


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    world = World(tmp_path, port=8001)
    (tmp_path / "theirs").write_text("node7:8001")
    run = world.hooks.start("a", HookKind.WAKE)
    results: list[HookResult] = []
    run.exited.addCallback(results.append)
    world.file.symlink_to(tmp_path / "theirs")
    world.clock.advance(0)
    assert "cannot be read" in results[0].reason


def test_a_wake_that_fails_says_why_itself(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scripts.once("a", HookKind.WAKE, 0.0, 3)
    assert world.run(HookKind.WAKE, "hello").reason == "exit status 3"


def test_the_next_llmux_reads_the_file_before_it_asks(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(HookKind.WAKE, "node7:8001")
    world.start_llmux()
    assert world.whereabouts.addresses["a"] == ("127.0.0.1", 0)
    assert world.run(HookKind.ALIVE).ok
    assert world.whereabouts.addresses["a"] == ("node7", 8001)


def test_who_is_awake_where_nobody_can_tell_is_neither_awake_nor_asleep(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scripts.awake.add("a")
    result = world.run(HookKind.ALIVE)
    assert not result.ok and not result.says_no and "nothing has written" in result.reason
    world.scripts.awake.discard("a")
    assert world.run(HookKind.ALIVE).says_no


def test_a_place_where_no_backend_is_any_more_is_vacated() -> None:
    whereabouts = Whereabouts({"a": ("x", 1), "b": ("x", 1)})
    vacated: list[tuple[str, int]] = []
    whereabouts.call_when_vacated(lambda host, port: vacated.append((host, port)))
    whereabouts.move("a", ("y", 1))
    assert vacated == []
    whereabouts.move("b", ("y", 1))
    whereabouts.move("b", ("y", 1))
    assert vacated == [("x", 1)]


def configure(directory: Path, behind: Backend, **model: str) -> int:
    """Configure a model whose backend's address only its wake script knows."""
    port = free_port()
    scripts = {
        "wake": f"echo 127.0.0.1:{behind.port} > $LLMUX_STATE/backend; touch awake",
        "sleep": 'rm -f awake; echo "sleeps at $LLMUX_HOST:$LLMUX_PORT"',
        "alive": "test -e awake",
    }
    models = {"a": scripts | model}
    document = {"models": models, "port": port, "state_dir": "state"}
    (directory / "config.json").write_text(json.dumps(document))
    return port


def test_requests_go_where_the_wake_script_says_and_after_kill_9_as_well(
    tmp_path: Path,
) -> None:
    with backend() as behind:
        port = configure(tmp_path, behind)
        with Daemon(["-c", "config.json"], tmp_path) as daemon:
            assert ask(connect(port)) == (200, b'{"answer": 42}')
            daemon.signal(signal.SIGKILL)
            daemon.wait()
        with Daemon(["-c", "config.json"], tmp_path) as daemon:
            daemon.wait_for("a is awake already")
            assert ask(connect(port)) == (200, b'{"answer": 42}')


def test_a_wake_script_that_says_nothing_is_a_503_with_the_reason(tmp_path: Path) -> None:
    with backend() as behind:
        port = configure(tmp_path, behind, wake="touch awake")
        with Daemon(["-c", "config.json"], tmp_path) as daemon:
            status, body = ask(connect(port))
            assert status == 503
            assert "nothing has written HOST:PORT to $LLMUX_STATE/backend" in body.decode()
            daemon.wait_for("sleep hook of a completed")
            assert not os.path.exists(tmp_path / "awake")
