"""These tests check the commands that follow a running llmux, and what terminals get."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from llmux.command.link import daemon_link
from tests.daemon import LLMUX, PATIENCE, environment, run, wait_until
from tests.fake_daemon import FakeDaemon, ago, model

from .commands import Commands, daemon_of_the_file, llmux_here

daemon, llmux = daemon_of_the_file, llmux_here


class TestStreams:
    def test_requests_are_listed(self, llmux: Commands, daemon: FakeDaemon) -> None:
        daemon.requests = [
            {
                "id": f"r-{i}",
                "at": ago(10),
                "key": None,
                "model": "llama",
                "name": "llama",
                "method": "POST",
                "path": "/v1/chat/completions",
                "status": 200,
                "waited_secs": 0.0,
                "first_byte_secs": 0.2,
                "service_secs": 3.4,
                "bytes": 2000,
                "outcome": "answered",
                "switch": None,
            }
            for i in range(3)
        ]
        lines = llmux("requests", "-n", "2").out.splitlines()
        assert lines[0].split()[:3] == ["TIME", "ID", "MODEL"]
        assert [line.split()[1] for line in lines[1:]] == ["r-1", "r-2"]
        assert llmux("requests", "--json").json["requests"][0]["id"] == "r-0"

    def test_requests_as_they_end(self, llmux: Commands, daemon: FakeDaemon) -> None:
        row: dict[str, Any] = {
            "id": "7",
            "at": ago(1),
            "model": "llama",
            "method": "POST",
            "path": "/v1/x",
        }
        row |= {"status": 200, "outcome": "answered"}

        def end() -> None:
            wait_until(daemon.subscribers, "somebody to listen")
            daemon.tell("request", {"schema": 1, "requests": [row]})
            daemon.cut_streams()

        later = Timer(0, end)
        later.start()
        lines = llmux("requests", "-f").out.splitlines()
        later.join()
        assert len(lines) == 2
        assert "llama POST /v1/x: 200" in lines[1]

    def test_the_log_of_a_model_is_printed_without_control_characters(
        self, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        daemon.log.append("evil \x1b[2J")
        said = llmux("logs", "llama", "-n", "2")
        assert said.out == "llama wake: ready\nevil \\x1b[2J\n"
        assert daemon.asked[-1] == "/llmux/log?tail=2&model=llama"
        assert llmux("logs", "none").status == 1

    def test_logs_may_be_silent_and_events_may_not(
        self, llmux: Commands, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(daemon_link, "_SILENCE_SECS", 0.2)
        said = llmux("events")
        assert (said.status, "has fallen silent" in said.err) == (3, True)
        began = daemon.subscribers()

        def end() -> None:
            daemon.tell("log", {})
            daemon.cut_streams()

        later = Timer(0.8, end)
        later.start()
        said = llmux("logs", "-f")
        later.join()
        assert daemon.subscribers() == began + 1
        assert (said.status, said.out.count("\n")) == (3, 3)
        assert "has ended the stream" in said.err

    def test_events_until_the_daemon_ends(
        self, tmp_path: Path, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        def begin(*words: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [*LLMUX, "events", "-c", str(llmux.file), *words],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        with begin() as people, begin("--json", "--only", "model") as programs:
            assert people.stdout is not None and programs.stdout is not None
            assert "llama has been awake" in people.stdout.readline()
            assert json.loads(programs.stdout.readline())["event"] == "status"
            people.stdout.readline()
            daemon.tell("queue", {"schema": 1, "model": "llama", "waiters": 7, "in_flight": 1})
            daemon.change("llama", state="draining")
            assert "llama 1 in flight, 7 waiting" in people.stdout.readline()
            assert "llama draining, 3 in flight" in people.stdout.readline()
            event = json.loads(programs.stdout.readline())
            assert (event["event"], event["state"]) == ("model", "draining")
            daemon.cut_streams()
            assert people.wait(PATIENCE) == programs.wait(PATIENCE) == 3
            assert people.stderr is not None
            assert "has ended the stream" in people.stderr.read()


def test_colours_and_cuts_are_for_terminals(tmp_path: Path, daemon: FakeDaemon) -> None:
    def in_terminal(**extra: str) -> str:
        ours, theirs = os.openpty()
        try:
            subprocess.run(
                [*LLMUX, "ps"],
                cwd=tmp_path,
                env=environment() | {"TERM": "xterm"} | extra,
                stdout=theirs,
                timeout=PATIENCE,
                check=True,
            )
            return os.read(ours, 65536).decode()
        finally:
            os.close(ours)
            os.close(theirs)

    assert "\x1b[1;32mawake" in in_terminal()
    assert "\x1b" not in in_terminal(NO_COLOR="1")
    lines = in_terminal(NO_COLOR="1", COLUMNS="60").splitlines()
    assert max(map(len, lines)) <= 60 and len(lines) == 3
    piped = run("ps", cwd=tmp_path).stdout
    assert "\x1b" not in piped and "IN-FLIGHT" in piped


def test_letters_that_the_terminal_does_not_know_are_escaped(
    tmp_path: Path, daemon: FakeDaemon
) -> None:
    daemon.status["models"] = [model("模型", state="awake")]
    for words in ["ps"], ["ps", "--json"], ["top"], ["status"]:
        said = subprocess.run(
            [*LLMUX, *words],
            cwd=tmp_path,
            env=environment() | {"PYTHONIOENCODING": "latin-1"},
            capture_output=True,
            timeout=PATIENCE,
        )
        assert (said.returncode, said.stderr) == (0, b"")
        assert b"\\u6a21\\u578b" in said.stdout


def test_a_reader_that_has_had_enough_is_no_traceback(
    tmp_path: Path, daemon: FakeDaemon
) -> None:
    daemon.status["models"] = [model(f"m{i}") for i in range(20000)]
    ended = subprocess.run(
        f"{' '.join(LLMUX)} ps | head -1",
        shell=True,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.stdout.startswith("MODEL")
    assert ended.stderr == ""
