"""
These tests check the time limit of a hook, TERM and KILL, on a clock and with processes made of
numbers.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProcessTransport
from zope.interface.verify import verifyObject

from llmux.config import ModelConfig
from llmux.hooks.runner import HookRunner
from llmux.hooks.runs.hook_process import GRACE, HookMetrics
from llmux.interfaces import HookKind, HookResult, IRunningHook

from .hook_log import HookLog
from .process_fakes import MemoryProcess, MemoryProcesses, Plan

TERM, KILL = signal.SIGTERM, signal.SIGKILL


class World:
    """
    This world has a model whose hooks are limited to 10 s (wake), 20 s (sleep) and 5 s (alive).
    """

    def __init__(self, log: HookLog, metrics: HookMetrics | None = None) -> None:
        self.reactor = MemoryProcesses()
        self.log = log
        self.config = ModelConfig(
            port=8001,
            host="10.0.0.1",
            wake="up",
            sleep="down",
            alive="ask",
            prepare="read",
            wake_timeout_secs=10,
            sleep_timeout_secs=20,
            alive_timeout_secs=5,
        )
        reactor: Any = self.reactor
        self.runner = HookRunner(
            reactor,
            {"a": self.config},
            "/dir",
            metrics=metrics,
            spawn=self.reactor.spawnProcess,
        )

    def start(self, plan: Plan | None = None, hook: HookKind = HookKind.WAKE) -> IRunningHook:
        self.reactor.plans.append(plan or Plan())
        return self.runner.start("a", hook)

    @property
    def process(self) -> MemoryProcess:
        return self.reactor.processes[-1]

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass, in steps that add up exactly."""
        self.reactor.pump([1 / 16] * round(seconds * 16))

    def nothing_is_left(self) -> bool:
        return not self.reactor.getDelayedCalls() and not self.reactor.at_shutdown


class HookCounter:
    """This counter keeps what is counted."""

    def __init__(self, counted: list[tuple[Any, ...]]) -> None:
        self._counted = counted

    def hook_finished(self, model: str, hook: str, seconds: float, ok: bool) -> None:
        self._counted.append((model, hook, seconds, ok))


@pytest.fixture
def world() -> Iterator[World]:
    with HookLog() as log:
        yield World(log)


def result(run: IRunningHook) -> HookResult:
    """Return the result of a hook that has ended."""
    found: list[HookResult] = []

    def keep(value: HookResult) -> HookResult:
        found.append(value)
        return value

    deferred: Deferred[HookResult] = run.exited
    deferred.addCallback(keep)
    (value,) = found
    return value


def test_the_stand_in_is_a_process(world: World) -> None:
    world.start()
    verifyObject(IProcessTransport, world.process)


def test_what_a_hook_is_started_with(world: World) -> None:
    world.start(hook=HookKind.ALIVE)
    process = world.process
    assert process.args == ["/bin/sh", "-c", "--", "ask"]
    assert process.directory == "/dir"
    ours = {k: v for k, v in process.environment.items() if k.startswith(b"LLMUX_")}
    assert ours == {
        b"LLMUX_MODEL": b"a",
        b"LLMUX_HOOK": b"alive",
        b"LLMUX_HOST": b"10.0.0.1",
        b"LLMUX_PORT": b"8001",
        b"LLMUX_TIMEOUT_SECS": b"5",
    }


@pytest.mark.parametrize(
    ("hook", "limit"), [(HookKind.WAKE, 10), (HookKind.SLEEP, 20), (HookKind.ALIVE, 5)]
)
def test_each_kind_of_hook_has_its_own_limit(world: World, hook: HookKind, limit: int) -> None:
    run = world.start(hook=hook)
    world.reactor.advance(limit - 1 / 16)
    assert world.process.signals == []
    world.reactor.advance(1 / 16)
    assert world.process.signals == [TERM]
    world.reactor.advance(0)
    assert result(run).reason == f"time limit of {limit} s"
    assert result(run).timed_out
    assert world.nothing_is_left()


@pytest.mark.parametrize(("exit_code", "event"), [(3, "hook_failed"), (0, "hook_completed")])
def test_the_log_says_how_a_prepare_hook_ended(
    world: World, exit_code: int, event: str
) -> None:
    world.start(Plan(1.0, exit_code), hook=HookKind.PREPARE)
    world.advance(1.0)
    assert [e["event"] for e in world.log.outcomes()] == [event]


def test_a_prepare_hook_that_is_no_longer_wanted_has_not_failed(world: World) -> None:
    counted: list[tuple[Any, ...]] = []
    world = World(world.log, HookCounter(counted))
    run = world.start(hook=HookKind.PREPARE)
    run.kill()
    world.advance(1.0)
    assert result(run).reason == "stopped"
    assert [e["log_level"].name for e in world.log.events] == ["debug"]
    assert [ok for *_, ok in counted] == [True]


