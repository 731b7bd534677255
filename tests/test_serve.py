"""These tests check models with a serve command, with processes and answers made of numbers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from llmux.backend.whereabouts import Whereabouts
from llmux.config import ModelConfig
from llmux.hooks.persistence.process_table import ProcessIdentity, ProcessTable
from llmux.hooks.persistence.state import StateDirectory
from llmux.hooks.runs.environment import HookEnvironment
from llmux.hooks.runs.hook_process import GRACE
from llmux.hooks.runs.lines import LineBudget
from llmux.hooks.serving.serve import ServeHooks
from llmux.hooks.serving.server import _BEGIN
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook
from tests.fakes import FakeHookRunner
from tests.hook_log import HookLog
from tests.process_fakes import MemoryProcess, MemoryProcesses, Plan

WAKE, SLEEP, ALIVE = HookKind.WAKE, HookKind.SLEEP, HookKind.ALIVE
TERM, KILL = signal.SIGTERM, signal.SIGKILL
STEP = 1 / 256


class MemoryTable:
    """
    This table stands in for that of the system's processes: it has those of a
    L{MemoryProcesses}.
    """

    def __init__(self, reactor: MemoryProcesses) -> None:
        self._reactor = reactor

    def _process(self, leader: ProcessIdentity) -> MemoryProcess:
        return self._reactor.processes[leader.pid - 1000]

    def identify(self, pid: int) -> ProcessIdentity:
        return ProcessIdentity(pid, pid, "boot")

    def leads(self, leader: ProcessIdentity) -> bool:
        return not self._process(leader)._exited

    def group_lives(self, leader: ProcessIdentity) -> bool:
        return self.leads(leader) or not self._process(leader)._group_is_gone

    def signal_group(self, leader: ProcessIdentity, number: int) -> None:
        if self.group_lives(leader):
            self._process(leader).signalProcess(number)


class World:
    """
    This world has a model with a server; its health says no until the test says otherwise.
    """

    def __init__(self, directory: Path, log: HookLog, **config: Any) -> None:
        self.log = log
        self.reactor = MemoryProcesses()
        self.health = FakeHookRunner(self.reactor)
        self.state = StateDirectory(str(directory / "state"))
        keys: dict[str, Any] = {
            "serve": "exec me",
            "wake_timeout_secs": 20.0,
            "sleep_timeout_secs": 30.0,
            "stop_secs": 4.0,
        }
        self.models = {"a": ModelConfig(**keys | config)}
        self.hooks: Any = None
        self.start_llmux()

    def start_llmux(self, serves: bool = True) -> None:
        """Start llmux, as after a kill -9: what runs goes on."""
        for server in self.hooks._servers.values() if self.hooks is not None else ():
            server._process = None
            server.close()
        addresses = {name: model.address for name, model in self.models.items()}
        self.whereabouts = Whereabouts(addresses)
        self.table: ProcessTable = MemoryTable(self.reactor)
        reactor: Any = self.reactor
        environment = HookEnvironment(self.models, self.state, self.whereabouts.addresses)
        self.hooks = ServeHooks(
            self.health,
            reactor,
            self.reactor.spawnProcess,
            self.table,
            self.models,
            "/dir",
            state=self.state,
            whereabouts=self.whereabouts,
            environment=environment,
            budget=LineBudget(self.reactor),
            serves=serves,
        )

    @property
    def directory(self) -> Path:
        return Path(self.state.model_directory("a"))

    @property
    def process(self) -> MemoryProcess:
        return self.reactor.processes[-1]

    def begin(self, kind: HookKind, plan: Plan | None = None) -> list[HookResult]:
        """Start a hook; the list gets its result."""
        if plan is not None:
            self.reactor.plans.append(plan)
        results: list[HookResult] = []
        run = self.hooks.start("a", kind)
        assert not run.exited.called
        run.exited.addCallback(results.append)
        self.run = run
        self.settle()
        return results

    def settle(self) -> None:
        for _ in range(10):
            self.reactor.advance(0)

    def advance(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP)):
            self.reactor.advance(STEP)

    def wake(self, plan: Plan | None = None) -> None:
        """Wake the model."""
        self.health.awake.add("a")
        (result,) = self.begin(WAKE, plan or Plan())
        assert result.ok, result
        # After this time the yes is too old to count.
        self.advance(0.02)

    def do(self, kind: HookKind) -> HookResult:
        (result,) = self.begin(kind)
        return result

    def events(self) -> list[str]:
        return [e["event"] for e in self.log.outcomes()]


@pytest.fixture
def log() -> Iterator[HookLog]:
    with HookLog() as log:
        yield log


@pytest.fixture
def world(tmp_path: Path, log: HookLog) -> World:
    return World(tmp_path, log)


def test_a_wake_ends_when_the_server_is_ready(world: World) -> None:
    verifyObject(IHookRunner, world.hooks)
    results = world.begin(WAKE, Plan())
    verifyObject(IRunningHook, world.run)
    world.advance(5)
    assert results == [] and len(world.reactor.processes) == 1
    asked = len(world.health.started)
    assert asked >= 5 / 0.03, "at most 30 ms apart, as exactly as this clock goes"
    world.health.awake.add("a")
    for _ in range(10):
        if not results:
            world.advance(STEP)
    (result,) = results
    assert result.ok and result.duration == pytest.approx(5, abs=0.1)
    asked = len(world.health.started)
    assert world.do(ALIVE).ok and len(world.health.started) == asked, "it has just said so"
    world.advance(1)
    assert world.do(ALIVE).ok and len(world.health.started) == asked + 1


def test_what_a_server_is_started_with(world: World) -> None:
    world.begin(WAKE, Plan())
    process = world.process
    assert process.args == ["/bin/sh", "-c", _BEGIN, "/bin/sh", "exec me"]
    assert process.directory == "/dir"
    _, port = world.whereabouts.addresses["a"]
    ours = {k: v for k, v in process.environment.items() if k.startswith(b"LLMUX_")}
    assert ours == {
        b"LLMUX_MODEL": b"a",
        b"LLMUX_HOOK": b"serve",
        b"LLMUX_HOST": b"127.0.0.1",
        b"LLMUX_PORT": str(port).encode(),
        b"LLMUX_STATE": os.fsencode(world.directory),
    }


def test_a_command_is_begun_only_once_it_is_written_down(tmp_path: Path) -> None:
    """An llmux that is killed before that leaves nothing behind."""
    command = ["/bin/sh", "-c", _BEGIN, "/bin/sh", "echo begun; cat"]
    told = subprocess.run(command, input="\n", capture_output=True, text=True)
    assert (told.stdout, told.returncode) == ("begun\n", 0), "its input is empty"
    left = subprocess.run(command, input="", capture_output=True, text=True)
    assert left.stdout == "" and left.returncode != 0


def test_a_server_that_ends_fails_the_wake_at_once(world: World) -> None:
    results = world.begin(WAKE, Plan(3.0, 7))
    (world.directory / "server.log").write_text("loading\nno such model\n")
    world.advance(3 + STEP)
    (result,) = results
    assert not result.ok and result.exit_code is None
    assert result.reason == "the server ended: exit status 7"
    assert result.last_words == "no such model"
    assert world.events() == ["hook_failed"]
    assert world.log.lines("output") == ["loading", "no such model"]


def test_a_server_that_ends_with_status_0_has_failed_as_well(world: World) -> None:
    results = world.begin(WAKE, Plan(1.0, 0))
    world.advance(2)
    assert [(r.ok, r.reason) for r in results] == [(False, "the server ended: exit status 0")]


def test_a_server_that_ends_while_it_is_asked_fails_the_wake_at_once(world: World) -> None:
    world.health.never("a", ALIVE)
    results = world.begin(WAKE, Plan(1.0, None))
    world.advance(1 + 2 * STEP)
    assert [r.reason for r in results] == ["the server ended: killed by signal 9"]
    assert world.health.running == []


def test_a_server_that_cannot_be_started_is_an_outcome(world: World) -> None:
    world.reactor.error = FileNotFoundError(2, "No such file or directory", "/dir")
    result = world.do(WAKE)
    assert not result.ok and result.reason == "the server could not be started"
    assert "/dir" in "".join(str(e.get("error")) for e in world.log.events)
    world.reactor.error = None
    world.wake()


def test_a_server_that_could_not_be_told_from_others_later_is_not_begun(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is so on a system without /proc."""
    monkeypatch.setattr(
        MemoryTable, "identify", lambda self, pid: ProcessIdentity(pid, None, "")
    )
    assert world.do(WAKE).reason == "the server could not be started"
    assert not (world.directory / ".server").exists()
    assert any("/proc" in str(e.get("error")) for e in world.log.events)


