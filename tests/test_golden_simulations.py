"""
These tests compare what C{llmux simulate --json} says of recorded and invented traffic, byte by
byte, with files that were made before the switcher was changed.

C{python -m tests.test_golden_simulations} makes the files anew.  Whoever does
that says in the commit which decisions changed, and why.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmux.simulate.compare import main
from llmux.simulate.trace import Trace
from tests.benchmarks.scheduling.families import agents, batches, open_loop, zipf
from tests.benchmarks.scheduling.recorded import mooncake, mooncake_agents, servegen

GOLDEN = Path(__file__).parent / "golden"
COST_15 = ("--switch-cost", "15")
UNLIKE = ("--switch-cost", "15", "--switch-cost", "m0:m1=5", "--switch-cost", "m1:m0=45")

CASES: dict[str, tuple[Callable[[], Trace], tuple[str, ...]]] = {
    "mooncake-medium": (lambda: mooncake(1, 0.15, 7200.0)[0], COST_15),
    "servegen-heavy": (lambda: servegen(1, 0.45, 7200.0)[0], (*COST_15, "--jitter", "0.1")),
    "mooncake-agents": (
        lambda: mooncake_agents(2, 16, (2.0, 10.0), 3600.0),
        ("--switch-cost", "5", "--until", "3600"),
    ),
    "zipf4": (
        lambda: open_loop(3, 0.3, zipf(4), horizon=3600.0),
        ("--switch-cost", "45", "--warm-up", "360"),
    ),
    "skewed2-unlike": (
        lambda: open_loop(4, 0.8, [0.9, 0.1], horizon=3600.0),
        (*UNLIKE, "--until", "4000"),
    ),
    "bursty3": (
        lambda: open_loop(5, 0.05, [1 / 3] * 3, bursts=True, horizon=7200.0),
        COST_15,
    ),
    "agents": (
        lambda: agents(6, 16, 4, (1.0, 3.0), loyalty=0.8, horizon=3600.0),
        (*COST_15, "--until", "3600"),
    ),
    "batches": (lambda: batches(7, 60.0, 20, 3, horizon=3600.0), COST_15),
}


def written(trace: Trace) -> str:
    """Return the trace as the lines of a file."""
    lines = []
    for number, request in enumerate(trace.requests):
        line: dict[str, object] = {
            "id": number,
            "model": request.model,
            "service_s": request.service,
        }
        if request.after is None:
            line["t"] = request.sent
        else:
            line |= {"after": request.after, "think_s": request.think}
        lines.append(json.dumps(line) + "\n")
    return "".join(lines)


def simulated(name: str, directory: Path) -> str:
    """Return what C{llmux simulate --json} prints of this case."""
    trace, options = CASES[name]
    file = directory / f"{name}.jsonl"
    file.write_text(written(trace()))
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = main(["--json", *options, str(file)])
    assert status == 0
    return output.getvalue()


@pytest.mark.parametrize("name", CASES)
def test_the_policies_decide_as_the_golden_file_says(name: str, tmp_path: Path) -> None:
    assert simulated(name, tmp_path) == (GOLDEN / f"{name}.json").read_text()


if __name__ == "__main__":
    import tempfile

    for case in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as temporary:
            (GOLDEN / f"{case}.json").write_text(simulated(case, Path(temporary)))
