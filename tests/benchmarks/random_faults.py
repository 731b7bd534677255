"""
This program runs a million events of random houses with random faults, and fails if an
invariant is broken.

C{python -m tests.benchmarks.random_faults [EVENTS [SEED]]} runs houses, each with random
resources, needs, hooks, clients and policy, until so many events have happened: events that a
policy is told, and hooks that were started.  After each step all invariants are checked.  The
first broken invariant ends the run with the seed of its house.  A million events take some
minutes on one core.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from twisted.logger import ILogObserver, LogEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.random_house import House, MakePolicy, erratic, plain_cost_aware, plain_fifo

defects: list[Failure] = []

POLICIES = {"fifo": plain_fifo, "cost_aware": plain_cost_aware, "erratic": erratic}


def main(events: int, seed: int) -> int:
    """Run houses until so many events have happened."""
    globalLogBeginner.beginLoggingTo([_note_defects], redirectStandardIO=False)
    began = time.monotonic()
    counted: Counter[str] = Counter()
    houses = 0
    while counted.total() < events:
        for name, policy in POLICIES.items():
            try:
                counted[name] += _lives(seed, policy)
            except BaseException:
                print(f"seed {seed}, policy {name}", file=sys.stderr)
                raise
            if defects:
                print(f"seed {seed}, policy {name}", file=sys.stderr)
                defects[0].raiseException()
            houses += 1
        seed += 1
        if not houses % 300:
            print(f"{counted.total()} events", file=sys.stderr, flush=True)
    each = ", ".join(f"{name} {number}" for name, number in counted.items())
    print(
        f"{counted.total()} events in {houses} houses ({each}) in "
        f"{time.monotonic() - began:.0f} s: no broken invariant"
    )
    return 0


@implementer(ILogObserver)
def _note_defects(event: LogEvent) -> None:
    """End the run if a defect is logged; what the erratic policy raises is none."""
    failure = event.get("log_failure")
    if failure is not None and failure.type is not ZeroDivisionError:
        defects.append(failure)


def _lives(seed: int, policy: MakePolicy) -> int:
    house = House(seed, policy)
    for _ in range(3):
        house.live(300)
        house.kill()
    house.live(300)
    house.calm_down()
    house.live(100)
    house.stop()
    house.restart()
    house.calm_down()
    house.stop()
    return house.events


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(words or [1_000_000]), *([1000] if len(words) < 2 else [])))
