"""
These tests check the command: what it takes, what it prints, and what it says of nonsense.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from llmux.command.main import main as llmux
from llmux.simulate.compare import main
from llmux.simulate.options import UsageError, switch_costs
from llmux.simulate.progress import ProgressBar
from llmux.simulate.report import duration


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "trace.jsonl"
    lines = [
        {"t": 3.0 * n, "model": "ab"[n // 3 % 2], "service_s": 1.5, "id": n} for n in range(40)
    ]
    lines.append({"model": "b", "service_s": 2, "after": 39, "think_s": 4})
    lines.append({"t": 5, "model": "b", "service_s": 2, "patience_s": 0.5})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


CONFIG = """
models:
  a: {port: 4001, wake: "true", sleep: "true", alive: "true", weight: 5}
  b: {port: 4002, wake: "true", sleep: "true", alive: "true"}
policy: {name: cost_aware, quantum: 2, min_active_secs: 3}
"""


def results(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found = json.loads(printed.out)
    assert list(found) == ["policies"]
    policies: list[dict[str, Any]] = found["policies"]
    return policies


def test_the_json_output_has_the_figures_of_each_policy(
    capsys: pytest.CaptureFixture[str], trace: str
) -> None:
    fifo, cost_aware = results(capsys, trace)
    assert (fifo["policy"], cost_aware["policy"]) == ("fifo", "cost_aware")
    assert set(fifo) >= {
        "policy",
        "requests",
        "answered",
        "wait_mean_s",
        "wait_p50_s",
        "wait_p95_s",
        "wait_p99_s",
        "wait_max_s",
        "worst_model_wait_mean_s",
        "switches",
        "switching_share",
        "answered_per_s",
    }
    assert (fifo["requests"], fifo["answered"], fifo["gave_up"]) == (42, 41, 1)
    assert cost_aware["wait_mean_s"] < fifo["wait_mean_s"]
    assert cost_aware["switches"] < fifo["switches"]
    shares = [fifo[f"{what}_share"] for what in ("serving", "draining", "switching", "idle")]
    assert sum(shares) == pytest.approx(1)


def test_the_same_seed_gives_the_same_figures(
    capsys: pytest.CaptureFixture[str], trace: str
) -> None:
    words = (trace, "--jitter", "0.3", "--seed", "5")
    first = results(capsys, *words)
    assert results(capsys, *words) == first
    assert results(capsys, trace, "--jitter", "0.3", "--seed", "6") != first


def test_the_table_has_a_row_for_each_figure(
    capsys: pytest.CaptureFixture[str], trace: str
) -> None:
    assert llmux(["simulate", trace, "--switch-cost", "5", "--policy", "fifo"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("42 requests for 2 models, 16 at once; a switch takes 5 s\n")
    rows = dict(line.rsplit("  ", 1) for line in printed.splitlines() if "  " in line)
    rows = {key.strip(): value.strip() for key, value in rows.items()}
    assert rows[""] == "fifo"
    assert rows["answered"] == "41"
    assert rows["wait, longest"].endswith(" s")
    assert rows["time switching"].endswith("%")


def test_a_policy_may_be_given_settings(capsys: pytest.CaptureFixture[str], trace: str) -> None:
    words = "cost_aware:quantum=9,linger=0,request_timeout_secs=3"
    [result] = results(capsys, trace, "--policy", words)
    assert result["policy"] == words
    assert result["gave_up"] > 10
    assert result["wait_max_s"] == 3


def test_the_policy_and_the_weights_of_a_configuration_are_used(
    capsys: pytest.CaptureFixture[str], trace: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    words = (trace, "-c", str(config))
    assert [r["policy"] for r in results(capsys, *words)] == ["cost_aware", "fifo"]
    weighted, _ = results(capsys, *words)
    [plain] = results(capsys, trace, "--policy", "cost_aware:quantum=2,min_active_secs=3")
    [same] = results(capsys, *words, "--policy", "cost_aware:quantum=2,min_active_secs=3")
    assert weighted["wait_mean_s"] == same["wait_mean_s"]
    assert plain["worst_model_wait_mean_s"] != weighted["worst_model_wait_mean_s"]


def test_until_and_warm_up_limit_what_is_counted(
    capsys: pytest.CaptureFixture[str], trace: str
) -> None:
    [result] = results(capsys, trace, "--policy", "fifo", "--until", "60", "--warm-up", "30")
    assert result["requests"] == 15, "11 were sent after the warm-up, and 4 waited at its end"
    assert result["answered"] < 15


def test_dearer_switches_make_longer_waits(
    capsys: pytest.CaptureFixture[str], trace: str
) -> None:
    cheap, dear, pair = (
        results(capsys, trace, "--policy", "fifo", *words)[0]["wait_mean_s"]
        for words in (
            ("--switch-cost", "1"),
            ("--switch-cost", "30"),
            ("--switch-cost", "30", "--switch-cost", "a:b=1"),
        )
    )
    assert cheap < pair < dear


def test_the_names_of_models_in_switch_costs_may_contain_colons() -> None:
    models = ["qwen:7b", "llama:8b", "idle", "a"]
    costs = switch_costs(
        ["4", "qwen:7b:llama:8b=3", "idle:a=2", "a:idle=1", "idle:qwen:7b=6"], models, 0.1
    )
    assert costs.default == 4
    assert costs.pairs == {
        ("qwen:7b", "llama:8b"): 3,
        ("idle", "a"): 2,
        ("a", "idle"): 1,
        ("idle", "qwen:7b"): 6,
    }
    assert switch_costs(["idle:a=2"], ["a"], 0).pairs == {(None, "a"): 2}


@pytest.mark.parametrize("word", ["x", "a:b", "a:c=3", "a=3", "a:b=-1", "a:b=nan", "=3="])
def test_a_switch_cost_that_makes_no_sense_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="--switch-cost"):
        switch_costs([word], ["a", "b"], 0)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--policy", "fifoo"], "did you mean fifo"),
        (["--policy", "cost_aware:quantums=1"], "did you mean quantum"),
        (["--policy", "cost_aware:quantum=-1"], "policy.quantum: must be 0 or more, not -1"),
        (["--policy", "cost_aware:quantum"], "not KEY=VALUE"),
        (["--policy", "fifo:min_active_secs=soon"], "is not a number of seconds"),
        (["-c", "/nonexistent.yaml"], "it cannot be read"),
        (["--switch-cost", "a:z=4"], "the models are a, b"),
        (["--until", "5", "--warm-up", "5"], "nothing is left"),
        (["--plot", "picture.gif"], "name a file that ends in .svg"),
        (["--plot", "/nonexistent/picture.svg"], "no such directory"),
    ],
)
def test_an_option_that_makes_no_sense_gets_one_line_that_says_why(
    capsys: pytest.CaptureFixture[str], trace: str, words: list[str], complaint: str
) -> None:
    assert main([trace, *words]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("llmux simulate: ")
    assert complaint in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("words", [["--slots", "0"], ["--jitter", "2"], ["--until", "-1"], []])
def test_an_option_with_a_bad_value_gets_a_usage_error(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["trace.jsonl", *words] if words else [])
    assert caught.value.code == 2


def test_a_trace_that_cannot_be_run_gets_a_line_that_says_why(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 1
    assert "directory" in capsys.readouterr().err
    bad = tmp_path / "bad"
    bad.write_text('{"t": 0, "model": "a", "service_s": 1}\n{"t": 0}\n')
    assert main([str(bad)]) == 1
    assert f"{bad}: line 2: missing required field `model`" in capsys.readouterr().err
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    bad.write_text('{"t": 0, "model": "c", "service_s": 1}\n')
    assert main([str(bad), "-c", str(config)]) == 1
    assert "the trace asks for c;" in capsys.readouterr().err


def test_a_trace_is_read_from_standard_input_without_a_reactor(trace: str) -> None:
    """
    The command runs in a process of its own, which must not install a reactor to simulate time.
    """
    script = (
        "import sys; from llmux.simulate.compare import main; "
        "status = main(['-', '--json']); "
        "assert 'twisted.internet.reactor' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=Path(trace).read_bytes(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(json.loads(done.stdout)["policies"]) == 2


def test_the_plot_shows_the_runs_and_is_the_same_each_time(trace: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "picture.svg"
    again = tmp_path / "again.svg"
    assert main([trace, "--plot", str(file)]) == 0
    assert main([trace, "--plot", str(again)]) == 0
    text = file.read_text()
    ElementTree.fromstring(text)
    for word in (
        "fifo: 41 answered, mean wait",
        "cost_aware: 41 answered",
        "requests waiting",
        "minutes",
    ):
        assert word in text
    assert text == again.read_text()
    png = tmp_path / "picture.PNG"
    assert main([trace, "--plot", str(png), "--policy", "fifo"]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_message_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], trace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([trace, "--plot", "picture.svg"]) == 1
    assert "from the checkout: pip install '.[plot]'" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_progress_bar_appears_only_after_a_while() -> None:
    now = [0.0]
    terminal = Terminal()
    bar = ProgressBar(terminal, "fifo", lambda: now[0])
    bar(0.1)
    assert terminal.getvalue() == "", "what is over at once needs no bar"
    now[0] = 1.5
    bar(0.5)
    bar(0.6)
    assert terminal.getvalue() == f"\rfifo [{'#' * 15}{'.' * 15}]  50%"
    bar.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_no_progress_bar_is_written_to_a_file() -> None:
    file = io.StringIO()
    bar = ProgressBar(file, "fifo", iter([0.0, 100.0]).__next__)
    bar(0.5)
    bar.clear()
    assert file.getvalue() == ""


def test_durations_are_rendered_in_at_most_two_units() -> None:
    shown = [duration(s) for s in (0.5, 15, 59.9, 60, 61, 3599, 3600, 7260, 86400)]
    assert shown == [
        "0.5 s",
        "15 s",
        "59.9 s",
        "1 min",
        "1 min 1 s",
        "59 min 59 s",
        "1 h",
        "2 h 1 min",
        "24 h",
    ]
