"""
These tests check what every hook runner does, whether its hooks are numbers, or processes of
any spawner.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from llmux.config import ModelConfig
from llmux.hooks.runner import HookRunner
from llmux.hooks.runs.spawn import Spawner, spawn_session, spawn_with_setsid
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook

from .fakes import FakeHook, FakeHookRunner
from .hook_log import HookLog
from .process_fakes import MemoryProcesses, Plan

LIMIT = 1.0
"""This time limit in seconds is enough for a shell to start on a busy machine."""
GRACE = 0.2


class World(ABC):
    """A world has a runner with two models, and the means to say what their hooks do."""

    @abstractmethod
    def start(
        self,
        delay: float | None = 0.0,
        exit_code: int | None = 0,
        *,
        ignores_term: bool = False,
        hook: HookKind = HookKind.SLEEP,
    ) -> IRunningHook:
        """Start a hook that behaves so; the sleep hook's time limit is a minute."""

    @abstractmethod
    async def begun(self, run: IRunningHook) -> None:
        """Wait until the hook ignores TERM, if it is to do so."""

    @abstractmethod
    async def result(self, run: IRunningHook) -> HookResult:
        """Wait for the end of the hook."""


class OnAClock(World):
    """In this world no time passes by itself."""

    clock: Clock

    async def begun(self, run: IRunningHook) -> None:
        self.clock.advance(0)

    async def result(self, run: IRunningHook) -> HookResult:
        for _ in range(100):
            if run.exited.called:
                break
            self.clock.advance(0.05)
        return await run.exited


