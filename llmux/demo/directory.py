"""
The directory that a demo lives in: all that it writes is in there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import socket
import subprocess
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from llmux.demo.models import MODELS

__all__ = ["DemoDirectory", "DemoError", "check_port_free", "free_ports"]

_MARK = "# Written by `llmux demo`, which overwrites it at each start."
_LOCK = "lock"
"""Its servers end when the process that has locked it does, be it by SIGKILL."""
_SCRIPTS = ("server.sh", "wake.sh", "sleep.sh", "alive.sh")


class DemoError(Exception):
    """The demo cannot go on.  The message says why and what to do."""


class DemoDirectory:
    """
    One demo's directory.

    @ivar path: where; absolute.
    @ivar config: the configuration file in it.
    @ivar models: where gemma3's file is put together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.config = self.path / "config.yaml"
        self.models = self.path / "models"

    def claim(self) -> None:
        """
        Make the directory, and hold it for as long as this process lives.

        @raise DemoError: another demo runs in it, or it holds somebody's own
            configuration, or it cannot be written to.
        """
        try:
            self.models.mkdir(parents=True, exist_ok=True)
            if self.config.exists() and not self.config.read_text().startswith(_MARK):
                raise DemoError(f"{self.config} is not the demo's; choose another --directory")
            # Never closed: the lock goes when the process does, however it ends.
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A demo that was killed may have left one half put together.
            for partial in self.models.glob("*.gguf.*"):
                partial.unlink()
        except BlockingIOError:
            raise DemoError(
                f"another demo runs in {self.path}; stop it, or choose another --directory"
            ) from None
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write_scripts(self) -> None:
        """
        Write the scripts that start, stop and ask the servers.

        @raise DemoError: the directory cannot be written to.
        """
        scripts = files("llmux.demo").joinpath("scripts")
        try:
            for name in _SCRIPTS:
                script = self.path / name
                script.write_bytes(scripts.joinpath(name).read_bytes())
                script.chmod(0o755)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write_config(self, python: str, port: int, backend_ports: Mapping[str, int]) -> None:
        """
        Write the configuration.

        @param python: the interpreter that runs the backends.
        @param port: llmux's own.
        @param backend_ports: each model's.
        @raise DemoError: the directory cannot be written to.
        """
        try:
            self.config.write_text(_configuration(python, port, backend_ports))
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def stop_servers(self) -> list[int]:
        """
        Stop the servers that still run from here, as their sleep hook would.

        @return: the ports of those that did run.
        @raise DemoError: one of them does not stop.
        """
        stopped = []
        for pidfile in sorted((self.path / "run").glob("*.pid")):
            port = int(pidfile.stem)
            if self._succeeds(". ./server.sh; running", port):
                if not self._succeeds("./sleep.sh", port):
                    raise DemoError(f"the server on port {port} does not stop")
                stopped.append(port)
            pidfile.unlink(missing_ok=True)
        return stopped

    def _succeeds(self, script: str, port: int) -> bool:
        ended = subprocess.run(
            ["/bin/sh", "-c", script],
            cwd=self.path,
            env={**os.environ, "LLMUX_PORT": str(port)},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return ended.returncode == 0


def _configuration(python: str, port: int, backend_ports: Mapping[str, int]) -> str:
    lines = [_MARK, f"port: {port}", "sleep_on_exit: true", "shutdown_timeout_secs: 5", ""]
    lines.append("models:")
    for name, backend_port in backend_ports.items():
        lines += [
            f"  # {MODELS[name].title}",
            f"  {name}:",
            f"    port: {backend_port}",
            "    wake: |",
            f"      export LLMUX_PYTHON={shlex.quote(python)}",
            '      ./wake.sh "$LLMUX_PYTHON" -m llmux.demo.backend'
            f' --model {name} --port "$LLMUX_PORT" --lock {_LOCK}',
            "    sleep: ./sleep.sh",
            "    alive: |",
            f"      export LLMUX_PYTHON={shlex.quote(python)}",
            "      ./alive.sh",
        ]
    return "\n".join(lines) + "\n"


def _unwritable(path: Path, error: OSError) -> DemoError:
    return DemoError(f"cannot write to {path}: {error.strerror}; choose another --directory")


def check_port_free(port: int) -> None:
    """
    @raise DemoError: something listens on this port of the loopback interface,
        or this process may not.
    """
    try:
        _bind(port)
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
        raise DemoError(f"port {port} {why}; choose another with -p PORT") from None


def free_ports(count: int, first: int = 8101, last: int = 9100) -> list[int]:
    """
    Ports on which nothing listens, C{first} to C{last}.  Not from the
    range that outgoing connections take theirs from: a server here is started
    long after its port was chosen.

    @raise DemoError: there are not so many.
    """
    found: list[int] = []
    for port in range(first, last + 1):
        try:
            _bind(port)
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise DemoError(f"no {count} free ports from {first} to {last}")


def _bind(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        probe.listen(1)
