"""
This module has what the measurements share: the backend, the cores, and how much is measured.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.contestants import HERE, Contestant, Cores, Daemon, Scene, running
from tests.benchmarks.load import LoadError
from tests.benchmarks.processes import tree_cpu

__all__ = ["Bench", "Effort", "Figures", "bench", "quiet"]

Figures = dict[str, float]
"""This mapping has what a measurement found, by name: seconds, bytes, counts."""

MiB = 1 << 20


@dataclass(frozen=True)
class Effort:
    """An effort says for how long and how much to measure."""

    seconds: float = 4.0
    warm_up: float = 1.0
    connections: int = 1000
    asked: int = 3000
    switches: int = 200
    bodies: int = 12
    body_bytes: int = 20_000_000
    waiters: int = 5000
    passers: int = 500
    models: int = 1000
    huge_bytes: int = 1 << 30
    starts: int = 3

    @classmethod
    def short(cls) -> Effort:
        """Make an effort that only shows that each measurement works."""
        return cls(
            seconds=0.3,
            warm_up=0.1,
            connections=50,
            asked=100,
            switches=10,
            bodies=2,
            body_bytes=2_000_000,
            waiters=200,
            passers=50,
            models=20,
            huge_bytes=16 * MiB,
            starts=1,
        )


@dataclass(frozen=True)
class Bench:
    """
    A bench is what the measurements share: the backend, the cores, and how long to measure.

    @ivar wrk: the path of the program wrk; None if load.py makes the load in its place.
    """

    backend: int
    counter: memoryview
    cores: Cores
    effort: Effort
    wrk: str | None
    directory: Path

    def scene(self, **more: Any) -> Scene:
        return Scene(self.backend, **more)

    def start(
        self, contestant: Contestant, *, pinned: bool = True, **more: Any
    ) -> contextlib.AbstractContextManager[Daemon]:
        """
        Start a contestant for a scene.

        @param pinned: True to run it on the daemons' core alone, which makes its CPU time
            steady.  Where time is measured, it may run on every core: a peer with several
            threads must not be held back.
        """
        core = self.cores.daemon if pinned else None
        return running(contestant, self.scene(**more), core)


@contextlib.contextmanager
def bench(cores: Cores, effort: Effort, wrk: str | None) -> Iterator[Bench]:
    """Run a backend on the core of the load, and move this process to that core too."""
    if cores.load is not None:
        os.sched_setaffinity(0, {cores.load})
    with tempfile.TemporaryDirectory(prefix="llmux-bench-") as name:
        counter = Path(name, "counter")
        counter.write_bytes(bytes(8))
        with counter.open("r+b") as file:
            shared = mmap.mmap(file.fileno(), 8)
        backend = subprocess.Popen(
            [sys.executable, str(HERE / "fake_backend.py"), str(counter)],
            stdout=subprocess.PIPE,
        )
        try:
            assert backend.stdout is not None
            port = int(backend.stdout.readline())
            yield Bench(port, memoryview(shared).cast("Q"), cores, effort, wrk, Path(name))
        finally:
            backend.kill()
            backend.wait()


def quiet(pid: int, limit: float = 60.0) -> None:
    """Wait until the process tree has had next to nothing to do for a fifth of a second."""
    end = time.perf_counter() + limit
    calm = 0
    before = tree_cpu(pid)
    while calm < 2:
        time.sleep(0.1)
        now = tree_cpu(pid)
        calm = calm + 1 if now - before < 2_000_000 else 0
        before = now
        if time.perf_counter() > end:
            raise LoadError("it does not come to rest")
