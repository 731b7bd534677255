"""
This script measures how soon a ready server gets its first request, and what a switch costs.

    python tests/benchmarks/readiness.py [--rounds 100]

Two models with a C{serve} command are woken by turns.  One refuses connections until it is
ready, which is 0.2 to 0.4 s after its start, the other answers 503 until then.  The servers
themselves measure the time from the moment when they are ready to the arrival of the first
request.  Then servers that are ready at once are measured: the time of a request that makes a
switch, which is sent when the reply before is complete.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.daemon import Daemon, ask, connect, free_port

__all__: list[str] = []

MUST = 0.050
"""
The 95th percentile of the seconds from the moment when a server is ready to the first request
must be less.
"""

SERVER = Path(__file__).with_name("ready_server.py")
KINDS = {"a": "refused", "b": "503"}


def _configure(directory: Path, delay: str) -> int:
    port = free_port()
    models = {
        name: {"serve": f"{sys.executable} -S {SERVER} found {delay} {kind}"}
        for name, kind in KINDS.items()
    }
    document = {
        "port": port,
        "state_dir": "state",
        "sleep_on_exit": True,
        "policy": {"name": "fifo"},
        "models": models,
    }
    (directory / "config.json").write_text(json.dumps(document))
    return port


def _switches(directory: Path, delay: str, rounds: int) -> Iterator[float]:
    port = _configure(directory, delay)
    with Daemon(["-c", "config.json"], directory) as daemon:
        for number in range(rounds):
            with closing(connect(port)) as connection:
                began = time.perf_counter()
                status, body = ask(connection, "ab"[number % 2])
                assert status == 200, body
                yield time.perf_counter() - began
        daemon.process.terminate()
        daemon.wait()


def _row(name: str, found: list[float]) -> str:
    cuts = statistics.quantiles(found, n=100)
    return (
        f"{name:<44} p50 {cuts[49] * 1e3:6.1f} ms  p95 {cuts[94] * 1e3:6.1f} ms  "
        f"max {max(found) * 1e3:6.1f} ms  n {len(found)}"
    )


def _main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    rounds = max(10, parser.parse_args().rounds)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        # The seed is the number of the shell's process, so that each start has another delay.
        delay = "$(awk -v s=$$ 'BEGIN { srand(s); print 0.2 + 0.2 * rand() }')"
        for _ in _switches(directory, delay, rounds):
            pass
        lines = [line.split() for line in (directory / "found").read_text().splitlines()]
        ready = {
            kind: [float(secs) for said, secs in lines if said == kind]
            for kind in KINDS.values()
        }
        switches = list(_switches(directory, "0", rounds))[1:]
    for kind, found in ready.items():
        print(_row(f"from ready to the first request, {kind} before", found))
    print(_row("a request that makes a switch", switches))
    return int(any(statistics.quantiles(found, n=100)[94] > MUST for found in ready.values()))


if __name__ == "__main__":
    sys.exit(_main())
