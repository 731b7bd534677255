"""
These tests check that a step of the system's clock changes nothing, where llmux owns the
process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.daemon import Daemon, backend, connect, wait_until, write_config

_STEPPED = """
import os, sys, time
real = time.time
time.time = lambda: real() - 600 * os.path.exists("stepped")
"""
"""This program sets the clock ten minutes back as soon as there is a file called C{stepped}."""

_LLMUX = _STEPPED + "from llmux.command.main import main; sys.exit(main())"
_TWISTD = _STEPPED + "from twisted.scripts.twistd import run; run()"


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (_LLMUX, ()),
        (_TWISTD, ("-n", "--pidfile=", "llmux")),
        (_TWISTD, ("--reactor", "select", "-n", "--pidfile=", "llmux")),
    ],
    ids=["llmux", "twistd", "twistd --reactor"],
)
def test_a_time_limit_ends_in_time_though_the_clock_is_set_back(
    program: str, arguments: Sequence[str], tmp_path: Path
) -> None:
    with backend() as behind:
        hooks = {"port": behind.port, "sleep": "true", "alive": "true"}
        models = {"a": {**hooks, "wake": "touch waking; sleep 60", "alive": "false"}}
        policy = {"name": "fifo", "request_timeout_secs": 1}
        port = write_config(tmp_path, behind.port, models=models, policy=policy)
        command = (sys.executable, "-c", program)
        with (
            Daemon([*arguments, "-c", "config.json"], tmp_path, command=command),
            closing(connect(port)) as connection,
        ):
            connection.request("POST", "/v1/completions", '{"model": "a"}')
            wait_until((tmp_path / "waking").exists, "the wake hook")
            (tmp_path / "stepped").touch()
            assert connection.getresponse().status == 504
