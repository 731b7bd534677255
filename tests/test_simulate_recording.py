"""
These tests check what a request log says of its machine, and what the command makes of that.
"""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

import pytest

from llmux.simulate.compare import main
from llmux.simulate.recording import recorded_costs, recorded_figures, recorded_slots
from llmux.simulate.trace import RecordedSwitch, Trace, TraceRequest


def served(model: str, sent: float, waited: float, service: float, **more: Any) -> TraceRequest:
    return TraceRequest(model, service, sent, waited=waited, **more)


def test_the_slots_are_the_most_that_one_model_had_in_flight_at_a_time() -> None:
    requests = [
        served("a", 0.0, 5.0, 10.0),
        served("a", 1.0, 4.0, 3.0),
        served("a", 8.0, 0.0, 1.0),
        served("b", 0.0, 6.0, 10.0),
        served("a", 5.0, 2.0, 9.0, left=True),
    ]
    assert recorded_slots(Trace.of(requests)) == 2, "who left was not in flight"
    assert recorded_slots(Trace.of([TraceRequest("a", 1.0)])) is None


def test_the_costs_are_the_means_of_each_models_hooks() -> None:
    switches = [
        RecordedSwitch(1.0, "a", 10.0, {}),
        RecordedSwitch(2.0, "b", 4.0, {"a": 1.0}),
        RecordedSwitch(3.0, "a", 20.0, {"b": 2.0}),
        RecordedSwitch(4.0, None, None, {"a": 3.0}),
    ]
    costs = recorded_costs(Trace.of([], switches), ["a", "b", "c"])
    assert costs is not None
    assert costs.wakes == {"a": 15.0, "b": 4.0, "c": 9.5}
    assert costs.sleeps == {"a": 2.0, "b": 2.0, "c": 2.0}
    assert (costs.switches, costs.guessed) == (3, ["c"])


def test_where_no_sleep_was_recorded_a_sleep_takes_a_quarter_of_a_wake() -> None:
    costs = recorded_costs(Trace.of([], [RecordedSwitch(1.0, "a", 8.0, {})]), ["a"])
    assert costs is not None
    assert (costs.sleeps, costs.guessed) == ({"a": 2.0}, ["a"])
    assert recorded_costs(Trace.of([], [RecordedSwitch(1.0, None, None, {"a": 1})]), []) is None


def test_the_recorded_figures_are_of_what_the_log_says() -> None:
    requests = [
        served("a", 0.0, 5.0, 10.0),
        served("a", 10.0, 0.0, 5.0, answered=False),
        served("b", 20.0, 30.0, 1.0, answered=False, left=True),
        served("b", 90.0, 10.0, 20.0),
        TraceRequest("c", 1.0, 50.0),
    ]
    trace = Trace.of(
        requests, [RecordedSwitch(5.0, "a", 5.0, {}), RecordedSwitch(99, None, 0, {})]
    )
    found = recorded_figures(trace, 0.0, inf)
    assert found is not None
    assert (found.policy, found.requests, found.answered, found.gave_up) == (
        "recorded",
        4,
        2,
        2,
    )
    assert (found.wait_mean_s, found.wait_max_s) == (45 / 4, 30.0)
    assert found.worst_model_wait_mean_s == 20.0
    assert found.switches == 1
    assert found.switches_per_hour == pytest.approx(3600 / 120)
    assert found.serving_share is None
    short = recorded_figures(trace, 6.0, 95.0)
    assert short is not None
    assert (short.requests, short.answered, short.gave_up, short.switches) == (3, 0, 2, 0)
    assert short.wait_max_s == 30.0
    assert recorded_figures(Trace.of([TraceRequest("a", 1.0)]), 0.0, inf) is None


def log_file(directory: Path, *lines: dict[str, Any]) -> str:
    file = directory / "requests.jsonl"
    requests = [
        {"t": 3.0 * n, "model": "ab"[n // 3 % 2], "service_s": 2.0, "waited_s": 1.0 * (n % 2)}
        for n in range(20)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in [*requests, *lines]))
    return str(file)


SWITCHES = (
    {"t": 1.0, "switch": "a", "wake_s": 4.0, "sleep_s": {}},
    {"t": 20.0, "switch": "b", "wake_s": 6.0, "sleep_s": {"a": 0.5}},
)


def test_what_a_log_records_is_taken_and_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([log_file(tmp_path, *SWITCHES), "--policy", "fifo"]) == 0
    first, table = capsys.readouterr().out.split("\n\n")
    assert " ".join(first.split()) == (
        "20 requests for 2 models, 1 at once (the most that the log has seen in a model); "
        "scripts take what they took in the log, the mean of 2 switches: a sleeps in 0.5 s "
        "and wakes in 4 s; b sleeps in 0.5 s and wakes in 6 s; where the log has nothing (b), "
        "the mean of the others"
    )
    assert max(map(len, first.splitlines())) <= 100
    assert table.split("\n")[0].split() == ["recorded", "fifo"]
    rows = {line[:26].strip(): line[26:].split() for line in table.splitlines()}
    assert rows["switches"][0] == "2"
    assert rows["wait, mean"][:2] == ["0.5", "s"]
    assert rows["time switching"][0] == "-"


def test_the_json_says_what_was_taken_from_the_log(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = log_file(tmp_path, *SWITCHES)
    assert main([file, "--policy", "fifo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["from_log"] == {
        "slots": 1,
        "sleep_s": {"a": 0.5, "b": 0.5},
        "wake_s": {"a": 4.0, "b": 6.0},
    }
    assert found["recorded"]["switches"] == 2
    [fifo] = found["policies"]
    assert (
        main([file, "--policy", "fifo", "--json", "--switch-cost", "15", "--slots", "4"]) == 0
    )
    given = json.loads(capsys.readouterr().out)
    assert given["from_log"] == {}
    assert given["policies"][0]["wait_mean_s"] > fifo["wait_mean_s"]


def test_what_is_given_stands_before_what_is_recorded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = log_file(tmp_path, *SWITCHES)
    words = [file, "--policy", "fifo", "--slots", "3"]
    assert main([*words, "--switch-cost", "7"]) == 0
    assert "2 models, 3 at once; a switch takes 7 s\n" in capsys.readouterr().out
    assert main([*words, "--switch-cost", "a:b=7"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "scripts take what they took in the log (1 of them their own), the mean" in printed


def test_a_log_without_switches_is_said_to_have_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Logs of older versions have requests alone."""
    assert main([log_file(tmp_path), "--policy", "fifo"]) == 0
    printed = capsys.readouterr().out
    assert "a switch takes 15 s, since the log says nothing of switches\n" in printed
    rows = {line[:26].strip(): line[26:].split() for line in printed.splitlines()}
    assert rows["switches"][0] == "-"
