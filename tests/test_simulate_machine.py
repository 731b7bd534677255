"""These tests check the command for a machine on which several models can be awake."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from llmux.interfaces import PolicyContext
from llmux.policy.fifo import FifoPolicy
from llmux.simulate.compare import main
from llmux.simulate.options import MachineOptions, UsageError, machine_options
from llmux.simulate.run import Mode, Run
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace, TraceRequest
from llmux.switching.facts.settings import ModelSettings
from llmux.switching.wishes.idleness import DefaultModel

TWO_GPUS = ("--capacity", "gpu0=24,gpu1=24")
NEEDS = ("--needs", "a=gpu0:20|gpu1:20", "--needs", "b=gpu0:20|gpu1:20")
BOTH_GPUS = ("--needs", "c=gpu0:22,gpu1:22")


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Write a trace with two models by turns, and now and then a third."""
    file = tmp_path / "trace.jsonl"
    lines = [
        {"t": 5.0 * n, "model": "c" if n % 10 == 9 else "ab"[n % 2], "service_s": 2}
        for n in range(40)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def fifo(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--policy", "fifo", "--switch-cost", "4", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["policies"]
    assert isinstance(found, dict)
    return found


def test_the_words_for_capacity_and_needs_are_read() -> None:
    assert machine_options(
        "gpu0=24, gpu1=1.5", ["qwen:7b=gpu0:20,gpu1:1|gpu1:1.5", "e=", "m=n=gpu0:2"], 3
    ) == MachineOptions(
        {"gpu0": 24, "gpu1": 1.5},
        {
            "qwen:7b": [{"gpu0": 20, "gpu1": 1}, {"gpu1": 1.5}],
            "e": [{}],
            "m=n": [{"gpu0": 2}],
        },
        3,
    )
    assert not machine_options(None, []).says_anything


@pytest.mark.parametrize(
    ("capacity", "needs", "complaint"),
    [
        ("gpu0", [], "'gpu0' is not NAME=AMOUNT"),
        ("", [], "--capacity: give NAME=AMOUNT"),
        ("gpu0=many", [], "'many' is not an amount"),
        ("gpu0=-1", [], "'-1' is not an amount"),
        ("gpu0=inf", [], "'inf' is not an amount"),
        ("gpu0=1,gpu0=2", [], "gpu0 occurs twice"),
        ("gpu0=1", ["a"], "--needs a: not MODEL=NAME:AMOUNT"),
        ("gpu0=1", ["a=gpu0"], "'gpu0' is not NAME:AMOUNT"),
        ("gpu0=1", ["a=gpu0:1", "a=gpu0:1"], "a has needs already; separate places by |"),
    ],
)
def test_a_word_that_makes_no_sense_is_refused(
    capacity: str, needs: list[str], complaint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        machine_options(capacity, needs)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([*TWO_GPUS, "--needs", "a=gpu0:30"], "a needs 30 of gpu0, and there is 24"),
        ([*TWO_GPUS, "--needs", "a=gpu7:1"], "there is no resource gpu7"),
        ([*TWO_GPUS, "--needs", "z=gpu0:1"], "no such model; the models are a, b, c"),
        (["--needs", "a=gpu0:1"], "--needs: say what the machine has"),
        (["--capacity", "gpu0=0"], "there is 0 of it"),
    ],
)
def test_what_cannot_be_on_the_machine_gets_one_line_that_says_why(
    capsys: pytest.CaptureFixture[str], trace: str, words: list[str], complaint: str
) -> None:
    assert main([trace, *words]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("llmux simulate: ")
    assert complaint in printed.err
    assert printed.err.count("\n") == 1


def test_where_two_models_fit_nobody_waits_for_their_switches(
    capsys: pytest.CaptureFixture[str], trace: str
) -> None:
    one = fifo(capsys, trace)
    two = fifo(capsys, trace, *TWO_GPUS, *NEEDS, *BOTH_GPUS)
    assert two["switches"] < one["switches"] / 2
    assert two["wait_mean_s"] < one["wait_mean_s"]
    free = fifo(capsys, trace, *TWO_GPUS, *NEEDS, "--needs", "c=")
    assert free["switches"] == 3, "one that needs nothing makes nobody sleep"


def test_models_of_which_nothing_is_said_need_all_there_is(
    capsys: pytest.CaptureFixture[str], trace: str
) -> None:
    same = fifo(capsys, trace, *TWO_GPUS)
    one_slot = fifo(capsys, trace)
    assert same["wait_mean_s"] == one_slot["wait_mean_s"]
    assert same["switching_share"] == pytest.approx(one_slot["switching_share"])


CONFIG = """
resources: {gpu0: 24, gpu1: 24}
models:
  a: {port: 4001, wake: "true", sleep: "true", needs: [{gpu0: 20}, {gpu1: 20}]}
  b: {port: 4002, wake: "true", sleep: "true", needs: [{gpu0: 20}, {gpu1: 20}]}
  c: {port: 4003, wake: "true", sleep: "true", needs: {gpu0: 22, gpu1: 22}}
policy: {name: fifo}
"""


def test_the_machine_of_a_configuration_is_used_and_options_stand_before_it(
    capsys: pytest.CaptureFixture[str], trace: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    words = (trace, "-c", str(config))
    given = fifo(capsys, trace, *TWO_GPUS, *NEEDS, *BOTH_GPUS)
    assert fifo(capsys, *words) == given
    assert main([*words, "--switch-cost", "4", "--json"]) == 0
    own, other = json.loads(capsys.readouterr().out)["policies"]
    assert (own["policy"], other["policy"]) == ("fifo", "cost_aware")
    assert own == given
    assert fifo(capsys, *words, "--capacity", "gpu0=62,gpu1=62")["switches"] == 3
    assert fifo(capsys, *words, "--needs", "c=gpu0:4")["switches"] == 3
    assert main([*words, "--needs", "c=gpu0:4"]) == 0
    assert capsys.readouterr().out.startswith(
        "40 requests for 3 models on gpu0=24, gpu1=24, 16 at once; a switch takes 15 s\n"
    )


def test_a_model_that_is_kept_awake_wakes_once_and_makes_no_room(
    capsys: pytest.CaptureFixture[str], trace: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        CONFIG.replace("needs: {gpu0: 22, gpu1: 22}", "needs: {gpu0: 2}, keep: always")
    )
    found = fifo(capsys, trace, "-c", str(config))
    assert found["switches"] == 3


def _one_each(models: str) -> list[str]:
    return [word for name in models for word in ("--needs", f"{name}=gpu:1")]


def test_what_models_do_in_their_idle_time_is_simulated(
    capsys: pytest.CaptureFixture[str], trace: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        CONFIG.replace(
            "needs: {gpu0: 22, gpu1: 22}", "needs: {gpu0: 22, gpu1: 22}, stop_secs: 3"
        ).replace(
            'c: {port: 4003, wake: "true", sleep: "true"', "c: {port: 4003, serve: sleep 9"
        )
    )
    plain = fifo(capsys, trace, "-c", str(config))
    config.write_text(
        CONFIG.replace(
            "needs: {gpu0: 22, gpu1: 22}", "needs: {gpu0: 22, gpu1: 22}, idle_sleep_secs: 1"
        )
        + "default_model: a\ndefault_after_secs: 4\npreload: [b]\n"
    )
    found = fifo(capsys, trace, "-c", str(config))
    assert found["answered"] == plain["answered"] == 40
    assert found["wait_mean_s"] < plain["wait_mean_s"]


@pytest.mark.parametrize(("limit", "longest"), [((), 2.0), (("--parallel-wakes", "1"), 6.0)])
def test_parallel_wakes_make_models_wake_one_after_the_other(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, limit: tuple[str, ...], longest: float
) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [json.dumps({"t": 0, "model": name, "service_s": 1}) for name in "abc"]
    trace.write_text("\n".join(lines))
    words = (str(trace), "--capacity", "gpu=3", *_one_each("abc"), *limit)
    assert fifo(capsys, *words)["wait_max_s"] == longest


def test_a_switch_wakes_a_model_beside_another_that_goes_on_serving() -> None:
    """
    Two models fit: b wakes while a serves; c needs both places, so that both drain for it.
    """
    resources = {"gpu": 2}
    places = {"a": [{"gpu": 1}], "b": [{"gpu": 1}], "c": [{"gpu": 2}]}
    context = PolicyContext(dict.fromkeys("abc", 1.0), resources=resources, places=places)
    requests = [
        TraceRequest("a", 10, 0.0),
        TraceRequest("b", 5, 2.0),
        TraceRequest("c", 1, 4.0),
    ]
    record = Run(
        Trace.of(requests),
        FifoPolicy(context),
        {name: ModelSettings(inf, places=some) for name, some in places.items()},
        HookTimes(0, sleeps={"a": 1, "b": 2}, wakes={"a": 1, "b": 1, "c": 3}),
        resources=resources,
    ).go()
    assert list(record.began) == [1.0, 3.0, 16.0]
    assert [(t, m, mode) for t, m, mode, _ in record.changes][:8] == [
        (0.0, "a", Mode.SWITCHING),
        (1.0, "a", Mode.SERVING),
        (2.0, "b", Mode.SWITCHING),
        (3.0, "b", Mode.SERVING),
        (4.0, "a", Mode.DRAINING),
        (4.0, "b", Mode.DRAINING),
        (11.0, "a", Mode.SWITCHING),
        (11.0, "b", Mode.SWITCHING),
    ]
    assert record.changes[2][3] == {"gpu": 1.0}


def test_a_run_ends_with_its_last_request_whatever_models_do_in_their_idle_time() -> None:
    """The default model falls asleep when it is idle, and is woken again, for ever."""
    requests = [
        TraceRequest("a", 1, 0.0),
        TraceRequest("a", 1, 0.0, after=0, think=30.0),
        TraceRequest("b", 1, 50.0),
    ]
    record = Run(
        Trace.of(requests),
        FifoPolicy(),
        {"a": ModelSettings(inf, idle_sleep=1.0), "b": ModelSettings(inf)},
        HookTimes(2),
        default=DefaultModel("a", 3.0),
    ).go()
    assert record.ended == max(record.answered)
    assert len(record.woken) > 5
    assert min(record.answered) > 0, "all were answered"


def test_the_plot_has_a_lane_for_each_resource(trace: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "picture.svg"
    assert main([trace, *TWO_GPUS, *NEEDS, *BOTH_GPUS, "--plot", str(file)]) == 0
    text = file.read_text()
    ElementTree.fromstring(text)
    assert text.count("> gpu0</text>") == text.count("> gpu1</text>") == 2
    assert "scripts run" in text
