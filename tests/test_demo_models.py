"""
These tests run the demo end to end: llmux as a process, two real models, the openai client.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from urllib.request import urlopen

import openai
import pytest

from llmux.demo.models import install_commands

_ROOT = Path(__file__).parent.parent
_MISSING = install_commands(sys.executable)
_ON_CI = os.environ.get("CI") == "true"

# Where these tests must run, they fail at their first step, and say what to install.
pytestmark = pytest.mark.skipif(
    bool(_MISSING) and not _ON_CI, reason=f"to run it: {' && '.join(_MISSING)}"
)


@dataclass
class Demo:
    """This is a running C{llmux demo}."""

    process: subprocess.Popen[str]
    port: int
    said: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def read_until(self, text: str) -> None:
        """Read the demo's output up to a line that holds C{text}, within a minute."""
        assert self.process.stdout is not None
        patience = Timer(60, self.process.kill)
        patience.start()
        try:
            for line in self.process.stdout:
                self.said.append(line)
                if text in line:
                    return
        finally:
            patience.cancel()
        pytest.fail(f"it ended without saying {text!r}:\n{''.join(self.said)}")


@contextmanager
def running_demo(tmp_path: Path, mark: str) -> Iterator[Demo]:
    """Run the demo in an environment where it could write nothing unseen."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name in ("home", "tmp", "cwd"):
        (tmp_path / name).mkdir()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "llmux", "demo"),
            *("-p", str(port), "--directory", str(tmp_path / "demo")),
        ],
        cwd=tmp_path / "cwd",
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(_ROOT),
            "PYTHONUNBUFFERED": "1",
            "HOME": str(tmp_path / "home"),
            "TMPDIR": str(tmp_path / "tmp"),
            "MARK": mark,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield Demo(process, port, [])
        finally:
            process.kill()


def processes_with(mark: str) -> list[str]:
    """Return the command lines of all processes that were given this environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_both_models_of_the_demo_answer_and_leave_nothing_behind(tmp_path: Path) -> None:
    """
    Both models answer through one port, streaming and not, one awake at a
    time; SIGINT leaves no process and no file outside the directory.
    """
    mark = uuid.uuid4().hex
    with running_demo(tmp_path, mark) as demo:
        demo.read_until("Ctrl-C")
        introduction = "".join(demo.said)
        assert introduction.count(f"curl {demo.url}/v1/chat/completions") == 1
        assert introduction.count(f"curl -N {demo.url}/v1/chat/completions") == 1

        client = openai.OpenAI(
            base_url=f"{demo.url}/v1", api_key="-", max_retries=0, timeout=60
        )
        with client:
            assert [model.id for model in client.models.list()] == ["gemma3", "smollm2"]
            for name in ("smollm2", "gemma3"):
                assert ask(client, name)
                assert len(running_models(tmp_path)) == 1
                assert stream(client, name)
            assert ask(client, "smollm2")
        metrics = urlopen(f"{demo.url}/metrics").read().decode()
        for source, target in (
            ("idle", "smollm2"),
            ("smollm2", "gemma3"),
            ("gemma3", "smollm2"),
        ):
            labels = f'from="{source}",result="success",to="{target}"'
            assert f"llmux_switch_total{{{labels}}} 1.0" in metrics

        assert len(processes_with(mark)) >= 2
        demo.process.send_signal(signal.SIGINT)
        rest, _ = demo.process.communicate(timeout=30)
    assert demo.process.returncode == 0, rest
    assert "Traceback" not in introduction + rest
    wait_until_gone(mark)
    for name in ("home", "tmp", "cwd"):
        assert list((tmp_path / name).iterdir()) == []


def ask(client: openai.OpenAI, model: str) -> str:
    """Return the text of a whole reply."""
    reply = client.chat.completions.create(
        model=model, max_tokens=8, messages=[{"role": "user", "content": "Say hello."}]
    )
    assert reply.model == model
    assert reply.usage is not None
    return reply.choices[0].message.content or ""


def stream(client: openai.OpenAI, model: str) -> str:
    """Return the text of a streamed reply, which must have come in pieces and to its end."""
    pieces = []
    finished = None
    for chunk in client.chat.completions.create(
        model=model,
        max_tokens=8,
        messages=[{"role": "user", "content": "Write one sentence about the sea."}],
        stream=True,
    ):
        assert chunk.model == model
        (choice,) = chunk.choices
        finished = choice.finish_reason
        if choice.delta.content:
            pieces.append(choice.delta.content)
    assert finished in ("stop", "length")
    assert len(pieces) > 1
    return "".join(pieces)


def running_models(tmp_path: Path) -> list[str]:
    """Return the models whose servers llmux has started and not stopped."""
    return [path.parent.name for path in (tmp_path / "demo/state/models").glob("*/.server")]


def wait_until_gone(mark: str) -> None:
    """
    Wait until no process has this environment; orphans may be seen for a moment after their
    end.
    """
    for _ in range(100):
        if not processes_with(mark):
            return
        time.sleep(0.01)
    pytest.fail(f"left behind: {processes_with(mark)}")