def test_a_wake_is_over_at_its_time_limit_and_so_is_the_server(world: World) -> None:
    results = world.begin(WAKE, Plan(ignores_term=True))
    world.advance(20 + STEP)
    assert results == [] and world.process.signals == [TERM]
    world.advance(4)
    (result,) = results
    assert result.timed_out and result.reason == "time limit of 20 s"
    assert world.process.signals == [TERM, KILL]
    assert not (world.directory / ".server").exists()


def test_a_wake_that_is_killed_ends_when_the_server_is_gone(world: World) -> None:
    results = world.begin(WAKE, Plan(leaves=1.0))
    world.run.kill()
    world.run.kill()
    world.settle()
    assert world.process.signals == [TERM] and results == []
    world.advance(1.1)
    (result,) = results
    assert (result.exit_code, result.timed_out, result.reason) == (None, False, "stopped")
    world.run.kill()
    assert world.process.signals == [TERM]


def test_sleep_ends_the_server_and_is_quick_about_it(world: World) -> None:
    world.wake()
    (result,) = world.begin(SLEEP)
    assert result.ok and world.process.signals == [TERM]
    assert world.whereabouts.addresses["a"] == ("127.0.0.1", 0), "it listens nowhere"
    assert world.reactor.at_shutdown == []
    answer = world.do(ALIVE)
    assert answer.says_no and answer.reason == "its server does not run"
    assert world.reactor.getDelayedCalls() == []


