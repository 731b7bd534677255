"""
C{python -m tests.fuzz --minutes N [--seed S] [--jobs J]} sends mutated streams to a real
llmux from both sides, and fails if anything is answered, passed on or left behind that
should not be.

The same seed gives the same inputs; which of them meet in the daemon depends on the
machine.  C{--first I --inputs N} sends a part of them again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.storm import Storm

__all__ = ["main"]


async def _run(options: argparse.Namespace, directory: Path) -> Storm:
    def say(text: str) -> None:
        print(f"[{options.seed}] {text}", file=sys.stderr, flush=True)

    storm = Storm(options.seed, directory, say)
    until = time.monotonic() + options.minutes * 60
    number = options.first
    end = None if options.inputs is None else number + options.inputs
    await storm.start()
    try:
        while time.monotonic() < until and (end is None or number < end):
            left = None if end is None else end - number
            number = await storm.round(number, until, left)
    finally:
        await storm.stop()
    return storm


def _report(storm: Storm, seconds: float) -> dict[str, Any]:
    return {
        "seed": storm.seed,
        "seconds": round(seconds),
        "figures": dict(sorted(storm.figures.items())) | {"forwarded": storm.forwarded},
        "longest turn, CPU seconds": round(storm.longest_turn, 4),
        "longest wait of the neighbour, seconds": round(storm.longest_neighbour, 3),
        "lateness of the fuzzer itself, seconds": round(storm.longest_lag, 3),
        "findings": [
            {
                "kind": finding.kind,
                "times": finding.times,
                "input": finding.number,
                "brought about alone": finding.seen_alone,
                "leaving": None if finding.case is None else finding.case.leaving.value,
                "stream": repr(finding.stream)[:4000],
                "detail": finding.detail[:4000],
            }
            for finding in storm.findings.values()
        ],
    }


def _jobs(options: argparse.Namespace) -> int:
    """Run several storms at once, each in a process of its own."""
    command = [sys.executable, "-m", "tests.fuzz", "--json", "--minutes", str(options.minutes)]
    running = [
        subprocess.Popen(
            [*command, "--seed", str(options.seed + i)], stdout=subprocess.PIPE, text=True
        )
        for i in range(options.jobs)
    ]
    total: Counter[str] = Counter()
    status = 0
    for process in running:
        out, _ = process.communicate()
        status = max(status, process.returncode)
        report = json.loads(out)
        total.update({k: v for k, v in report["figures"].items() if isinstance(v, int)})
        _print(report)
    print("together:", ", ".join(f"{value} {name}" for name, value in sorted(total.items())))
    return status


def _print(report: dict[str, Any]) -> None:
    print(f"seed {report['seed']}, {report['seconds']} s:")
    for name, value in report["figures"].items():
        print(f"  {name:<40} {value}")
    for name in (
        "longest turn, CPU seconds",
        "longest wait of the neighbour, seconds",
        "lateness of the fuzzer itself, seconds",
    ):
        print(f"  {name:<40} {report[name]}")
    for finding in report["findings"]:
        print(f"FINDING: {finding['kind']}, {finding['times']} times")
        print(f"  again: --seed {report['seed']} --first {finding['input']} --inputs 1")
        print(f"  alone: {finding['brought about alone']}; the client: {finding['leaving']}")
        print(f"  stream: {finding['stream']}")
        print("  " + finding["detail"].replace("\n", "\n  "))
    print("no finding" if not report["findings"] else f"{len(report['findings'])} findings")


def main() -> int:
    """Run the command; the exit status is 1 if there is a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--jobs", type=int, default=1, help="storms at once, of seeds S, S+1, ..."
    )
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--inputs", type=int, help="how many inputs at most")
    parser.add_argument("--keep", type=Path, help="a directory for the daemon's logs")
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    options = parser.parse_args()
    if options.jobs > 1:
        return _jobs(options)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        began = time.monotonic()
        storm = asyncio.run(_run(options, options.keep or Path(temporary)))
        report = _report(storm, time.monotonic() - began)
    if options.json:
        print(json.dumps(report))
    else:
        _print(report)
    return 1 if storm.findings else 0


if __name__ == "__main__":
    sys.exit(main())
