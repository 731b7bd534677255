"""These tests check what C{llmux check} says of a configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmux.command.main import main


class TestCheck:
    CONFIG = """
models:
  b:
    port: 8002
    wake: |
      one
      two
    sleep: "true"
    alive: ask
    weight: 2
  a: {port: 8001, host: "::1", wake: up, sleep: down, alive: ask, wake_timeout_secs: 1.5}
policy: {name: fifo, request_timeout_secs: 300, drain_timeout_secs: 60}
request_log: requests.jsonl
sleep_on_exit: true
admin: {socket: own.sock}
"""

    def check(
        self, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str], *more: str
    ) -> tuple[int, str, str]:
        path = tmp_path / "c.yaml"
        path.write_text(text)
        status = main(["check", "-c", str(path), *more])
        out, err = capsys.readouterr()
        return status, out.replace(str(tmp_path), "DIR"), err.replace(str(tmp_path), "DIR")

    def test_a_sound_configuration_is_summed_up(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, out, err = self.check(tmp_path, self.CONFIG, capsys)
        assert (status, err) == (0, "")
        assert (
            out
            == """\
DIR/c.yaml is sound: 2 models

listens on        http://127.0.0.1:3000
hooks run in      DIR
request bodies    up to 512 MiB
a stalled client  is cut off after 60 s
stops             within 30 s, puts awake models to sleep
logs requests to  DIR/requests.jsonl

who may
  use models        whoever reaches http://127.0.0.1:3000
  see what goes on  llmux's own user, at DIR/own.sock
                    whoever reaches http://127.0.0.1:3000 (this machine only)
                    a browser that llmux open has let in
  give commands     llmux's own user, at DIR/own.sock
                    a browser that llmux open has let in
  scrape /metrics   whoever reaches http://127.0.0.1:3000

policy fifo
  a request waits for its model 300 s at most
  requests in flight finish before a switch, within 60 s
  a model is awake for 0 s at least

model a at [::1]:8001
  wake,  1.5 s at most:   up
  sleep, 300 s at most:   down
  alive, 10 s at most:    ask

model b at 127.0.0.1:8002, weight 2
  wake,  900 s at most:
      one
      two
  sleep, 300 s at most:   true
  alive, 10 s at most:    ask
"""
        )

    def test_limits_that_are_left_out_are_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = (
            "models: {a: {port: 1, wake: w, sleep: s, alive: l}}\n"
            "listen: tcp:3000\npolicy: {drain_before_switch: false}"
        )
        status, out, _ = self.check(tmp_path, text, capsys)
        assert status == 0
        assert "is sound: 1 model\n" in out
        assert "listens on        tcp:3000\n" in out
        assert "without limit" in out
        assert "a switch does not wait for requests in flight" in out
        assert "see what goes on  llmux's own user" in out
        assert "whoever reaches" in out.partition("see what goes on")[0]
        assert "whoever reaches" not in out.partition("see what")[2].partition("give")[0]
        assert "policy cost_aware\n" in out
        assert "max_wait_secs: 120.0\n" in out

    def test_the_configuration_is_printed_as_json(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, out, _ = self.check(tmp_path, self.CONFIG, capsys, "--json")
        assert status == 0
        values = json.loads(out)
        assert list(values["models"]) == ["a", "b"]
        assert values["models"]["a"]["wake_timeout_secs"] == 1.5
        assert (values["port"], values["policy"]["name"]) == (3000, "fifo")
        assert "listen" not in values
        assert "settings" not in values["policy"]

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            (
                "listen: tpc:3000",
                'DIR/c.yaml: listen: "tpc:3000" cannot be used: '
                "unknown endpoint type: 'tpc'; "
                "write it as in tcp:3000:interface=127.0.0.1 or unix:/run/llmux.sock\n",
            ),
            (
                "request_log: no/such.jsonl",
                "DIR/c.yaml: request_log: there is no directory DIR/no; "
                "make it, or name a file elsewhere\n",
            ),
        ],
    )
    def test_what_the_configuration_needs_around_it_is_checked(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, expected: str
    ) -> None:
        text = "models: {a: {port: 1, wake: w, sleep: s, alive: l}}\n" + line
        assert self.check(tmp_path, text, capsys) == (1, "", expected)

    def test_a_reader_that_has_had_enough_causes_no_traceback(self, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text(self.CONFIG)
        ended = subprocess.run(
            ["sh", "-c", f"{sys.executable} -m llmux check -c {tmp_path}/c.yaml | true"],
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        )
        assert ended.stderr == b""
