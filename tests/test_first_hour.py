"""
These tests do what a new user does in the first minutes, from an empty directory: install,
write a configuration for two model files, serve them, see llmux and a model killed, and stop
with nothing left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from llmux.demo.models import MODELS, gguf_of, install_commands

from .daemon import free_port, wait_until

ROOT = Path(__file__).parent.parent
MISSING = install_commands(sys.executable)
ON_CI = os.environ.get("CI") == "true"

pytestmark = [
    # Where these tests must run, they fail at their first step, and say what to install.
    pytest.mark.skipif(
        bool(MISSING) and not ON_CI, reason=f"to run it: {' && '.join(MISSING)}"
    ),
    pytest.mark.skipif(shutil.which("curl") is None and not ON_CI, reason="there is no curl"),
    pytest.mark.own_cpu("other processes are waited for"),
]

SMOLLM2, GEMMA3 = "smollm2-135m-instruct", "gemma-3-270m"

LLAMA_SERVER = f"""#!{sys.executable}
# What there is of llama.cpp's server here, by its name and with its options.
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, {str(ROOT)!r})
from llmux.demo.model_server import main

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
gguf = options["-m"]
model = "smollm2" if "smollm2" in gguf.lower() else "gemma3"
sys.exit(main(["--model", model, "--port", options["--port"], "--gguf", gguf]))
"""


REQUEST: Any = {
    "max_tokens": 8,
    "temperature": 0,
    "messages": [{"role": "user", "content": "Write one sentence about the sea."}],
}


class Stranger:
    """
    A stranger has an empty directory, model files in it, and C{llama-server} on the PATH.

    @ivar mark: a text in the environment of every process that is started here, directly or
        not.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.here = home / "here"
        self.here.mkdir()
        self.mark = uuid.uuid4().hex
        self.port = free_port()
        programs = home / "programs"
        programs.mkdir()
        server = programs / "llama-server"
        server.write_text(LLAMA_SERVER)
        server.chmod(0o755)
        self.environment = {
            "PATH": f"{home / 'venv' / 'bin'}:{programs}:{os.environ['PATH']}",
            "HOME": str(home / "home"),
            "TMPDIR": str(home / "tmp"),
            "MARK": self.mark,
        }
        for name in "home", "tmp":
            (home / name).mkdir()

    def run(self, *command: str, **environment: str) -> str:
        """Run a command to its end, which must be a success; return its output."""
        ended = subprocess.run(
            command,
            cwd=self.here,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    def install(self) -> None:
        """Build the wheel, and install it with its requirements."""
        python, dist, venv = sys.executable, self.home / "dist", self.home / "venv"
        # Files that pip and compilers leave in a home directory are not llmux's.
        home = {"HOME": os.environ["HOME"]}
        self.run(python, "-m", "build", "--wheel", "--outdir", str(dist), str(ROOT), **home)
        (wheel,) = dist.glob("*.whl")
        # This environment's pip installs into the new one: to install another pip there first
        # takes longer than all the rest.
        self.run(python, "-m", "venv", "--without-pip", str(venv), **home)
        pip = (python, "-m", "pip", "--python", str(venv / "bin/python"))
        self.run(*pip, "install", "-q", "--no-compile", str(wheel), **home)

    def get_models(self) -> None:
        """Put the files of two models into a directory."""
        models = self.here / "models"
        models.mkdir()
        (models / MODELS["smollm2"].filename).symlink_to(gguf_of(MODELS["smollm2"], models))
        gguf_of(MODELS["gemma3"], models)

    @contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run llmux until the end of the C{with} block."""
        log = (self.home / "llmux.log").open("ab")
        process = subprocess.Popen(
            ["llmux", "-p", str(self.port)],
            cwd=self.here,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        with process, log:
            try:
                wait_until(lambda: self.log().count("listening") > 0, "llmux's socket")
                yield process
            finally:
                process.kill()
        (self.home / "llmux.log").unlink()

    def log(self) -> str:
        return (self.home / "llmux.log").read_text()

    def ask_by_curl(self, model: str) -> str:
        said = self.run(
            "curl",
            *(
                "-sS",
                "--fail-with-body",
                "--noproxy",
                "*",
                "-H",
                "Content-Type: application/json",
            ),
            *("-d", json.dumps({"model": model, **REQUEST})),
            f"http://localhost:{self.port}/v1/chat/completions",
        )
        text: str = json.loads(said)["choices"][0]["message"]["content"]
        return text

    def ask_by_openai(self, model: str) -> str:
        url = f"http://localhost:{self.port}/v1"
        with openai.OpenAI(base_url=url, api_key="-", max_retries=0, timeout=60) as client:
            pieces = client.chat.completions.create(model=model, stream=True, **REQUEST)
            return "".join(piece.choices[0].delta.content or "" for piece in pieces)

    def processes(self, word: str = "") -> dict[int, str]:
        """
        Return the processes that were started here and have this word in their command, by id.
        """
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_bytes().split(b"\0")
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if f"MARK={self.mark}".encode() in environment and word in command:
                found[int(process.name)] = command
        return found

    def servers(self) -> dict[int, str]:
        return self.processes("--port")


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Stranger]:
    stranger = Stranger(tmp_path)
    try:
        yield stranger
    finally:
        for pid in stranger.processes():
            os.kill(pid, signal.SIGKILL)


def test_a_stranger_gets_answers_from_models_within_minutes(stranger: Stranger) -> None:
    stranger.install()
    stranger.get_models()
    assert stranger.run("llmux", "init", "--from", "gguf", "models").startswith(
        "config.yaml: 2 models\n"
    )
    assert "config.yaml is sound: 2 models" in stranger.run("llmux", "check", "--strict")

    with stranger.serving() as llmux:
        assert stranger.ask_by_curl(SMOLLM2)
        assert stranger.ask_by_openai(GEMMA3)
        (gemma3,) = stranger.servers()
        llmux.kill()
        llmux.wait()
        # The model's server goes on by itself.
        assert list(stranger.servers()) == [gemma3]

    with stranger.serving() as llmux:
        assert stranger.ask_by_openai(GEMMA3)
        assert list(stranger.servers()) == [gemma3]
        os.kill(gemma3, signal.SIGKILL)
        assert stranger.ask_by_curl(GEMMA3)
        (another,) = stranger.servers()
        assert another != gemma3
        assert stranger.ask_by_curl(SMOLLM2)
        assert SMOLLM2 in stranger.run("llmux", "ps")
        stranger.run("llmux", "sleep", "--all", "--wait")
        assert stranger.servers() == {}
        llmux.terminate()
        assert llmux.wait(30) == 0, stranger.log()

    wait_until(lambda: not stranger.processes(), f"the end of {stranger.processes()}")
    assert sorted(os.listdir(stranger.here)) == ["config.yaml", "llmux.schema.json", "models"]
    # llmux leaves what it keeps for the next start, and nothing else.
    assert os.listdir(stranger.home / "home") == [".local"]
    assert os.listdir(stranger.home / "home/.local/state") == ["llmux"]
    assert os.listdir(stranger.home / "tmp") == []
