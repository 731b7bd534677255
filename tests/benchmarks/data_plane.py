"""
This script measures what the data plane costs, beside its peers:

    python tests/benchmarks/data_plane.py [--short] [--only NAME] [--rounds N] [--json FILE]

Measures CPU, latency and memory of this llmux, of C{Site + Agent}, and of the Rust
llmux, nginx, llama-swap and LiteLLM where they are present, each in turn in every
round, and prints a table.  The load and the backend share a core; the daemon has
another where its CPU is measured, and both where time is.  It needs Linux, and
C{wrk} for the load (without it, a generator of its own in Python).

It exits with 1 if a measurement of this llmux did not work; what the figures are
never matters to the exit status.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.bench import Bench, Effort, bench
from tests.benchmarks.contestants import (
    ROOT,
    Contestant,
    Cores,
    another_llmux,
    find_contestants,
)
from tests.benchmarks.measurements import MEASUREMENTS
from tests.benchmarks.processes import available_cores
from tests.benchmarks.table import FIGURES, describe_machine, markdown

_REFERENCE = "Rust llmux"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    names = [measurement.name for measurement in MEASUREMENTS]
    parser = argparse.ArgumentParser(
        prog="data_plane.py", description="What the data plane costs, beside its peers."
    )
    parser.add_argument(
        "--short", action="store_true", help="only see that all works, with this llmux alone"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        choices=names,
        help=f"this measurement (may be repeated): {', '.join(names)}",
    )
    parser.add_argument("--rounds", type=int, help="default: 5; 1 with --short")
    parser.add_argument(
        "--seconds",
        type=float,
        help="for how long CPU is measured each time: on a machine that is not quiet, many "
        "short rounds tell more than a few long ones (default: 4)",
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="CONTESTANT", help="leave it out"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every value, to a file")
    parser.add_argument(
        "--markdown", action="store_true", help="the table only, no word of progress"
    )
    parser.add_argument(
        "--ours",
        default=shlex.join([sys.executable, "-m", "llmux"]),
        help="the command that starts this llmux (default: %(default)s)",
    )
    parser.add_argument(
        "--against",
        metavar="COMMAND",
        help="the command that starts another llmux of ours, by turns with this one; the "
        "ratios are then to it",
    )
    for name in ("rust", "nginx", "llama-swap", "litellm"):
        parser.add_argument(f"--{name}", metavar="PATH", help="where it is; '' leaves it out")
    return parser.parse_args(arguments)


class Run:
    """A run has all rounds, and their results."""

    def __init__(self, contestants: Sequence[Contestant], only: Sequence[str] | None) -> None:
        self.contestants = contestants
        self.measurements = [m for m in MEASUREMENTS if not only or m.name in only]
        self.results: dict[str, dict[str, list[float | None]]] = {
            contestant.name: {} for contestant in contestants
        }
        self.failures: list[tuple[Contestant, str, str]] = []
        self.loads: list[float] = []

    def round(self, bench: Bench, number: int, say: bool) -> None:
        for measurement in self.measurements:
            for contestant in self.contestants:
                if not measurement.measures(contestant):
                    continue
                begun = time.perf_counter()
                try:
                    figures = measurement.run(bench, contestant)
                    said = _shown(figures)
                except Exception as error:
                    figures = {}
                    reason = str(error) or repr(error)
                    self.failures.append((contestant, measurement.name, reason))
                    said = f"FAILED: {reason.strip().splitlines()[-1][:200]}"
                self._keep(contestant, figures, number)
                if say:
                    seconds = time.perf_counter() - begun
                    line = (
                        f"{measurement.name:10} {contestant.name:12} {seconds:5.1f} s  {said}"
                    )
                    print(line, file=sys.stderr)
        self.loads.append(os.getloadavg()[0])

    def _keep(self, contestant: Contestant, figures: dict[str, float], number: int) -> None:
        kept = self.results[contestant.name]
        for key, value in figures.items():
            values = kept.setdefault(key, [])
            # A round that gave nothing is None, since ratios are made round by round.
            values.extend([None] * (number - len(values)))
            values.append(value)


def _shown(figures: dict[str, float]) -> str:
    return ", ".join(
        f"{figure.key} {figure.show(figures[figure.key])}"
        for figure in FIGURES
        if figure.key in figures
    )


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    effort = Effort.short() if options.short else Effort()
    if options.seconds is not None:
        effort = replace(effort, seconds=options.seconds)
    rounds = options.rounds or (1 if options.short else 5)
    machine = describe_machine()
    cores = Cores.choose(available_cores())
    os.environ["PYTHONPATH"] = str(ROOT)
    peers = {
        name: getattr(options, name.replace("-", "_"))
        for name in ("rust", "nginx", "llama-swap", "litellm")
    }
    contestants = [
        contestant
        for contestant in find_contestants(shlex.split(options.ours), peers)
        if contestant.name not in options.without and (contestant.ours or not options.short)
    ]
    reference_name = _REFERENCE
    if options.against is not None:
        reference_name = "llmux before"
        contestants.append(another_llmux(reference_name, shlex.split(options.against)))
    run = Run(contestants, options.only)
    with bench(cores, effort, shutil.which("wrk")) as shared:
        for number in range(rounds):
            if not options.markdown:
                print(f"--- round {number + 1} of {rounds}", file=sys.stderr)
            run.round(shared, number, say=not options.markdown)

    names = [contestant.name for contestant in contestants]
    if reference_name in names:
        names.remove(reference_name)
        names.insert(0, reference_name)
    titles = {
        "connections": effort.connections,
        "body_mb": effort.body_bytes / 1e6,
        "waiters": effort.waiters,
        "models": effort.models,
        "huge": f"{effort.huge_bytes / 2**30:g} GiB",
    }
    reference = reference_name if reference_name in names else None
    table = markdown(run.results, titles, names, reference)
    today = datetime.date.today().isoformat()
    command = shlex.join(["python", "tests/benchmarks/data_plane.py", *arguments])
    versions = "".join(f" {c.name} {c.version}." for c in contestants if c.version)
    note = (
        f"{today}, `{command}`, {rounds} rounds. {machine}.{versions}\n"
        f"Load average at the end of each round: "
        f"{', '.join(f'{load:.1f}' for load in run.loads)}."
    )
    print(f"{table}\n\n{note}")
    for contestant in contestants:
        failed = [(name, why) for who, name, why in run.failures if who is contestant]
        if failed:
            names_of_failed = ", ".join(name for name, _ in failed)
            print(
                f"\n{contestant.name}: did not work: {names_of_failed}.  The first said:\n"
                f"{failed[0][1]}",
                file=sys.stderr,
            )
    if options.json is not None:
        found = {"note": note, "effort": vars(effort), "results": run.results}
        options.json.write_text(json.dumps(found, indent=1))
    return int(any(contestant.ours for contestant, _, _ in run.failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
