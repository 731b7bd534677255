"""
C{python -m tests.watched_daemon FILE ARGUMENTS...} is C{python -m llmux ARGUMENTS...} whose
reactor is watched: FILE gets a line with a JSON object for each turn that took more than 100 ms
of CPU, and for each turn that took more than 33 ms and more than all before.
"""

from __future__ import annotations

import json
import os
import select
import sys
from dataclasses import asdict
from typing import Any

from tests.turns import Turn, TurnMeter, watch_stacks

__all__ = ["main"]


def main() -> int:
    """Run llmux, as the module's docstring says."""
    log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.argv[0] = "llmux"

    def write(turn: Turn, *, ended: bool = True) -> None:
        line = asdict(turn) | {"ended": ended}
        os.write(log, json.dumps(line).encode() + b"\n")

    make = select.epoll

    def watched(*arguments: Any) -> TurnMeter:
        meter = TurnMeter(make(*arguments), write)
        watch_stacks(meter, lambda turn: write(turn, ended=False))
        return meter

    # This must be done before Twisted's reactor takes C{epoll} from there.
    vars(select)["epoll"] = watched
    from llmux.command.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