def test_sleep_of_a_model_that_sleeps_is_done(world: World) -> None:
    assert world.do(SLEEP).ok and world.do(SLEEP).ok


def test_kill_follows_after_stop_secs(world: World) -> None:
    world.wake(Plan(ignores_term=True))
    results = world.begin(SLEEP)
    world.advance(4 - STEP)
    assert results == [] and world.process.signals == [TERM]
    world.advance(0.05)
    assert world.process.signals == [TERM, KILL] and results[0].ok


def test_what_the_server_leaves_in_its_group_is_waited_for_and_killed(world: World) -> None:
    world.wake(Plan(leaves=100.0))
    results = world.begin(SLEEP)
    world.advance(1)
    assert results == []
    world.advance(4)
    assert world.process.signals == [TERM, KILL] and results[0].ok


def test_a_server_that_cannot_be_killed_is_not_asleep(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.wake()
    monkeypatch.setattr(world.table, "signal_group", lambda leader, number: None)
    world.health.awake.discard("a")
    results = world.begin(SLEEP)
    world.advance(4 + GRACE + 1)
    assert [r.ok for r in results] == [False]
    answer = world.do(ALIVE)
    assert not answer.ok and not answer.says_no, "it holds what it holds"


def test_a_sleep_that_is_killed_does_not_wait_for_stop_secs(world: World) -> None:
    world.wake(Plan(ignores_term=True))
    results = world.begin(SLEEP)
    world.run.kill()
    world.settle()
    assert world.process.signals == [TERM, KILL] and results[0].ok


def test_the_end_of_the_reactor_kills_what_is_being_ended(world: World) -> None:
    world.wake(Plan(ignores_term=True))
    world.begin(SLEEP)
    ((phase, event, at_shutdown, arguments),) = world.reactor.at_shutdown
    at_shutdown(*arguments)
    assert (phase, event) == ("after", "shutdown") and world.process.signals == [TERM, KILL]


def test_the_health_of_a_server_that_was_ready_decides(world: World) -> None:
    world.wake()
    world.health.awake.discard("a")
    assert world.do(ALIVE).says_no


def test_a_server_that_is_gone_is_a_no_without_a_question(world: World) -> None:
    world.wake(Plan(2.0, 9))
    world.advance(3)
    asked = len(world.health.started)
    assert world.do(ALIVE).says_no and len(world.health.started) == asked
    assert world.events() == ["hook_completed", "server_ended", "hook_failed"]


def test_what_is_left_of_a_server_that_is_gone_is_killed(world: World) -> None:
    world.wake(Plan(2.0, 9, leaves=100.0))
    world.advance(3)
    assert world.do(ALIVE).says_no and world.process.signals == [KILL]


def test_a_second_wake_starts_no_second_server(world: World) -> None:
    world.wake()
    assert world.do(WAKE).ok and len(world.reactor.processes) == 1


def test_a_wake_ends_first_what_is_left_of_the_server_before(world: World) -> None:
    world.wake(Plan(2.0, 9, leaves=10.0))
    first = world.process
    world.advance(3)
    results = world.begin(WAKE, Plan())
    assert first.signals == [TERM] and len(world.reactor.processes) == 1
    world.advance(5)
    assert first.signals == [TERM, KILL] and results[0].ok
    assert len(world.reactor.processes) == 2


def test_the_next_llmux_adopts_the_server_at_its_port(world: World) -> None:
    world.wake()
    before = world.whereabouts.addresses["a"]
    world.start_llmux()
    assert world.whereabouts.addresses["a"] == ("127.0.0.1", 0)
    assert world.do(ALIVE).ok
    assert world.whereabouts.addresses["a"] == before
    assert world.do(WAKE).ok and len(world.reactor.processes) == 1
    with (world.directory / "server.log").open("a") as file:
        file.write("hello\n")
    world.advance(1)
    assert world.log.lines("output") == ["hello"]
    results = world.begin(SLEEP)
    # Nobody is told of the end of a process that is not a child: it is looked for.
    world.advance(0.02)
    assert results[0].ok and world.process.signals == [TERM]
    assert world.reactor.getDelayedCalls() == []


def test_a_server_that_loads_at_the_start_of_llmux_is_not_taken_for_asleep(
    world: World,
) -> None:
    world.begin(WAKE, Plan())
    world.start_llmux()
    answer = world.do(ALIVE)
    assert not answer.ok and not answer.says_no
    assert answer.reason.startswith("its server runs, but exit status 1")
    world.health.awake.add("a")
    assert world.do(ALIVE).ok
    world.health.awake.discard("a")
    assert world.do(ALIVE).says_no


def test_a_server_that_ended_while_no_llmux_watched_is_told_and_forgotten(
    world: World,
) -> None:
    world.wake(Plan(2.0, 9))
    (world.directory / "server.log").write_text("out of memory\n")
    world.start_llmux()
    world.log.events.clear()
    world.advance(3)
    world.log.events.clear()
    assert world.do(ALIVE).says_no
    (event, *_) = world.log.events
    assert (event["event"], event["last_words"]) == ("server_ended", "out of memory")
    assert not (world.directory / ".server").exists()


def test_who_does_not_serve_follows_nothing_and_ends_nothing(world: World) -> None:
    world.wake(Plan(2.0, 9, leaves=100.0))
    world.start_llmux(serves=False)
    assert world.do(ALIVE).ok
    world.advance(3)
    assert world.do(ALIVE).says_no
    assert world.process.signals == [] and (world.directory / ".server").exists()


@pytest.mark.parametrize(
    "text", [b"{", b'{"process": {"boot": "\xff"}}', b'{"a": ' + b"[" * 4000]
)
def test_a_record_that_cannot_be_understood_is_told(world: World, text: bytes) -> None:
    (world.directory / ".server").write_bytes(text)
    assert world.do(ALIVE).says_no
    assert world.events()[0] == "server_unknown"


def test_a_directory_that_cannot_be_used_is_an_outcome(tmp_path: Path, log: HookLog) -> None:
    world = World(tmp_path, log)
    (tmp_path / "state").write_text("")
    for kind in (ALIVE, WAKE, SLEEP):
        result = world.do(kind)
        assert not result.ok and not result.says_no
        assert "the model's directory cannot be used" in result.reason


def test_a_port_that_is_configured_is_kept_to(tmp_path: Path, log: HookLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        world = World(tmp_path, log, port=port)
        result = world.do(WAKE)
        assert result.reason == f"something else listens on port {port}"
        assert world.reactor.processes == []
    world.wake()
    assert world.process.environment[b"LLMUX_PORT"] == str(port).encode()


def test_each_wake_finds_a_port_of_its_own(world: World) -> None:
    ports = set()
    for _ in range(5):
        world.wake()
        ports.add(world.whereabouts.addresses["a"][1])
        world.do(SLEEP)
    assert len(ports) > 1


def test_a_host_that_is_not_of_this_machine_fails_the_wake(
    tmp_path: Path, log: HookLog
) -> None:
    world = World(tmp_path, log, host="192.0.2.1")
    assert world.do(WAKE).reason.startswith("no port for the server: Cannot assign")


def test_prepare_is_a_script_as_for_other_models(world: World) -> None:
    world.hooks.start("a", HookKind.PREPARE)
    assert world.health.started == [("a", HookKind.PREPARE)]
    world.settle()


def test_the_follower_of_a_server_ends_with_llmux_and_the_server_does_not(
    world: World,
) -> None:
    world.wake()
    world.hooks.close()
    assert world.reactor.getDelayedCalls() == [] and world.process.signals == []
