"""These tests check what the benchmark's table says of given figures."""

# The multiplication sign is meant.
# ruff: noqa: RUF001

from __future__ import annotations

from tests.benchmarks.table import markdown


def row(table: str, title: str) -> list[str]:
    """Return the cells of the line that begins with this title."""
    lines = [line for line in table.splitlines() if line.startswith(f"| {title}")]
    assert len(lines) == 1
    return [cell.strip() for cell in lines[0].split("|")[2:-1]]


TITLES = {"connections": 10, "body_mb": 1.0, "waiters": 10, "models": 10, "huge": "1 GiB"}


def test_ratios_are_taken_within_a_round() -> None:
    """A round that was slow for all of them does not change the ratio."""
    results = {
        "Rust llmux": {"plain": [10e-6, 100e-6, 20e-6]},
        "llmux": {"plain": [11e-6, 110e-6, 30e-6]},
    }
    table = markdown(results, TITLES, ["Rust llmux", "llmux"], "Rust llmux")
    assert row(table, "CPU per plain request (") == [
        "20.0 µs (10.0-100)",
        "**1.10×** 30.0 µs (1.10-1.50)",
        "≤ 1.2×",
        "≤ 0.85×",
    ]


def test_a_round_without_a_figure_is_left_out() -> None:
    """A figure may be missing on the side of llmux or on the other side."""
    results = {
        "Rust llmux": {"event": [10e-6, None, 10e-6]},
        "llmux": {"event": [None, 7e-6, 8e-6]},
    }
    table = markdown(results, TITLES, ["Rust llmux", "llmux"], "Rust llmux")
    assert row(table, "CPU per streamed event")[1] == "**0.80×** 7.50 µs (0.80-0.80)"


def test_without_the_reference_there_are_no_ratios() -> None:
    """Without a reference there is nothing to compare with."""
    table = markdown({"llmux": {"switch": [0.002]}}, TITLES, ["llmux"], None)
    assert row(table, "a switch")[0] == "2.00 ms"


def test_a_figure_that_was_not_measured_has_no_line() -> None:
    """A table without any figure has its head only."""
    assert len(markdown({"llmux": {}}, TITLES, ["llmux"], None).splitlines()) == 2
