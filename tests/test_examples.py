"""
These tests check the examples: each configuration loads, each script can be parsed, and what
runs under systemd or in another application serves.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmux.command.checking.script_check import script_problems
from llmux.config import Config, load_config

from .daemon import LLMUX, TWISTD, Daemon, free_port, wait_until
from .example_hooks import EXAMPLES

BACKENDS = (
    "docker",
    "embedding",
    "llama-cpp",
    "ollama",
    "podman-criu",
    "systemd",
    "two-gpus",
    "vllm-sleep",
)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_configuration_loads_and_its_hooks_may_be_run(name: str) -> None:
    """
    An example's configuration loads, its README is there, and the files that its hooks name are
    there and may be run.
    """
    directory = EXAMPLES / name
    assert (directory / "README.md").read_text().startswith("# ")
    config = load_config(str(directory / "config.yaml"))
    for model in config.models.values():
        for script in filter(None, (model.serve, model.wake, model.sleep, model.alive)):
            subprocess.run(["sh", "-n", "-c", script], check=True)
            assert list(script_problems(script, str(directory))) == []


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*/*.sh")), ids=lambda path: path.name)
def test_a_script_can_be_parsed_by_sh(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.parametrize("page", sorted(EXAMPLES.glob("*/README.md")), ids=str)
def test_every_request_that_a_page_shows_says_that_it_is_json(page: Path) -> None:
    """Real vLLM refuses other requests."""
    text = page.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if "curl" in line and " -d " in line:
            assert "-H 'Content-Type: application/json'" in line


# systemd and embedding: the whole of llmux, in a process of its own.


def curl(*arguments: str) -> str:
    return subprocess.run(
        ["curl", "-sSf", "--noproxy", "*", *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def copied(name: str, directory: Path, *replacements: tuple[str, str]) -> Path:
    """Copy an example, with other text in its files."""
    copy = directory / name
    shutil.copytree(EXAMPLES / name, copy)
    for path in copy.iterdir():
        if path.is_file():
            text = path.read_text()
            for old, new in replacements:
                text = text.replace(old, new)
            path.write_text(text)
    return copy


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="no systemd-socket-activate"
)
def test_llmux_answers_on_the_socket_that_systemd_has_bound(tmp_path: Path) -> None:
    """llmux takes the socket that systemd has bound, and answers on it."""
    port = free_port()
    copy = copied("systemd", tmp_path)
    arguments = ["-l", f"127.0.0.1:{port}", "--fdname=llmux", "-EPATH", "-EPYTHONPATH"]
    daemon = Daemon(
        [*arguments, *LLMUX, "-c", "config.yaml"], copy, command=["systemd-socket-activate"]
    )
    try:
        daemon.wait_for("Listening on")
        models = json.loads(curl(f"http://127.0.0.1:{port}/v1/models"))
        assert [model["id"] for model in models["data"]] == ["llama", "mistral"]
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    finally:
        daemon.__exit__()


def test_the_unit_of_systemd_has_what_its_readme_says() -> None:
    """The unit of systemd has what its README says."""
    unit = (EXAMPLES / "systemd" / "llmux.service").read_text().splitlines()
    assert "KillMode=process" in unit
    (stop,) = (int(line.partition("=")[2]) for line in unit if line.startswith("TimeoutStop"))
    config: Config = load_config(str(EXAMPLES / "systemd" / "config.yaml"))
    assert stop > config.shutdown_timeout_secs
    assert all(stop > model.sleep_timeout_secs for model in config.models.values())
    assert config.listen == "systemd:domain=INET:index=0"
    # The scripts of llama-cpp may lie in /etc/llmux, where llmux may not write.
    assert "StateDirectory=llmux" in unit


def test_llmux_and_another_service_run_in_one_process(tmp_path: Path) -> None:
    """llmux and another service run in one process; both answer, and both stop."""
    port, status_port, backend_port = (free_port() for _ in range(3))
    copy = copied(
        "embedding",
        tmp_path,
        ("3000", str(port)),
        ("tcp:3001", f"tcp:{status_port}"),
        ("8001", str(backend_port)),
        ("python3 backend.py", f"{sys.executable} backend.py"),
    )
    with Daemon(["-n", "--pidfile=", "-y", "both.tac"], copy, command=TWISTD) as daemon:
        daemon.wait_for(f"Site starting on {status_port}")
        status_page = f"http://127.0.0.1:{status_port}/"
        wait_until(
            lambda: curl(status_page) == "parrot is asleep\n", "the answer of the alive hook"
        )
        question = {"model": "parrot", "messages": [{"role": "user", "content": "Hello"}]}
        reply = json.loads(
            curl(f"http://127.0.0.1:{port}/v1/chat/completions", "-d", json.dumps(question))
        )
        assert reply["choices"][0]["message"]["content"] == "You said: Hello"
        assert curl(status_page) == "parrot is awake\n"
        daemon.signal(signal.SIGTERM)
        # The process ends by the signal itself, as twistd does.
        assert daemon.wait() == -signal.SIGTERM
    assert not (copy / "parrot.pid").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", backend_port)).close()
