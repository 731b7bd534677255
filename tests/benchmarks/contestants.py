"""
This module says who is measured, and how each contestant is configured and started.

llmux and its Rust namesake get the same configuration file.  The others switch
nothing: they pass everything on to the one backend.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.load import Client, quick_post

__all__ = ["Contestant", "Cores", "Daemon", "Scene", "find_contestants"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ALL_CORES = os.sched_getaffinity(0)
"""These are the cores on which this process might run when it began."""


@dataclass(frozen=True)
class Cores:
    """
    This says on which core the daemon runs, and on which the load.  None stands for any core.
    """

    daemon: int | None
    load: int | None

    @classmethod
    def choose(cls, available: Sequence[int]) -> Cores:
        """Give the daemon a core of its own, if there are two."""
        if len(available) < 2:
            return cls(None, None)
        return cls(available[-1], available[0])


@dataclass(frozen=True)
class Scene:
    """
    A scene is what a daemon is configured for.

    @ivar backend: the port of the fake backend, which answers for every model.
    @ivar models: the names of the models.
    @ivar wake: by model, a wake script; the other models have C{true}.
    @ivar settings: further keys of the configuration file.
    """

    backend: int
    models: Sequence[str] = ("a", "b")
    wake: Mapping[str, str] = field(default_factory=dict)
    alive: str = "true"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self, port: int) -> dict[str, Any]:
        """Return the configuration file of llmux and of its namesake."""
        models = {
            name: {
                "port": self.backend,
                "wake": self.wake.get(name, "true"),
                "sleep": "true",
                "alive": self.alive,
            }
            for name in self.models
        }
        return {"models": models, "port": port, **self.settings}


Command = Callable[[Scene, int, Path], Sequence[str]]


@dataclass(frozen=True)
class Contestant:
    """
    A contestant is a program that is measured.

    @ivar command: a function that writes the configuration into a directory and returns the
        command line to be run there.
    @ivar switches: True if the program takes llmux's configuration and switches models.
    @ivar ours: True if the program is this project's llmux.
    """

    name: str
    version: str
    command: Command
    switches: bool = False
    ours: bool = False


class Daemon:
    """
    A daemon is a contestant that runs.

    @ivar started: the seconds from the start until the daemon accepted a connection.
    """

    def __init__(
        self, contestant: Contestant, scene: Scene, core: int | None, directory: Path
    ) -> None:
        self.contestant = contestant
        self.port = free_port()
        self.log = directory / "log"
        command = contestant.command(scene, self.port, directory)

        cores = ALL_CORES if core is None else {core}

        def pin() -> None:
            os.sched_setaffinity(0, cores)

        # The modules of an installed Python program are compiled.  In a checkout the first
        # process compiles them, if it may write.
        environment = dict(os.environ)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with self.log.open("wb") as log:
            begun = time.perf_counter()
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=pin,
            )
        try:
            self._wait_until_it_listens(60.0)
        except BaseException:
            self.stop()
            raise
        self.started = time.perf_counter() - begun

    @property
    def pid(self) -> int:
        return self.process.pid

    def _wait_until_it_listens(self, limit: float) -> None:
        end = time.perf_counter() + limit
        while time.perf_counter() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.contestant.name} has exited:\n{self.tail()}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.001)
        raise RuntimeError(f"{self.contestant.name} does not listen:\n{self.tail()}")

    def ready(self, model: str = "a") -> None:
        """Wait until the daemon has answered a request for C{model}, which is thus awake."""
        client = Client(self.port)
        try:
            client.ask(quick_post(model))
        finally:
            client.close()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """End the daemon and all processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        try:
            self.process.wait(2.0)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(contestant: Contestant, scene: Scene, core: int | None) -> Iterator[Daemon]:
    """Run a contestant in a directory of its own until the end of the C{with} block."""
    with tempfile.TemporaryDirectory(prefix="llmux-bench-") as directory:
        daemon = Daemon(contestant, scene, core, Path(directory))
        try:
            yield daemon
        finally:
            daemon.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _llmux(program: Sequence[str]) -> Command:
    def command(scene: Scene, port: int, directory: Path) -> Sequence[str]:
        file = directory / "config.yaml"
        # JSON is YAML.
        file.write_text(json.dumps(scene.config(port)))
        return [*program, "-c", str(file)]

    return command


