"""This module starts real hooks: C{/bin/sh}, pipes and process groups."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import LoopingCall

from llmux.config import ModelConfig
from llmux.hooks.runner import HookRunner
from llmux.hooks.runs.spawn import Spawner, spawn_session, spawn_with_setsid
from llmux.interfaces import HookKind, HookResult, IRunningHook

from .hook_log import HookLog

__all__ = [
    "GRACE",
    "Hooks",
    "alive",
    "both_spawners",
    "children",
    "descriptors",
    "running_hooks",
]


GRACE = 0.2


class Hooks:
    """This object starts scripts as the hooks of a model called C{a}."""

    def __init__(self, reactor: Any, directory: Path, log: HookLog, spawn: Spawner) -> None:
        self.reactor = reactor
        self.directory = directory
        self.log = log
        self.finished: list[tuple[str, str, bool]] = []
        self._spawn = spawn

    def start(
        self, script: str, hook: HookKind = HookKind.WAKE, *, limit: float = 60, name: str = "a"
    ) -> IRunningHook:
        config = ModelConfig(
            port=8001,
            wake=script,
            sleep=script,
            alive=script,
            wake_timeout_secs=limit,
            sleep_timeout_secs=limit,
            alive_timeout_secs=limit,
        )
        runner = HookRunner(
            self.reactor,
            {name: config},
            str(self.directory),
            metrics=self,
            grace=GRACE,
            spawn=self._spawn,
        )
        return runner.start(name, hook)

    async def run(
        self, script: str, hook: HookKind = HookKind.WAKE, *, limit: float = 60
    ) -> HookResult:
        return await self.start(script, hook, limit=limit).exited

    def hook_finished(self, model: str, hook: str, seconds: float, ok: bool) -> None:
        self.finished.append((model, hook, ok))

    async def until(self, true: Callable[[], bool]) -> None:
        """Look again and again until the condition holds, for 30 s at most."""

        def look() -> None:
            if true():
                call.stop()
            elif self.reactor.seconds() > deadline:
                raise AssertionError("it never came to be")

        deadline = self.reactor.seconds() + 30
        call = LoopingCall(look)
        call.clock = self.reactor
        await call.start(0.01)


@pytest.fixture
def running_hooks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hooks]:
    """Make hooks that run; a test may choose how they are spawned."""
    from twisted.internet import reactor

    with HookLog() as log:
        make: Any = getattr(request, "param", spawn_session)
        yield Hooks(reactor, tmp_path, log, make(reactor))


both_spawners = pytest.mark.parametrize(
    "hooks", [spawn_session, spawn_with_setsid], indirect=True
)


def alive(pid: int) -> bool:
    """Tell whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children() -> set[int]:
    """Return the ids of this process's children, zombies included."""
    return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}


def descriptors() -> dict[str, str]:
    """Return the descriptors that this process has open."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass
    return found