def test_a_hook_that_ends_in_time_gets_no_signal(world: World) -> None:
    run = world.start(Plan(9.9))
    world.advance(9.9375)
    assert result(run).ok
    assert result(run).duration == pytest.approx(9.9, abs=0.1)
    assert world.process.signals == []
    assert world.nothing_is_left()


def test_kill_follows_a_grace_after_term(world: World) -> None:
    run = world.start(Plan(ignores_term=True))
    run.kill()
    world.reactor.advance(GRACE - 1 / 16)
    assert world.process.signals == [TERM]
    assert not run.exited.called
    world.reactor.advance(1 / 16)
    assert world.process.signals == [TERM, KILL]
    world.reactor.advance(0)
    assert result(run).reason == "stopped"
    assert result(run).duration == GRACE
    assert world.nothing_is_left()


def test_a_hook_that_is_ended_has_ended_when_its_group_is_gone(world: World) -> None:
    """A hook has not ended with its shell: a child of the shell may still hold the GPU."""
    run = world.start(Plan(leaves=3.0))
    run.kill()
    world.advance(2.875)
    assert not run.exited.called
    world.advance(0.25)
    assert result(run).reason == "stopped"
    assert world.process.signals == [TERM]
    assert world.nothing_is_left()


def test_kill_ends_the_wait_for_the_group(world: World) -> None:
    """A zombie that nobody reaps is not waited for."""
    run = world.start(Plan(leaves=1000.0))
    run.kill()
    world.advance(GRACE + 0.125)
    assert world.process.signals == [TERM, KILL]
    assert result(run).duration == pytest.approx(GRACE, abs=0.1)


def test_what_a_hook_leaves_in_the_background_is_not_waited_for(world: World) -> None:
    run = world.start(Plan(0.5, leaves=1000.0))
    world.advance(0.5)
    assert result(run).ok
    run.kill()
    world.advance(20)
    assert world.process.signals == []


def test_a_hook_that_cannot_be_killed_is_given_up(world: World) -> None:
    """A hook that runs C{sudo} has become another user's."""
    run = world.start()
    world.process.refuses_signals = True
    world.advance(10 + 2 * GRACE - 0.1)
    assert not run.exited.called
    world.advance(0.2)
    assert result(run).reason == "time limit of 10 s"
    # The late exit of the process changes nothing.
    world.process.exit(0)
    assert not result(run).ok


def test_a_kill_while_the_limit_is_enforced_changes_nothing(world: World) -> None:
    run = world.start(Plan(ignores_term=True))
    world.advance(10)
    run.kill()
    world.advance(GRACE + 0.125)
    assert result(run).reason == "time limit of 10 s"
    assert result(run).timed_out
    assert world.process.signals == [TERM, KILL]


def test_kill_is_sent_at_once_when_the_reactor_stops(world: World) -> None:
    run = world.start(Plan(ignores_term=True))
    assert world.reactor.at_shutdown == []
    run.kill()
    ((phase, event, function, arguments),) = world.reactor.at_shutdown
    assert (phase, event) == ("after", "shutdown")
    function(*arguments)
    assert world.process.signals == [TERM, KILL]


def test_a_process_that_exits_while_it_is_started_is_noticed_in_the_next_turn(
    world: World,
) -> None:
    """Nobody can have waited yet for a process that exits while it is started."""
    spawn = world.reactor.spawnProcess

    def quick(*args: Any, **kwargs: Any) -> IProcessTransport:
        process = spawn(*args, **kwargs)
        world.process.exit(3)
        return process

    reactor: Any = world.reactor
    run = HookRunner(reactor, {"a": world.config}, ".", spawn=quick).start("a", HookKind.WAKE)
    assert not run.exited.called
    world.reactor.advance(0)
    assert result(run).reason == "exit status 3"
    assert world.nothing_is_left()


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), ValueError("NUL")])
def test_a_process_that_cannot_be_started_is_an_outcome(world: World, error: Exception) -> None:
    world.reactor.error = error
    run = world.start(hook=HookKind.ALIVE)
    assert result(run).reason == "could not be started"
    assert result(run).last_words == str(error)
    assert not result(run).says_no
    run.kill()
    assert world.nothing_is_left()


def test_the_result_has_the_stderr_of_the_hook_and_not_of_what_it_leaves(world: World) -> None:
    run = world.start(Plan(1.0, 1, leaves=100.0, writes={1: b"out\n", 2: b"err\n"}))
    world.advance(1.0)
    world.process.write_out(2, b"later\n")
    assert result(run).stderr == "err\n"
    assert world.log.lines("stderr") == ["err", "later"]
    world.process.write_out(2, b"half")
    world.process.close_pipe(2)
    world.process.close_pipe(1)
    assert world.log.lines("stderr") == ["err", "later", "half"]
