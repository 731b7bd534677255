"""
These tests check what every hook runner promises, whatever its hooks are: scripts, questions,
servers, or another runner's hooks. (The meaning of a script's outcome is tested in
test_hooks_contract.py.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock
from zope.interface.verify import verifyObject

from llmux.backend.pool import BackendPool
from llmux.backend.whereabouts import Whereabouts
from llmux.config import ModelConfig
from llmux.hooks.backend_file import AddressReading
from llmux.hooks.health import HealthAsking, health_pool
from llmux.hooks.persistence.state import StateDirectory
from llmux.hooks.runner import HookRunner
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook
from llmux.proxy.drop_connections import ConnectionDroppingHooks
from tests.fakes import FakeHookRunner
from tests.hook_log import HookLog
from tests.process_fakes import MemoryProcesses, Plan
from tests.test_serve import World as Servers

SCRIPTS = ModelConfig(port=8001, wake="w", sleep="s", alive="l", prepare="p")
WITHOUT_ALIVE = ModelConfig(port=8001, wake="w", sleep="s", prepare="p")


class Runner:
    """This is a hook runner under a clock, whose hooks do not end by themselves."""

    def __init__(self, clock: Any, hooks: IHookRunner) -> None:
        self.clock = clock
        self.hooks = hooks

    def start(self, kind: HookKind) -> tuple[IRunningHook, list[HookResult]]:
        results: list[HookResult] = []
        run = self.hooks.start("a", kind)
        verifyObject(IRunningHook, run)
        assert not run.exited.called
        run.exited.addCallback(results.append)
        return run, results

    def advance(self, seconds: float) -> None:
        for _ in range(round(seconds * 64)):
            self.clock.advance(1 / 64)


def endless(clock: Any) -> FakeHookRunner:
    hooks = FakeHookRunner(clock)
    for kind in HookKind:
        hooks.never("a", kind)
    return hooks


def make(name: str, directory: Path, log: HookLog) -> Runner:
    clock: Any = MemoryReactorClock()
    if name == "fake":
        return Runner(clock, endless(clock))
    if name == "scripts":
        processes: Any = MemoryProcesses()
        return Runner(
            processes,
            HookRunner(processes, {"a": SCRIPTS}, ".", spawn=processes.spawnProcess),
        )
    if name == "health":
        asking = HealthAsking(
            endless(clock),
            clock,
            health_pool(clock),
            {"a": WITHOUT_ALIVE},
            {"a": WITHOUT_ALIVE.address},
        )
        return Runner(clock, asking)
    if name == "addresses":
        reading = AddressReading(
            endless(clock),
            clock,
            StateDirectory(str(directory)),
            {"a": SCRIPTS},
            Whereabouts({"a": SCRIPTS.address}),
        )
        return Runner(clock, reading)
    if name == "connections":
        backends = {"a": SCRIPTS.address}
        return Runner(
            clock, ConnectionDroppingHooks(endless(clock), BackendPool(clock), backends)
        )
    servers = Servers(directory, log)
    # The server ignores TERM, so that its end takes time as well.
    servers.wake(Plan(ignores_term=True))
    for kind in HookKind:
        servers.health.never("a", kind)
    return Runner(servers.reactor, servers.hooks)


@pytest.fixture(
    params=["fake", "scripts", "health", "addresses", "connections", "servers"],
)
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with HookLog() as log:
        yield make(request.param, tmp_path, log)


def test_the_runner_under_test_is_a_hook_runner(runner: Runner) -> None:
    verifyObject(IHookRunner, runner.hooks)


@pytest.mark.parametrize("kind", HookKind)
def test_a_hook_that_is_killed_ends_once_and_soon(runner: Runner, kind: HookKind) -> None:
    run, results = runner.start(kind)
    runner.advance(0.25)
    assert results == []
    run.kill()
    run.kill()
    runner.advance(20)
    (result,) = results
    assert not result.timed_out and not result.says_no
    assert kind is HookKind.SLEEP or not result.ok, "a server's end may be quick enough"
    run.kill()
    runner.advance(20)
    assert len(results) == 1


@pytest.mark.parametrize("kind", HookKind)
def test_a_hook_that_is_killed_at_once_ends_as_well(runner: Runner, kind: HookKind) -> None:
    run, results = runner.start(kind)
    run.kill()
    runner.advance(20)
    assert len(results) == 1
