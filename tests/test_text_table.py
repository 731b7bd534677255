"""These tests check tables: their columns stay aligned, and fit a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from llmux.command.full_screen.held_lanes import SeenHistory
from llmux.command.full_screen.top_frame import frame_lines
from llmux.command.words.event_lines import event_lines, requests_table
from llmux.command.words.models_table import models_table
from llmux.command.words.styles import plain
from llmux.command.words.text_table import Column, columns_of, cut_text, table
from tests.fake_daemon import ago, model, two_models

LONG = "a-publisher/a-model-with-a-very-long-name-Instruct-GGUF-Q4_K_XL"


def lines_of(status: dict[str, Any], width: int | None = None) -> list[str]:
    return [plain(line) for line in models_table(status, width)]


def test_letters_that_take_two_columns_keep_the_columns_aligned() -> None:
    names = "qwen", "模型-日本語", "e\N{COMBINING ACUTE ACCENT}", "evil\x1b[2J"
    status = two_models(models=[model(name) for name in names])
    lines = lines_of(status)
    at = {columns_of(line[: line.index("asleep")]) for line in lines[1:]}
    assert at == {lines[0].index("STATE")}


def test_a_request_with_wide_letters_keeps_the_columns_aligned() -> None:
    rows = [
        {"id": "1", "at": ago(1), "model": name, "method": "GET", "path": "/", "outcome": "x"}
        for name in ("qwen", "模型-日本語")
    ]
    lines = [plain(line) for line in requests_table(rows, 9)]
    at = {columns_of(line[: line.index("GET")]) for line in lines[1:]}
    assert at == {lines[0].index("REQUEST")}


@pytest.mark.parametrize("width", [45, 60, 80, 100, 120, 160])
def test_a_table_is_no_wider_than_the_terminal(width: int) -> None:
    models = [model("qwen", waiters=2, turn={"position": 1, "secs": [9, 58]}), model(LONG)]
    lines = lines_of(two_models(models=models), width)
    assert len(lines) == 3
    assert max(map(columns_of, lines)) <= width
    assert lines[0].startswith("MODEL ") and "STATE" in lines[0]
    row = {"id": "1", "at": ago(1), "model": LONG, "method": "POST", "path": "/v1/completions"}
    lines = [plain(line) for line in requests_table([row], 9, width)]
    assert max(map(columns_of, lines)) <= width
    assert lines[0].rstrip().endswith("END")


def test_a_terminal_that_is_wide_enough_gets_what_a_pipe_gets() -> None:
    status = two_models()
    assert lines_of(status, 79) == lines_of(status)
    assert lines_of(status, 60) != lines_of(status)


def test_a_column_of_rank_0_stays_however_narrow_the_terminal_is() -> None:
    columns = [Column("FIRST", "F"), Column("SECOND", "S", rank=1), Column("THIRD", "T")]
    assert [plain(line) for line in table(columns, [["1", "2", "3"]], (), 1)] == [
        "F  T",
        "1  3",
    ]


def test_a_text_that_is_cut_says_so() -> None:
    assert cut_text("12345", 5) == "12345"
    assert cut_text("123456", 5) == "1234~"
    assert cut_text("日本語", 5) == "日本~"
    assert cut_text("日本語", 4) == "日~"


def test_a_lane_says_how_many_models_it_does_not_name() -> None:
    held = {f"small-model-{i}": 1.5 for i in range(9)}
    resources = [{"name": "gpu0", "capacity": 24, "free": 2, "held": held}]
    status = two_models(resources=resources)
    lines = [
        plain(line)
        for line in frame_lines(status, SeenHistory(), width=60, height=None, colour=False)
    ]
    assert "gpu0: small-model-0 1.5, small-model-1 1.5, 7 more of 24" in lines


def test_a_reload_is_told_in_words() -> None:
    def told(**data: Any) -> str:
        (line,) = event_lines("reload", {"schema": 1, "at": ago(0)} | data)
        return plain(line).partition("reload   ")[2].strip()

    assert told(ok=True, error=None, changes=[]) == "nothing changed"
    assert told(ok=True, error=None, changes=["+ a: asked", "- b"]) == "+ a: asked; - b"
    assert told(ok=False, error="c.yaml: x: unknown key", changes=[]) == (
        "failed: c.yaml: x: unknown key"
    )
