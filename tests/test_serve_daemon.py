"""These tests check models with a serve command, with real daemons and real servers."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from tests.daemon import Daemon, ask, connect, free_port, run, wait_until

SERVER = f"{sys.executable} -S {Path(__file__).parent / 'model_server.py'}"


class House:
    """A house is a directory with a configuration, and what its servers have left there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.further: dict[str, Any] = {}

    def configure(self, **models: Any) -> None:
        """Configure models, by the options of their servers, or by their keys."""
        self.port = free_port()
        document = {
            "port": self.port,
            "state_dir": "state",
            **self.further,
            "models": {
                name: {"serve": f"{SERVER} {keys}"} if isinstance(keys, str) else keys
                for name, keys in models.items()
            },
        }
        (self.directory / "config.json").write_text(json.dumps(document))

    def daemon(self) -> Daemon:
        return Daemon(["-c", "config.json"], self.directory)

    def ask(self, model: str) -> dict[str, int]:
        """Return what the server of this model answers: its process and its port."""
        with closing(connect(self.port)) as connection:
            status, body = ask(connection, model)
        assert status == 200, body
        return cast(dict[str, int], json.loads(body))

    def starts(self, model: str) -> list[int]:
        """Return the ids of the processes that were started for this model."""
        file = self.directory / "starts"
        lines = file.read_text().splitlines() if file.exists() else []
        return [int(line.split()[1]) for line in lines if line.split()[0] == model]

    def never_two(self) -> bool:
        return not (self.directory / "twice").exists()

    def end(self) -> None:
        for record in self.directory.glob("state/models/*/.server"):
            try:
                os.killpg(json.loads(record.read_text())["process"]["pid"], signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                pass


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.end()
    assert house.never_two()


def runs(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def test_models_wake_and_sleep_by_turns(house: House) -> None:
    house.configure(a="", b="--delay 0.2")
    with house.daemon() as daemon:
        seen = [house.ask(model)["pid"] for model in "abab"]
        assert len(set(seen)) == 4
        assert [pid for pid in seen if runs(pid)] == seen[-1:]
        daemon.wait_for("a serve output: loading")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert runs(seen[-1]), "what is awake stays awake for the next start"


def test_the_server_is_the_process_that_llmux_knows(house: House) -> None:
    """
    The command is one simple command: it has replaced its shell, so a signal reaches the server
    itself.
    """
    house.configure(a="")
    with house.daemon():
        pid = house.ask("a")["pid"]
        record = json.loads((house.directory / "state/models/a/.server").read_text())
        assert record["process"]["pid"] == pid == os.getsid(pid)


def test_after_kill_9_of_llmux_the_server_is_adopted_at_its_port(house: House) -> None:
    house.configure(a="", b="")
    with house.daemon() as daemon:
        before = house.ask("a")
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    for _ in range(2):
        with house.daemon() as daemon:
            daemon.wait_for("a is awake already")
            assert house.ask("a") == before
    with house.daemon():
        assert house.ask("b")["pid"] != before["pid"]
        assert not runs(before["pid"]), "an adopted server is ended like any other"


def test_after_kill_9_of_llmux_a_server_that_loads_is_not_forgotten(house: House) -> None:
    house.configure(a="--delay 3", b="")
    with house.daemon() as daemon, closing(connect(house.port)) as client:
        client.request("POST", "/v1/completions", json.dumps({"model": "a"}))
        (first,) = wait_until(lambda: house.starts("a"), "the server")
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    assert runs(first)
    with house.daemon():
        house.ask("b")
        assert not runs(first), "it held what it had taken"
        house.ask("a")


@pytest.mark.parametrize("moment", range(6))
def test_llmux_may_be_killed_at_any_moment_of_a_wake(house: House, moment: int) -> None:
    house.configure(a="")
    with house.daemon() as daemon, closing(connect(house.port)) as client:
        client.request("POST", "/v1/completions", json.dumps({"model": "a"}))
        if moment:
            # The moments lie between the start of the process and its being ready.
            time.sleep(moment * 0.02)
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    with house.daemon():
        assert runs(house.ask("a")["pid"])


def test_after_kill_9_of_the_server_the_model_is_woken_again(house: House) -> None:
    house.configure(a="")
    with house.daemon() as daemon:
        first = house.ask("a")["pid"]
        os.kill(first, signal.SIGKILL)
        # A request that has been sent to a dying backend twice is a 502.
        assert "killed by signal 9" in daemon.wait_for("server_ended")
        second = house.ask("a")["pid"]
        assert second != first and runs(second)


def test_what_a_killed_server_leaves_behind_is_gone_before_the_next_one(house: House) -> None:
    """The child of the killed server holds the lock that the next server wants."""
    house.configure(a={"serve": f"{SERVER} --child", "stop_secs": 0.5})
    with house.daemon() as daemon:
        first = house.ask("a")["pid"]
        child = int(daemon.wait_for("output: child").rpartition(" ")[2])
        os.kill(first, signal.SIGKILL)
        daemon.wait_for("server_ended")
        house.ask("a")
        assert not runs(child)
        assert len(house.starts("a")) == 2 and house.never_two()


def test_sleep_ends_children_and_those_that_ignore_term(house: House) -> None:
    options = {"serve": f"{SERVER} --child --ignore-term", "stop_secs": 0.5}
    house.configure(a=options, b="")
    with house.daemon() as daemon:
        first = house.ask("a")["pid"]
        child = int(daemon.wait_for("output: child").rpartition(" ")[2])
        house.ask("b")
        assert not runs(first) and not runs(child)
        line = daemon.wait_for("sleep hook of a completed")
        assert float(line.rpartition(" in ")[2].split()[0]) == pytest.approx(0.6, abs=0.3)


def test_a_server_that_ends_at_once_fails_its_wake_at_once(house: House) -> None:
    house.configure(a={"serve": "echo loading; echo no such model >&2; exit 3"})
    with house.daemon() as daemon, closing(connect(house.port)) as client:
        began = time.monotonic()
        status, body = ask(client, "a")
        assert time.monotonic() - began < 5
        assert status == 503 and b"the server ended: exit status 3" in body
        assert b"no such model" not in body
        line = daemon.wait_for("hook_failed")
        assert line.endswith("its last line: no such model")


def test_a_torrent_of_output_hurts_neither_llmux_nor_the_disk(house: House) -> None:
    house.configure(a="--torrent", b="")
    with house.daemon() as daemon:
        house.ask("a")
        output = house.directory / "state/models/a/server.log"
        daemon.wait_for("bytes left out, which came too fast")
        began = time.monotonic()
        for _ in range(20):
            house.ask("a")
        assert time.monotonic() - began < 10
        sizes = []
        for _ in range(20):
            sizes.append(output.stat().st_size)
            time.sleep(0.05)
        assert min(sizes) < max(sizes), "it begins anew"
        house.ask("b")


def test_a_server_that_llmux_has_left_does_not_depend_on_it(house: House) -> None:
    """A server that wrote to a pipe in place of the file would be ended by its next line."""
    house.configure(a="--torrent")
    with house.daemon() as daemon:
        pid = house.ask("a")["pid"]
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    time.sleep(0.2)
    assert runs(pid)


def test_servers_that_fit_together_are_awake_together_and_adopted_where_they_are(
    house: House,
) -> None:
    house.further = {"resources": {"gpu0": 10, "gpu1": 10}}
    either = {"serve": SERVER, "needs": [{"gpu0": 6}, {"gpu1": 6}]}
    house.configure(a=either, b=either)
    with house.daemon() as daemon:
        before = [house.ask(model) for model in "ab"]
        assert [answer["place"] for answer in before] == [1, 2]
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    with house.daemon():
        assert [house.ask(model) for model in "ba"] == before[::-1]


def test_prepare_runs_beside_the_wake_and_gets_term_when_the_model_is_awake(
    house: House,
) -> None:
    script = (
        "trap 'echo $LLMUX_HOOK ended >>prepared; exit' TERM; echo begun >>prepared; "
        "while :; do sleep 0.05; done"
    )
    house.configure(a={"serve": f"{SERVER} --delay 0.5", "prepare": script}, b="")
    prepared = house.directory / "prepared"
    with house.daemon() as daemon:
        house.ask("a")
        wait_until(lambda: prepared.read_text() == "begun\nprepare ended\n", "its end")
        assert not any("prepare hook of a failed" in line for line in daemon.lines)


def test_a_server_whose_model_was_renamed_is_told_of(house: House) -> None:
    house.configure(a="")
    with house.daemon() as daemon:
        pid = house.ask("a")["pid"]
        daemon.signal(signal.SIGTERM)
        daemon.wait()
    house.configure(b="")
    with house.daemon() as daemon:
        line = daemon.wait_for("server_stray")
        assert f"process {pid}" in line and f"kill -- -{pid}" in line
        house.ask("b")
    os.kill(pid, signal.SIGKILL)
    with house.daemon() as daemon:
        assert not any("server_stray" in line for line in daemon.lines)


def test_a_server_whose_model_is_removed_while_llmux_runs_is_ended_and_no_stray(
    house: House,
) -> None:
    house.configure(a="", b="")
    with house.daemon() as daemon:
        pid = house.ask("a")["pid"]
        house.configure(b="")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("it is forgotten")
        assert not runs(pid)
        assert not any("server_stray" in line for line in daemon.lines)


def test_check_runs_the_whole_cycle(house: House) -> None:
    house.configure(a="--delay 0.1", b={"serve": "exit 3"})
    said = run("check", "-c", "config.json", "--hooks", "--cycle", cwd=house.directory)
    assert said.returncode == 1
    rows = [line.split(maxsplit=3) for line in said.stdout.splitlines()]
    assert [(row[0], row[1], row[3]) for row in rows[1:]] == [
        ("a", "sleep", "done"),
        ("a", "wake", "done"),
        ("a", "alive", "yes"),
        ("a", "sleep", "done"),
        ("b", "sleep", "done"),
        ("b", "wake", "the server ended: exit status 3"),
        ("b", "sleep", "done"),
    ]
    (pid,) = house.starts("a")
    assert not runs(pid)


def test_check_asks_a_server_that_serves_and_leaves_it_alone(house: House) -> None:
    house.configure(a="", b="")
    with house.daemon():
        pid = house.ask("a")["pid"]
        said = run("check", "-c", "config.json", "--hooks", cwd=house.directory)
        answers = [line.split()[3] for line in said.stdout.splitlines()[1:]]
        assert answers == ["yes", "no"]
        assert runs(pid) and house.ask("a")["pid"] == pid


def test_sleep_on_exit_ends_the_server(house: House) -> None:
    house.further = {"sleep_on_exit": True}
    house.configure(a="")
    with house.daemon() as daemon:
        pid = house.ask("a")["pid"]
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert not runs(pid)
