"""
This module has the measurements of switches, of clients that wait for a switch, and of work
that grows.

CPU is that of the contestant's whole process tree, read before and after a
stretch of work, never during it.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

from tests.benchmarks.bench import Bench, Figures, quiet
from tests.benchmarks.contestants import Contestant
from tests.benchmarks.load import Client, LoadError, Waiters, quick_post
from tests.benchmarks.processes import peak_memory, resident_memory, tree_cpu
from tests.benchmarks.serving import cpu_per_request

__all__ = ["elsewhere", "models", "switch", "waiters"]


def switch(bench: Bench, contestant: Contestant) -> Figures:
    with bench.start(contestant, pinned=False) as daemon:
        daemon.ready("a")
        client = Client(daemon.port)
        found = []
        for number in range(bench.effort.switches):
            begun = time.perf_counter()
            client.ask(quick_post("ba"[number % 2]))
            found.append(time.perf_counter() - begun)
        client.close()
    cuts = statistics.quantiles(found, n=100)
    return {"switch": cuts[49], "switch_p95": cuts[94]}


class _Gate:
    """This wake script ends when it is told to, and costs nothing until then."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.path = bench.directory / name
        os.mkfifo(self.path)
        self.script = f"read line < '{self.path}'"

    def open(self) -> None:
        # A writer that does not block fails until there is a reader.
        end = time.perf_counter() + 10
        while True:
            try:
                fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError as error:
                if time.perf_counter() > end:
                    raise LoadError("the wake script has not run") from error
                time.sleep(0.01)
        os.write(fd, b"go\n")
        os.close(fd)

    def close(self) -> None:
        self.path.unlink()


@contextlib.contextmanager
def _gate(bench: Bench) -> Iterator[_Gate]:
    gate = _Gate(bench, "gate")
    try:
        yield gate
    finally:
        gate.close()


def waiters(bench: Bench, contestant: Contestant) -> Figures:
    count = bench.effort.waiters
    with _gate(bench) as gate, bench.start(contestant, wake={"b": gate.script}) as daemon:
        daemon.ready("a")
        quiet(daemon.pid)
        cpu, memory = tree_cpu(daemon.pid), resident_memory(daemon.pid)
        waiting = Waiters(daemon.port, quick_post("b"), count)
        quiet(daemon.pid)
        grown = resident_memory(daemon.pid) - memory
        gate.open()
        waiting.read_replies(60.0)
        cpu = tree_cpu(daemon.pid) - cpu
        peak = peak_memory(daemon.pid) - memory
        waiting.close()
    return {
        "waiter_memory": grown / count,
        "waiter_peak": max(peak, grown) / count,
        "waiter_cpu": cpu / count / 1e9,
    }


# ------------------------------------------------------------------ as work grows


def _memory_of_awake(bench: Bench) -> dict[str, Any]:
    # The alive hook must not say yes for a thousand models at the start.
    models = [f"m{number}" for number in range(bench.effort.models - 1)]
    return {
        "models": ["a", *models],
        "alive": 'test -e "awake-$LLMUX_MODEL"',
        "wake": dict.fromkeys(["a", *models], 'touch "awake-$LLMUX_MODEL"'),
    }


def models(bench: Bench, contestant: Contestant) -> Figures:
    with bench.start(contestant, models=["a"]) as daemon:
        daemon.ready()
        one = cpu_per_request(bench, daemon, 16)
    with bench.start(contestant, **_memory_of_awake(bench)) as daemon:
        daemon.ready()
        many = cpu_per_request(bench, daemon, 16)
    return {"models_one": one, "models_many": many, "models_ratio": many / one}


def elsewhere(bench: Bench, contestant: Contestant) -> Figures:
    """
    Measure what a request costs, and a waiter's arrival and departure, while thousands of
    clients wait for another model and the awake model may not be left yet.
    """
    effort = bench.effort

    def passing() -> float:
        cpu = tree_cpu(daemon.pid)
        passers = Waiters(daemon.port, quick_post("b"), effort.passers)
        quiet(daemon.pid)
        passers.close()
        quiet(daemon.pid)
        return (tree_cpu(daemon.pid) - cpu) / effort.passers / 1e9

    with bench.start(contestant, settings={"policy": {"min_active_secs": 3600}}) as daemon:
        daemon.ready("a")
        alone = cpu_per_request(bench, daemon, 16)
        passing()
        passed_alone = passing()
        waiting = Waiters(daemon.port, quick_post("b"), effort.waiters)
        quiet(daemon.pid)
        beside = cpu_per_request(bench, daemon, 16)
        quiet(daemon.pid)
        passed_beside = passing()
        waiting.close()
    return {
        "beside_none": alone,
        "beside_many": beside,
        "beside_ratio": beside / alone,
        "passing_none": passed_alone,
        "passing_many": passed_beside,
        "passing_ratio": passed_beside / passed_alone,
    }