_NGINX = """
{user}
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_max_body_size 0;
  keepalive_requests 1000000000;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  upstream backend {{ server 127.0.0.1:{backend}; keepalive 2000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""


def _nginx(program: str) -> Command:
    def command(scene: Scene, port: int, directory: Path) -> Sequence[str]:
        file = directory / "nginx.conf"
        # nginx that root starts would run its workers as nobody, who could not write to the
        # directory.
        user = "user root;" if os.geteuid() == 0 else ""
        file.write_text(
            _NGINX.format(user=user, dir=directory, port=port, backend=scene.backend)
        )
        return [program, "-p", str(directory), "-c", str(file), "-g", "daemon off;"]

    return command


def _naive(scene: Scene, port: int, directory: Path) -> Sequence[str]:
    return [sys.executable, str(HERE / "naive_proxy.py"), str(port), str(scene.backend)]


def _llama_swap(program: str) -> Command:
    def command(scene: Scene, port: int, directory: Path) -> Sequence[str]:
        model = {
            "cmd": "sleep infinity",
            "proxy": f"http://127.0.0.1:{scene.backend}",
            "checkEndpoint": "none",
        }
        file = directory / "config.yaml"
        file.write_text(json.dumps({"models": dict.fromkeys(scene.models, model)}))
        return [program, "--config", str(file), "--listen", f"127.0.0.1:{port}"]

    return command


def _litellm(program: str) -> Command:
    def command(scene: Scene, port: int, directory: Path) -> Sequence[str]:
        models = [
            {
                "model_name": name,
                "litellm_params": {
                    "model": f"openai/{name}",
                    "api_base": f"http://127.0.0.1:{scene.backend}/v1",
                    "api_key": "none",
                },
            }
            for name in scene.models
        ]
        file = directory / "config.yaml"
        file.write_text(json.dumps({"model_list": models}))
        return [program, "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]

    return command


def _version(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = (done.stdout + done.stderr).strip()
    words = said.splitlines()[0].split() if said else [""]
    return words[-1].rpartition("/")[2]


def another_llmux(name: str, program: Sequence[str]) -> Contestant:
    """Make a contestant of another version of this project's llmux."""
    return Contestant(name, "", _llmux(program), switches=True)


def find_contestants(
    ours: Sequence[str],
    paths: Mapping[str, str | None],
) -> list[Contestant]:
    """
    Find all contestants that are installed here.

    @param ours: the command that starts this project's llmux.
    @param paths: by name, the path of a peer, for those that the command line names: rust,
        nginx, llama-swap, litellm.  The others are looked for where they usually are.
    """

    def find(name: str, *usual: str) -> str | None:
        said = paths.get(name)
        if said is not None:
            return said if said and Path(said).exists() else None
        return next((found for place in usual if (found := shutil.which(place))), None)

    found = [Contestant("llmux", "", _llmux(ours), switches=True, ours=True)]
    cargo = os.path.expanduser("~/.cargo/bin/llmux")
    if rust := find("rust", cargo):
        version = _version([rust, "--version"])
        found.append(Contestant("Rust llmux", version, _llmux([rust]), switches=True))
    if nginx := find("nginx", "nginx", "/usr/sbin/nginx"):
        found.append(Contestant("nginx", _version([nginx, "-v"]), _nginx(nginx)))
    found.append(Contestant("Site + Agent", "", _naive))
    if swap := find("llama-swap", "llama-swap"):
        found.append(Contestant("llama-swap", _version([swap, "--version"]), _llama_swap(swap)))
    if litellm := find("litellm", "litellm"):
        found.append(Contestant("LiteLLM", _version([litellm, "--version"]), _litellm(litellm)))
    return found
