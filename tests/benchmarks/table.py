"""
This module writes figures as text: medians over the rounds, ratios within a round, the machine.
"""

# The multiplication sign is meant.
# ruff: noqa: RUF001

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FIGURES", "Figure", "Results", "describe_machine", "markdown"]

Results = Mapping[str, Mapping[str, Sequence[float | None]]]
"""
This mapping has, by contestant and figure, one value for each round; None where a round gave
none.
"""


def _scaled(value: float, factor: float, unit: str) -> str:
    shown = value * factor
    digits = 0 if shown >= 100 else 1 if shown >= 10 else 2
    return f"{shown:.{digits}f} {unit}"


def microseconds(value: float) -> str:
    return _scaled(value, 1e6, "µs")


def milliseconds(value: float) -> str:
    return _scaled(value, 1e3, "ms")


def kibibytes(value: float) -> str:
    return _scaled(value, 1 / 1024, "KiB")


def mebibytes(value: float) -> str:
    return _scaled(value, 1 / 1024**2, "MiB")


def times(value: float) -> str:
    return f"{value:.2f}×"


@dataclass(frozen=True)
class Figure:
    """
    A figure is a row of the table.

    @ivar key: the name of the figure in a measurement's results.
    @ivar absolute: True if the value itself is looked at, and not its ratio to the reference.
    """

    key: str
    title: str
    show: Callable[[float], str]
    must: str = ""
    goal: str = ""
    absolute: bool = False


FIGURES = [
    Figure(
        "plain",
        "CPU per plain request (600-byte reply), 16 keep-alive connections",
        microseconds,
        "≤ 1.2×",
        "≤ 0.85×",
    ),
    Figure(
        "varied",
        "the same, a header of its own on each request",
        microseconds,
        goal="≤ 1.05×",
    ),
    Figure(
        "crowd",
        "the same as the first, {connections} connections",
        microseconds,
        "≤ 1.3×",
        "≤ 1.0×",
    ),
    Figure(
        "event",
        "CPU per streamed event (50 streams, 160-byte events 5 ms apart)",
        microseconds,
        "≤ 1.0×",
        "≤ 0.75×",
    ),
    Figure(
        "latency_p50",
        "latency of one client at a time, p50",
        milliseconds,
        "≤ 1.1×",
        "≤ 0.9×",
    ),
    Figure("latency_p99", "the same, p99", milliseconds, "≤ 1.2×", "≤ 0.9×"),
    Figure(
        "switch",
        "a switch whose hooks are `true`, from request to reply, p50",
        milliseconds,
        "≤ 2.5×",
        "≤ 1.5×",
    ),
    Figure("switch_p95", "the same, p95", milliseconds, "", "≤ 3×"),
    Figure(
        "body",
        "a {body_mb:g} MB JSON body, model name last: time to reply",
        milliseconds,
        "≤ 1.7×",
        "≤ 1.0×",
    ),
    Figure(
        "gap",
        "its longest gap in a neighbour's stream of 5 ms events",
        milliseconds,
        "≤ 2×",
        "≤ 1.2×",
    ),
    Figure(
        "waiter_memory",
        "{waiters} clients waiting for one wake: memory each",
        kibibytes,
        "≤ 1×",
        "≤ 0.5×",
    ),
    Figure("waiter_peak", "the same, at the peak, while they are answered", kibibytes),
    Figure(
        "waiter_cpu", "the same, CPU each from arrival to reply", microseconds, "≤ 3×", "≤ 1.5×"
    ),
    Figure("start", "from start to listening", milliseconds, "≤ 350 ms", "≤ 200 ms", True),
    Figure("idle", "idle memory", mebibytes, "≤ 60 MiB", "≤ 50 MiB", True),
    Figure(
        "models_one", "CPU per plain request, 1 model configured", microseconds, absolute=True
    ),
    Figure("models_many", "the same, {models} models", microseconds, absolute=True),
    Figure("models_ratio", "the second over the first", times, "≤ 1.2×", absolute=True),
    Figure(
        "beside_none",
        "CPU per plain request, nobody waits for another model",
        microseconds,
        absolute=True,
    ),
    Figure("beside_many", "the same, {waiters} clients wait", microseconds, absolute=True),
    Figure("beside_ratio", "the second over the first", times, "≤ 1.2×", absolute=True),
    Figure(
        "passing_none",
        "CPU per waiter that comes and leaves, nobody else waits",
        microseconds,
        absolute=True,
    ),
    Figure("passing_many", "the same, {waiters} others wait", microseconds, absolute=True),
    Figure("passing_ratio", "the second over the first", times, "O(1)", absolute=True),
    Figure(
        "upload",
        "a request of {huge}: growth of peak memory",
        mebibytes,
        "a few MiB",
        absolute=True,
    ),
    Figure(
        "download",
        "a reply of {huge}: growth of peak memory",
        mebibytes,
        "a few MiB",
        absolute=True,
    ),
]


def _median(values: Sequence[float | None] | None) -> float | None:
    present = [value for value in values or () if value is not None]
    return statistics.median(present) if present else None


def _ratios(values: Sequence[float | None], reference: Sequence[float | None]) -> list[float]:
    """
    Divide the values of each round by one another, since what disturbs a round disturbs all of
    its values.
    """
    return [
        value / other
        for value, other in zip(values, reference, strict=False)
        if value is not None and other
    ]


def _cell(figure: Figure, results: Results, name: str, reference: str | None) -> str:
    values = results[name].get(figure.key)
    median = _median(values)
    if values is None or median is None:
        return ""
    shown = figure.show(median)
    spread: list[str] = []
    if reference is not None and reference != name and not figure.absolute:
        ratios = _ratios(values, results[reference].get(figure.key, ()))
        if ratios:
            shown = f"**{times(statistics.median(ratios))}** {shown}"
            spread = [f"{min(ratios):.2f}", f"{max(ratios):.2f}"]
    else:
        present = [value for value in values if value is not None]
        spread = [figure.show(min(present)).split()[0], figure.show(max(present)).split()[0]]
    if len(values) > 1 and spread:
        shown += f" ({spread[0]}-{spread[1]})"
    return shown


def markdown(
    results: Results,
    titles: Mapping[str, object],
    names: Sequence[str],
    reference: str | None,
) -> str:
    """
    Write the table in Markdown.  A peer's cell is its ratio to C{reference} (the median of the
    rounds' ratios), its median, and the least and greatest ratio; without a reference, or in
    its own column, the median, the least and the greatest value.

    @param titles: by name, the values that replace names in braces in the figures' titles.
    @param names: the contestants, in the order of the columns.
    """
    lines = [
        "| " + " | ".join(["figure", *names, "must", "goal"]) + " |",
        "|" + "---|" * (len(names) + 3),
    ]
    for figure in FIGURES:
        cells = [_cell(figure, results, name, reference) for name in names]
        if any(cells):
            title = figure.title.format(**titles)
            lines.append("| " + " | ".join([title, *cells, figure.must, figure.goal]) + " |")
    return "\n".join(lines)


def describe_machine() -> str:
    """Describe the processor, the kernel, and the versions that decide what Python costs."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0))
    packages = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("Twisted", "httptools", "msgspec")
    )
    return (
        f"{model}, {cores} cores, Linux {platform.release()}; "
        f"{platform.python_implementation()} {platform.python_version()}, {packages}"
    )
