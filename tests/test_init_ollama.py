"""These tests check C{llmux init --from ollama}: the models of a server, or of a directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmux.command.main import main
from llmux.command.setup.init import main as init
from llmux.config import load_config
from llmux.drafting.draft import DraftError
from llmux.drafting.ollama import draft_of_ollama

from .empty_directory import empty_directory  # noqa: F401  # a fixture

pytestmark = pytest.mark.usefixtures("here")


@contextmanager
def ollama(answer: Any) -> Iterator[int]:
    """
    Run a server that answers as Ollama does: to the question for its models as it is told to,
    and to those of the scripts.  C{embed:latest} is for embeddings only.
    """
    loaded: set[str] = set()

    class Asked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/api/ps":
                self.say(200, {"models": [{"name": name} for name in sorted(loaded)]})
            else:
                self.say(*(answer if self.path == "/api/tags" else (404, None)))

        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = said["model"]
            if name not in ("qwen3:8b", "embed:latest"):
                self.say(404, {"error": f"model '{name}' not found"})
            elif said["keep_alive"] == 0:
                loaded.discard(name)
                self.say(200, {"done_reason": "unload"})
            elif self.path == "/api/generate" and name == "embed:latest":
                self.say(400, {"error": f"{name} does not support generate"})
            else:
                loaded.add(name)
                self.say(200, {"done_reason": "load"})

        def say(self, status: int, value: Any) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Asked)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def manifest(directory: Path, *parts: str) -> None:
    path = directory.joinpath("manifests", *parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"layers": [{"size": 2**30}, {"size": 2**30}]}))


class TestOllama:
    LISTED = {
        "models": [
            {"name": "qwen3:8b", "size": 5 * 2**30},
            {"name": "llama3.2:latest", "size": 2**31},
        ]
    }

    def test_the_models_that_ollama_lists_are_configured(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with ollama((200, self.LISTED)) as port:
            assert main(["init", "--from", "ollama", f"127.0.0.1:{port}"]) == 0
        config = load_config("config.yaml")
        assert {name: model.port for name, model in config.models.items()} == {
            "llama3.2:latest": port,
            "qwen3:8b": port,
        }
        assert capsys.readouterr().err == ""
        assert main(["check"]) == 0

    def test_the_environment_says_where(self) -> None:
        with ollama((200, self.LISTED)) as port:
            for host in "127.0.0.1", "http://localhost", "0.0.0.0":
                draft = draft_of_ollama(None, {"OLLAMA_HOST": f"{host}:{port}"})
                assert [model.keys["port"] for model in draft.models] == [port, port]
                assert all("host" not in model.keys for model in draft.models)

    def test_latest_may_be_left_out(self) -> None:
        with ollama((200, self.LISTED)) as port:
            draft = draft_of_ollama(f"127.0.0.1:{port}")
        assert [model.keys.get("aliases") for model in draft.models] == [["llama3.2"], None]

    def test_the_directory_is_read_where_nobody_answers(self, tmp_path: Path) -> None:
        manifest(tmp_path, "registry.ollama.ai", "library", "qwen3", "8b")
        manifest(tmp_path, "registry.ollama.ai", "somebody", "mine", "latest")
        manifest(tmp_path, "hf.co", "org", "repo-GGUF", "Q4_K_M")
        (tmp_path / "manifests" / "registry.ollama.ai" / "library" / "qwen3" / "x").write_text(
            "{"
        )
        names = ["hf.co/org/repo-GGUF:Q4_K_M", "qwen3:8b", "somebody/mine:latest"]
        by_name = draft_of_ollama(str(tmp_path))
        by_environment = draft_of_ollama(
            None, {"OLLAMA_HOST": "127.0.0.1:1", "OLLAMA_MODELS": str(tmp_path)}
        )
        for draft in by_name, by_environment:
            assert [model.name for model in draft.models] == names
            assert draft.models[1].remarks == ["2.0 GiB of weights."]

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            ((200, {"models": []}), "has no model; ollama pull one first"),
            ((200, []), "what answers there is no ollama"),
            ((404, {}), "it says 404"),
            ((200, b"<html>"), "no Ollama answers at"),
        ],
    )
    def test_an_answer_of_no_use_is_told(self, answer: Any, problem: str) -> None:
        with ollama(answer) as port, pytest.raises(DraftError, match=problem):
            draft_of_ollama(f"127.0.0.1:{port}")

    def test_nobody_there_is_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert init(["--from", "ollama", "127.0.0.1:1"]) == 1
        assert capsys.readouterr().err == (
            "llmux init: no Ollama answers at 127.0.0.1:1 (connection refused), and no "
            "directory of its models is found; start Ollama, or say where: --from ollama "
            "ADDRESS or DIRECTORY\n"
        )

    @pytest.mark.parametrize("port", ["99999", "65536", "0", "00", "9" * 5000])
    @pytest.mark.parametrize("address", ["127.0.0.1:", "http://localhost:", "[::1]:"])
    def test_a_port_that_does_not_exist_is_one_line(
        self, address: str, port: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert init(["--from", "ollama", address + port]) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"llmux init: the port of {address}{port[:5]}")
        assert told.endswith("give an address as in 127.0.0.1:11434\n")
        assert told.count("\n") == 1

    def test_a_port_that_does_not_exist_in_the_environment_is_the_usual_one(
        self, tmp_path: Path
    ) -> None:
        # Ollama itself does the same.
        manifest(tmp_path, "registry.ollama.ai", "library", "qwen3", "8b")
        for port in "99999", "9" * 5000:
            draft = draft_of_ollama(str(tmp_path), {"OLLAMA_HOST": f"127.0.0.1:{port}"})
            assert [model.keys["port"] for model in draft.models] == [11434]

    def test_what_is_neither_an_address_nor_a_directory_is_refused(self) -> None:
        with pytest.raises(DraftError, match="is neither an address nor a directory"):
            draft_of_ollama("no such/place")

    @pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
    def test_the_scripts_do_what_hooks_do(self) -> None:
        listed = {"models": [{"name": name} for name in ("qwen3:8b", "embed:latest", "gone:x")]}

        def run(name: str, hook: str) -> subprocess.CompletedProcess[str]:
            script = next(m.keys[hook] for m in draft.models if m.name == name)
            variables = {
                "LLMUX_MODEL": name,
                "LLMUX_HOST": "127.0.0.1",
                "LLMUX_PORT": str(port),
            }
            return subprocess.run(
                ["/bin/sh", "-c", script],
                env={"PATH": os.defpath, **variables},
                capture_output=True,
                text=True,
                timeout=30,
            )

        with ollama((200, listed)) as port:
            draft = draft_of_ollama(f"127.0.0.1:{port}")
            for name in "qwen3:8b", "embed:latest":
                assert run(name, "alive").returncode == 1
                assert run(name, "sleep").returncode == 0
                for _ in range(2):
                    assert run(name, "wake").returncode == 0
                    assert run(name, "alive").returncode == 0
                for _ in range(2):
                    assert run(name, "sleep").returncode == 0
                    assert run(name, "alive").returncode == 1
            failed = run("gone:x", "wake")
            assert failed.returncode == 1
            assert "model 'gone:x' not found" in failed.stderr
        assert run("qwen3:8b", "alive").returncode == 1