class Numbers(OnAClock):
    """This world has the stand-in for a hook runner."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.runner = FakeHookRunner(self.clock, {HookKind.WAKE: LIMIT}, grace=GRACE)

    def start(
        self,
        delay: float | None = 0.0,
        exit_code: int | None = 0,
        *,
        ignores_term: bool = False,
        hook: HookKind = HookKind.SLEEP,
    ) -> FakeHook:
        self.runner.once("a", hook, delay, exit_code, ignores_term=ignores_term)
        return self.runner.start("a", hook)


class Memory(OnAClock):
    """This world has the real runner, with a stand-in for processes."""

    def __init__(self) -> None:
        self.clock = self.reactor = MemoryProcesses()
        reactor: Any = self.reactor
        self.runner = HookRunner(
            reactor,
            {"a": model("true")},
            ".",
            grace=GRACE,
            spawn=self.reactor.spawnProcess,
        )

    def start(
        self,
        delay: float | None = 0.0,
        exit_code: int | None = 0,
        *,
        ignores_term: bool = False,
        hook: HookKind = HookKind.SLEEP,
    ) -> IRunningHook:
        self.reactor.plans.append(Plan(delay, exit_code, ignores_term))
        return self.runner.start("a", hook)


class Processes(World):
    """This world has the real runner, with C{/bin/sh}."""

    def __init__(self, reactor: Any, directory: Path, spawn: Spawner) -> None:
        self.log = HookLog()
        self._make: Callable[[str], HookRunner] = lambda script: HookRunner(
            reactor,
            {"a": model(script)},
            str(directory),
            grace=GRACE,
            spawn=spawn,
        )
        self.runner = self._make("true")

    def start(
        self,
        delay: float | None = 0.0,
        exit_code: int | None = 0,
        *,
        ignores_term: bool = False,
        hook: HookKind = HookKind.SLEEP,
    ) -> IRunningHook:
        script = [
            "trap '' TERM" if ignores_term else ":",
            "echo begun",
            "while sleep 0.05; do :; done" if delay is None else f"sleep {delay}",
            "kill -9 $$" if exit_code is None else f"exit {exit_code}",
        ]
        return self._make("\n".join(script)).start("a", hook)

    async def begun(self, run: IRunningHook) -> None:
        ended: Deferred[None] = Deferred()

        def over(result: HookResult) -> HookResult:
            ended.callback(None)
            return result

        run.exited.addCallback(over)
        # On a very busy machine the time limit of the hook may be over before.
        await DeferredList([self.log.line("begun"), ended], fireOnOneCallback=True)

    async def result(self, run: IRunningHook) -> HookResult:
        return await run.exited


def model(script: str) -> ModelConfig:
    return ModelConfig(
        port=1,
        wake=script,
        sleep=script,
        alive=script,
        wake_timeout_secs=LIMIT,
        sleep_timeout_secs=60,
        alive_timeout_secs=60,
    )


@pytest.fixture(params=["numbers", "memory", "session", "setsid"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "numbers":
        yield Numbers()
        return
    if request.param == "memory":
        yield Memory()
        return
    from twisted.internet import reactor

    make: Any = {"session": spawn_session, "setsid": spawn_with_setsid}[request.param]
    processes = Processes(reactor, tmp_path, make(reactor))
    with processes.log:
        yield processes


@pytest.fixture
def runner(world: World) -> IHookRunner:
    assert isinstance(world, Numbers | Memory | Processes)
    return world.runner


def test_a_runner_provides_its_interface(world: World, runner: IHookRunner) -> None:
    assert verifyObject(IHookRunner, runner)


@pytest_twisted.ensureDeferred
async def test_a_running_hook_provides_its_interface(world: World) -> None:
    run = world.start()
    assert verifyObject(IRunningHook, run)
    await world.result(run)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("code", [0, 1, 3, 255])
async def test_the_exit_status_is_the_answer(world: World, code: int) -> None:
    """The answer of a hook is its exit status, and the reason names the status."""
    result = await world.result(world.start(exit_code=code))
    assert (result.exit_code, result.timed_out) == (code, False)
    assert result.reason == f"exit status {code}"
    assert result.ok == (code == 0)
    assert result.says_no == (code != 0)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (75, "exit status 75 (temporary failure)"),
        (126, "exit status 126 (command cannot be executed)"),
        (127, "exit status 127 (command not found)"),
    ],
)
async def test_a_status_that_is_no_answer_says_neither_yes_nor_no(
    world: World, code: int, reason: str
) -> None:
    """
    EX_TEMPFAIL is no answer, and neither is the status of a shell for a command that it could
    not run.
    """
    result = await world.result(world.start(exit_code=code, hook=HookKind.ALIVE))
    assert (result.exit_code, result.reason) == (code, reason)
    assert not result.ok and not result.says_no


@pytest_twisted.ensureDeferred
async def test_a_hook_that_a_signal_ends_gives_no_answer(world: World) -> None:
    """A hook that a signal ends has no exit status: its answer is unknown."""
    result = await world.result(world.start(exit_code=None))
    assert (result.exit_code, result.timed_out) == (None, False)
    assert result.reason == "killed by signal 9"
    assert not result.ok and not result.says_no


@pytest_twisted.ensureDeferred
async def test_the_duration_is_the_time_the_hook_ran(world: World) -> None:
    result = await world.result(world.start(delay=0.1))
    assert 0.1 <= result.duration < 5


@pytest_twisted.ensureDeferred
async def test_never_over_before_it_is_started(world: World) -> None:
    run = world.start()
    assert not run.exited.called
    assert (await world.result(run)).ok


@pytest_twisted.ensureDeferred
async def test_a_hook_that_runs_past_its_limit_is_ended(world: World) -> None:
    """A hook that runs past its limit is ended."""
    result = await world.result(world.start(delay=None, hook=HookKind.WAKE))
    assert (result.exit_code, result.timed_out) == (None, True)
    assert result.reason == "time limit of 1 s"
    assert LIMIT <= result.duration < 5


@pytest_twisted.ensureDeferred
async def test_a_hook_that_ignores_term_is_ended_after_the_grace(world: World) -> None:
    """KILL ends a hook that ignores TERM, when the grace is over."""
    run = world.start(delay=None, hook=HookKind.WAKE, ignores_term=True)
    result = await world.result(run)
    assert (result.exit_code, result.timed_out) == (None, True)
    assert result.reason == "time limit of 1 s"
    assert LIMIT + GRACE <= result.duration < 5


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("ignores_term", [False, True])
async def test_a_killed_hook_has_no_exit_status(world: World, ignores_term: bool) -> None:
    """A killed hook has no exit status, and did not time out."""
    run = world.start(delay=None, ignores_term=ignores_term)
    await world.begun(run)
    run.kill()
    run.kill()
    result = await world.result(run)
    assert (result.exit_code, result.timed_out) == (None, False)
    assert result.reason == "stopped"


@pytest_twisted.ensureDeferred
async def test_a_kill_during_the_grace_changes_nothing(world: World) -> None:
    """A kill adds nothing to a time limit that is being enforced."""
    run = world.start(delay=None, hook=HookKind.WAKE, ignores_term=True)
    await world.begun(run)
    if isinstance(world, OnAClock):
        world.clock.advance(LIMIT)
    else:
        from twisted.internet import reactor, task

        await task.deferLater(reactor, LIMIT)
    run.kill()
    result = await world.result(run)
    assert result.timed_out
    assert result.reason == "time limit of 1 s"


@pytest_twisted.ensureDeferred
async def test_a_kill_after_the_exit_changes_nothing(world: World) -> None:
    run = world.start()
    result = await world.result(run)
    run.kill()
    assert result.ok


@pytest_twisted.ensureDeferred
async def test_several_hooks_at_once_have_an_answer_each(world: World) -> None:
    """Each of several hooks has its own answer."""
    runs = [world.start(delay=0.05, exit_code=code) for code in range(5)]
    assert [(await world.result(run)).exit_code for run in runs] == [0, 1, 2, 3, 4]
