"""This module writes figures as a table for people, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from textwrap import fill

from llmux.config.room import Room, written
from llmux.simulate.figures import Figures
from llmux.simulate.recording import RecordedCosts
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace

__all__ = ["Assumptions", "about", "as_json", "as_table", "duration"]


@dataclass(frozen=True)
class Assumptions:
    """
    L{Assumptions} are what a simulation assumes of the machine, and where that comes from.

    @ivar costs: how long hooks take.
    @ivar slots: the number of requests that a model serves at once.
    @ivar recorded: the costs that were taken from a log; None if they were not.
    @ivar slots_recorded: whether the number of slots was taken from a log.
    @ivar is_silent: whether there is a log without costs of switches, and no costs were given.
    """

    costs: HookTimes
    slots: int
    recorded: RecordedCosts | None = None
    slots_recorded: bool = False
    is_silent: bool = False


def as_json(results: Sequence[Figures], log: Figures | None, assumed: Assumptions) -> str:
    """
    Return figures as C{{"policies": [{"policy": ..., "wait_mean_s": ..., ...}]}}, with one line
    for each policy.

    @param log: the figures that were recorded; the key C{recorded} has them, and the
        key C{from_log} has what was taken from the log.
    """
    rows = ",\n".join("  " + json.dumps(asdict(result)) for result in results)
    more = ""
    if log is not None:
        taken: dict[str, object] = {}
        if assumed.slots_recorded:
            taken["slots"] = assumed.slots
        if assumed.recorded is not None:
            taken |= {"sleep_s": assumed.costs.sleeps, "wake_s": assumed.costs.wakes}
        more = f',\n"recorded": {json.dumps(asdict(log))},\n"from_log": {json.dumps(taken)}'
    return f'{{"policies": [\n{rows}\n]{more}}}'


def about(trace: Trace, models: Sequence[str], assumed: Assumptions, room: Room) -> str:
    """Say what is simulated, what is assumed, and what of that comes from the log."""
    costs = assumed.costs
    requests = f"{len(trace.requests)} request{'s' * (len(trace.requests) != 1)}"
    several = f"{len(models)} model{'s' * (len(models) != 1)}"
    most = " (the most that the log has seen in a model)" if assumed.slots_recorded else ""
    pairs = f" ({len(costs.pairs)} of them their own)" if costs.pairs else ""
    if room.is_configured:
        several += f" on {', '.join(f'{n}={written(a)}' for n, a in room.resources.items())}"
    first = f"{requests} for {several}, {assumed.slots} at once{most}; "
    if assumed.recorded is None:
        silent = ", since the log says nothing of switches" if assumed.is_silent else ""
        return f"{first}a switch takes {duration(costs.default)}{pairs}{silent}\n"
    some = [
        f"{name} sleeps in {duration(costs.sleeps[name])} and wakes in "
        f"{duration(costs.wakes[name])}"
        for name in models
    ]
    lines = f"{first}scripts take what they took in the log{pairs}, the mean of "
    lines += f"{assumed.recorded.switches} switches: {'; '.join(some)}"
    if assumed.recorded.guessed:
        guessed = ", ".join(assumed.recorded.guessed)
        lines += f"; where the log has nothing ({guessed}), the mean of the others"
    return fill(lines, 100, break_on_hyphens=False) + "\n"


def duration(seconds: float) -> str:
    """Write a duration in at most two units, as in C{2 h 5 min}, C{3 min 20 s}, C{4.2 s}."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, rest = divmod(round(whole / 60), 60)
    return f"{hours} h" + (f" {rest} min" if rest else "")


def _seconds(value: float) -> str:
    return f"{value:.1f} s"


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _percent(value: float) -> str:
    return f"{value:.1%}"


_ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("requests", "requests", _count),
    ("answered", "answered", _count),
    ("gave up", "gave_up", _count),
    ("wait, mean", "wait_mean_s", _seconds),
    ("wait, half of them under", "wait_p50_s", _seconds),
    ("wait, 95 % under", "wait_p95_s", _seconds),
    ("wait, 99 % under", "wait_p99_s", _seconds),
    ("wait, longest", "wait_max_s", _seconds),
    ("wait, mean of worst model", "worst_model_wait_mean_s", _seconds),
    ("switches", "switches", _count),
    ("switches per hour", "switches_per_hour", lambda value: f"{value:.1f}"),
    ("time serving", "serving_share", _percent),
    ("time draining", "draining_share", _percent),
    ("time switching", "switching_share", _percent),
    ("time idle", "idle_share", _percent),
    ("answered per second", "answered_per_s", lambda value: f"{value:.3g}"),
)


def as_table(results: Sequence[Figures]) -> str:
    """Return figures as a table with a row for each figure and a column for each policy."""
    columns = [["", *(title for title, _, _ in _ROWS)]]
    for result in results:
        values = [(getattr(result, name), show) for _, name, show in _ROWS]
        columns.append([result.policy, *("-" if v is None else show(v) for v, show in values)])
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)
