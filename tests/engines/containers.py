"""
This module has containers of a real engine, with a llama-server in each, and llmux in front of
two of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmux.demo.models import MODELS
from tests.daemon import Daemon, free_port

__all__ = ["ENGINES", "Engine", "World"]

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
_PATIENCE = 120.0


@dataclass(frozen=True)
class Engine:
    """
    An engine is a program that runs containers, with the example whose hooks use it.

    @ivar keeps: True if a model that sleeps is a checkpoint, and not merely a stopped
        container.
    """

    program: str
    example: str
    sleep: str
    keeps: bool

    def __call__(self, *arguments: str) -> str:
        """Run the program with these arguments, and return its output."""
        done = subprocess.run(
            [self.program, *arguments],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{self.program} {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def wanting(self) -> str:
        """Say what keeps the engine from running here; empty if nothing does."""
        if shutil.which(self.program) is None:
            return f"there is no {self.program} on the PATH"
        for name in ("ENGINE_IMAGE", "ENGINE_MODELS"):
            if not os.environ.get(name):
                return f"{name} is not set: see tests/engines/README.md"
        try:
            self("image", "inspect", os.environ["ENGINE_IMAGE"])
        except (AssertionError, subprocess.TimeoutExpired) as error:
            return str(error)
        return ""


ENGINES = {
    "docker": Engine("docker", "docker", "docker stop", keeps=False),
    "podman": Engine("podman", "podman-criu", "./sleep.sh", keeps=True),
}


class World:
    """
    This world has two models in containers of their own, and as many llmuxes in front of them,
    one after the other, as a test wants.

    @ivar answers: by model, its first answer.
    @ivar seconds: for each request, the model and the seconds that the request took.
    """

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine = engine
        self.answers: dict[str, str] = {}
        self.seconds: list[tuple[str, float]] = []
        self.port = free_port()
        self.directory = directory / "example"
        shutil.copytree(EXAMPLES / engine.example, self.directory)
        self.models: dict[str, dict[str, Any]] = {}
        for model in MODELS.values():
            self.add(model.name, "-m", f"/models/{model.filename}")

    def add(self, name: str, *arguments: str) -> None:
        """Add a model, whose llama-server has these arguments."""
        container = self.container(name)
        port = free_port()
        self.engine(
            *("container", "create", "--name", container, "-p", f"127.0.0.1:{port}:8000"),
            *("-v", f"{os.environ['ENGINE_MODELS']}:/models:ro", os.environ["ENGINE_IMAGE"]),
            *("llama-server", "--host", "0.0.0.0", "--port", "8000", "--alias", name),
            *("-c", "2048", "-t", "1", *arguments),
        )
        self.models[name] = {
            "port": port,
            "wake": f"./wake.sh {container}",
            "sleep": f"{self.engine.sleep} {container}",
        }

    def container(self, name: str) -> str:
        """Return the name of a model's container."""
        return f"llmux-test-{os.getpid()}-{name}"

    def close(self) -> None:
        """Remove the containers."""
        for name in self.models:
            self.engine("container", "rm", "-f", self.container(name))

    @contextmanager
    def llmux(self, **keys: Any) -> Iterator[Daemon]:
        """Run llmux until the end of the C{with} block, with further keys for its models."""
        models = {name: {**model, **keys} for name, model in self.models.items()}
        (self.directory / "config.json").write_text(
            json.dumps(
                {
                    "port": self.port,
                    "models": models,
                    "state_dir": "state",
                    # This policy switches at once, since the test measures the engine.
                    "policy": {"name": "fifo"},
                }
            )
        )
        with Daemon(["-c", "config.json"], self.directory) as daemon:
            try:
                yield daemon
            finally:
                # pytest shows the lines if a test fails.
                print("\n".join(daemon.lines))

    def ask(self, name: str) -> tuple[int, str]:
        """
        Send a request, and return its status and the text that a model has generated, or what
        went wrong.
        """
        body = {
            "model": name,
            "temperature": 0,
            "seed": 1,
            "max_tokens": 16,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        began = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE) as reply:
                answer: Mapping[str, Any] = json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)["error"]["message"]
        finally:
            self.seconds.append((name, time.monotonic() - began))
        return 200, answer["choices"][0]["message"]["content"]

    def expect(self, name: str) -> None:
        """Ask a model, and check that it answers as it did the first time."""
        status, text = self.ask(name)
        assert (status, bool(text)) == (200, True), text
        assert self.answers.setdefault(name, text) == text

    def state(self, name: str) -> str:
        """
        Return the state of a model's container, as the engine tells it: running, paused,
        exited, created.
        """
        return self.engine(
            "container", "inspect", "--format", "{{.State.Status}}", self.container(name)
        )

    def is_kept(self, name: str) -> bool:
        """Tell whether there is a checkpoint of a model's container."""
        said = self.engine(
            "container", "inspect", "--format", "{{.State.Checkpointed}}", self.container(name)
        )
        return said == "true"

    def started(self, name: str) -> str:
        """Return the time at which a model's container was started, as the engine tells it."""
        return self.engine(
            "container", "inspect", "--format", "{{.State.StartedAt}}", self.container(name)
        )

    def do(self, verb: str, name: str) -> None:
        """Do something to a model's container behind llmux's back."""
        self.engine("container", verb, self.container(name))


def kill(daemon: Daemon) -> None:
    """Send a llmux SIGKILL, and wait for its end."""
    daemon.signal(signal.SIGKILL)
    daemon.wait()
