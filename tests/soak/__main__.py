"""
C{python -m tests.soak --minutes N [--seed S]} runs llmux with real servers and hooks while
all that can go wrong does, and fails if one of its promises is broken.

A run is a series of episodes; C{--episode K} runs the episode of that number again: its
configuration, clients and faults are drawn from the seed and the number.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.soak.episode import Episode
from tests.soak.promises import check_promises
from tests.soak.story import save

__all__ = ["main"]

_MAXIMA = ("longest turn, ms", "longest stop, s", "MiB resident, most")


def _one(seed: int, number: int, reports: Path) -> Episode:
    with tempfile.TemporaryDirectory(prefix=f"soak-{seed}-{number}-") as directory:
        episode = Episode(seed, number, Path(directory) / "episode")
        try:
            asyncio.run(episode.run())
        except RuntimeError as error:
            episode.broken("the episode broke off", repr(error))
        check_promises(episode)
        if episode.violations:
            save(episode, reports / f"{seed}-{number}")
    return episode


def main() -> int:
    """Run the command; the exit status is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--episode", type=int, help="only the episode of this number")
    parser.add_argument("--reports", type=Path, default=Path("soak-reports"))
    options = parser.parse_args()
    began = time.monotonic()
    total: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    number = 0 if options.episode is None else options.episode
    while True:
        episode = _one(options.seed, number, options.reports)
        for name, value in episode.figures.items():
            total[name] = max(total[name], value) if name in _MAXIMA else total[name] + value
        total["episodes"] += 1
        print(
            f"seed {options.seed}, episode {number}, {time.monotonic() - began:.0f} s: "
            f"{sum(v for k, v in episode.figures.items() if k.startswith('requests'))} requests"
            f" ({episode.describe()})",
            flush=True,
        )
        seen: set[str] = set()
        for violation in sorted(episode.violations, key=lambda v: v.at):
            kinds[violation.kind] += 1
            if violation.kind not in seen:
                seen.add(violation.kind)
                after = (violation.at - episode.lives[0].began) / 1e9 if episode.lives else 0
                print(f"  BROKEN after {after:.1f} s: {violation.kind}")
                print("    " + violation.detail[:3000].replace("\n", "\n    "), flush=True)
        if episode.violations:
            print(
                f"  again: python -m tests.soak --seed {options.seed} --episode {number}; "
                f"what was written: {options.reports / f'{options.seed}-{number}'}",
                flush=True,
            )
        number += 1
        if options.episode is not None or time.monotonic() - began > options.minutes * 60:
            break
    print(f"seed {options.seed}, {(time.monotonic() - began) / 60:.1f} minutes:")
    for name, value in sorted(total.items()):
        print(f"  {name:<36} {value}")
    for kind, times in kinds.most_common():
        print(f"  BROKEN {times} times: {kind}")
    print("nothing was broken" if not kinds else f"{len(kinds)} kinds of violations")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
