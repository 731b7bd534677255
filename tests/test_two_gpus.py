"""
These tests run the example of two GPUs end to end: llmux and four real models as processes, and
they check which models were awake when.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from llmux.demo.models import install_commands

from .daemon import LLMUX, Daemon, free_port, run, wait_until

EXAMPLE = Path(__file__).parent.parent / "examples" / "two-gpus"
_MISSING = install_commands(sys.executable)

# Where these tests must run, they fail at their first step, and say what to install.
pytestmark = pytest.mark.skipif(
    bool(_MISSING) and os.environ.get("CI") != "true",
    reason=f"to run it: {' && '.join(_MISSING)}",
)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Copy the example, and end its servers afterwards."""
    directory = tmp_path / "example"
    shutil.copytree(EXAMPLE, directory)
    # The example says python3: this interpreter, which has the models.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield directory
    for pid, _, _ in servers(tmp_path):
        os.kill(pid, signal.SIGKILL)


def servers(state: Path) -> list[tuple[int, str, str]]:
    """Return the servers that run: their processes, models, and the GPUs that they may use."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            pairs = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        variables = dict(pair.decode().partition("=")[::2] for pair in pairs)
        of_ours = variables.get("LLMUX_STATE", "").startswith(str(state))
        if of_ours and b"llmux.demo.model_server" in words:
            gpus = variables.get("CUDA_VISIBLE_DEVICES", "")
            found.append((int(process.name), variables["LLMUX_MODEL"], gpus))
    return found


class House:
    """A house is the llmux that runs, with the questions that it is asked."""

    def __init__(self, port: int, state: Path) -> None:
        self.port = port
        self.state = state

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(
                "POST", path, json.dumps(body), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
            assert response.status == 200, answer
            return answer

    def ask(self, model: str) -> None:
        said = self.post(
            "/v1/chat/completions",
            {
                "model": model,
                "max_tokens": 4,
                "messages": [{"role": "user", "content": "What is the capital of France?"}],
            },
        )
        assert said["choices"][0]["message"]["content"]

    def embed(self) -> None:
        (row,) = self.post("/v1/embeddings", {"model": "embed", "input": "hello"})["data"]
        assert len(row["embedding"]) > 100

    def is_embedding(self) -> bool:
        try:
            self.embed()
        except AssertionError as error:
            assert "backend_error" in str(error)
            return False
        return True

    def run(self) -> dict[str, str]:
        """Return the models whose servers run, and the GPUs of each."""
        return {model: gpus for _, model, gpus in servers(self.state)}


def test_each_model_is_awake_when_it_must_be(example: Path, tmp_path: Path) -> None:
    port = free_port()
    with Daemon(["-c", "config.yaml", "-p", str(port)], example) as daemon:
        daemon.wait_for("listening")
        house = House(port, tmp_path)
        house.embed()
        assert house.run() == {"embed": ""}, "woken at start, and nobody else"
        house.ask("chat")
        house.ask("quiz")
        assert house.run() == {"embed": "", "chat": "0", "quiz": "1"}
        house.ask("big")
        assert house.run() == {"embed": "", "big": "0,1"}, "both made room, embed did not"
        house.embed()
        assert house.run() == {"embed": "", "big": "0,1"}
        house.ask("quiz")
        assert house.run() == {"embed": "", "quiz": "0"}
        house.ask("chat")
        assert house.run() == {"embed": "", "chat": "1", "quiz": "0"}
        # After kill -9, models that are awake are found again where they are.
        daemon.process.kill()
    assert house.run() == {"embed": "", "chat": "1", "quiz": "0"}
    with Daemon(["-c", "config.yaml", "-p", str(port)], example) as daemon:
        daemon.wait_for("listening")
        before = {pid for pid, _, _ in servers(tmp_path)}
        house.ask("chat")
        house.ask("quiz")
        house.embed()
        assert {pid for pid, _, _ in servers(tmp_path)} == before, "nothing was woken anew"
        assert not [line for line in daemon.lines if "wake_interrupted" in line]
        (embedder,) = [pid for pid, model, _ in servers(tmp_path) if model == "embed"]
        os.kill(embedder, signal.SIGKILL)
        # A request at the moment of the death may be answered with 502, if it has been begun
        # anew once already: clients ask again.
        wait_until(house.is_embedding, "the embedder's coming back")
        assert house.run() == {"embed": "", "chat": "1", "quiz": "0"}
        house.ask("big")
        assert house.run() == {"embed": "", "big": "0,1"}
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


def test_check_prints_what_fits_together() -> None:
    said = run("check", "-c", "config.yaml", cwd=EXAMPLE, command=LLMUX)
    assert "awake together    embed, chat, quiz\n            or    embed, big\n" in said.stdout
