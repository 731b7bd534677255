"""These tests check the meter of the reactor's turns."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.daemon import Daemon, write_config
from tests.turns import Turn, TurnMeter, watch_stacks

WATCHED = (sys.executable, "-m", "tests.watched_daemon", "turns")


class Poller:
    """This stands for what a reactor polls; nothing ever happens there."""

    registered = 7

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        return []


def work(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_the_longest_turn_is_kept_with_the_stack_of_who_worked() -> None:
    told: list[Turn] = []
    meter = TurnMeter(Poller(), told.append)
    watch_stacks(meter, lambda turn: None)
    meter.poll(0)
    work(0.15)
    meter.poll(0)
    work(0.001)
    meter.poll(0)
    assert meter.count == 2
    assert 0.15 <= meter.worst.cpu < 0.4
    assert "work(0.15)" in meter.worst.stack
    assert told == [meter.worst]


def test_time_spent_asleep_or_polling_does_not_count() -> None:
    meter = TurnMeter(Poller())
    work(0.02)
    meter.poll(0)
    time.sleep(0.05)
    meter.poll(0)
    assert meter.worst.cpu < 0.015


def test_a_meter_that_starts_anew_forgets_the_turn_so_far() -> None:
    meter = TurnMeter(Poller())
    meter.poll(0)
    work(0.05)
    meter.start_anew()
    meter.close_turn()
    assert meter.worst.cpu < 0.02


def test_what_is_not_the_meters_own_is_the_pollers() -> None:
    assert TurnMeter(Poller()).registered == 7


def test_a_watched_daemon_serves_and_its_turns_are_written_down(tmp_path: Path) -> None:
    write_config(tmp_path, 1)
    with Daemon(["-c", "config.json"], tmp_path, command=WATCHED):
        pass
    for line in (tmp_path / "turns").read_text().splitlines():
        assert json.loads(line)["cpu"] > 0


def test_a_test_with_a_long_turn_fails(tmp_path: Path) -> None:
    """A test with the mark C{own_cpu}, which says that the work is its own, does not fail."""
    (tmp_path / "test_long.py").write_text(
        "import time\n"
        "import pytest\n"
        "import pytest_twisted\n"
        "from twisted.internet import reactor\n"
        "from twisted.internet.task import deferLater\n"
        "from tests.test_turns import work\n"
        "@pytest_twisted.ensureDeferred\n"
        "async def test_short():\n"
        "    await deferLater(reactor, 0.01, work, 0.01)\n"
        "@pytest_twisted.ensureDeferred\n"
        "async def test_long():\n"
        "    await deferLater(reactor, 0.01, work, 0.2)\n"
        "@pytest.mark.own_cpu('it is what this test is about')\n"
        "@pytest_twisted.ensureDeferred\n"
        "async def test_excused():\n"
        "    await deferLater(reactor, 0.01, work, 0.2)\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "tests.conftest",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parent.parent,
    )
    # A warning, where trio is there for hypothesis to mind, changes nothing.
    assert "3 passed" in done.stdout and "1 error" in done.stdout, done.stdout
    assert "ERROR" in done.stdout and "test_long" in done.stdout
    assert "in work" in done.stdout


pytestmark = pytest.mark.own_cpu("these tests keep the processor busy to see it measured")
