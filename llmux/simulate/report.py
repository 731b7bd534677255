"""Figures as a table for people, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from llmux.simulate.figures import Figures

__all__ = ["as_json", "as_table", "duration"]


def as_json(results: Sequence[Figures]) -> str:
    """
    Render figures as C{{"policies": [{"policy": ..., "wait_mean_s": ..., ...}]}}, with
    one line for each policy.
    """
    rows = ",\n".join("  " + json.dumps(asdict(result)) for result in results)
    return f'{{"policies": [\n{rows}\n]}}'


def duration(seconds: float) -> str:
    """Render a duration in at most two units: C{2 h 5 min}, C{3 min 20 s}, C{4.2 s}."""
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
    """Render figures as a table with a row for each figure and a column for each policy."""
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
