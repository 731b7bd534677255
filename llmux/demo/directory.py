"""
The directory that a demo lives in: all that it writes is in there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import socket
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path

from llmux.demo.models import MODELS

__all__ = ["DemoDirectory", "DemoError", "check_port_free", "reserved_ports"]

_MARK = "# Written by `llmux demo`, which overwrites it at each start."
_LOCK = "lock"
"""Its servers end when the process that has locked it does, be it by SIGKILL."""
_SCRIPTS = ("server.sh", "wake.sh", "sleep.sh", "alive.sh")


class DemoError(Exception):
    """The demo cannot go on.  The message says why and what to do."""


class DemoDirectory:
    """
    The directory of one demo.

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

        @raise DemoError: another demo runs in the directory; it holds somebody's
            own configuration; it, or something in it, belongs to another user or
            may be written to by others; or it cannot be written to.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
            self._check_owner()
            self.path.chmod(0o700)
            self.models.mkdir(mode=0o700, exist_ok=True)
            if self.config.exists() and not self.config.read_text().startswith(_MARK):
                raise DemoError(f"{self.config} is not the demo's; choose another --directory")
            # Never closed: the lock goes when the process does, however it ends.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            self._lock = os.open(self.path / _LOCK, flags, 0o600)
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

    def _check_owner(self) -> None:
        """
        See to it that nobody else could have put anything into the directory.
        The scripts in it are run, and its files are overwritten.
        """
        found = [self.path, *(Path(top) / n for top, d, f in os.walk(self.path) for n in d + f)]
        for path in found:
            status = path.stat() if path == self.path else path.lstat()
            if status.st_uid != os.geteuid():
                raise DemoError(f"{path} belongs to another user; choose another --directory")
            if stat.S_ISLNK(status.st_mode):
                raise DemoError(f"{path} is a link; remove it, or choose another --directory")
            if _writable_by_others(status):
                raise DemoError(
                    f"{path} may be written to by other users; choose another --directory, or "
                    f"remove {self.path}"
                )

    def _write(self, path: Path, data: bytes, mode: int) -> None:
        """Write a new file, and put it in the place of the one that is there."""
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(new, flags, mode), "wb") as file:
            file.write(data)
        new.replace(path)

    def write_scripts(self) -> None:
        """
        Write the scripts that start, stop and ask the servers.

        @raise DemoError: the directory cannot be written to.
        """
        scripts = files("llmux.demo").joinpath("scripts")
        try:
            for name in _SCRIPTS:
                self._write(self.path / name, scripts.joinpath(name).read_bytes(), 0o700)
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
            text = _configuration(python, port, backend_ports)
            self._write(self.config, text.encode(), 0o600)
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
    lines = [_MARK, f"port: {port}", "sleep_on_exit: true", "shutdown_timeout_secs: 5"]
    lines += ["state_dir: state", ""]
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
    Check that this process can listen on a port of the loopback interface.

    @raise DemoError: something listens there, or this process may not.
    """
    try:
        _bind(port)
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
        raise DemoError(f"port {port} {why}; choose another with -p PORT") from None


def _writable_by_others(status: os.stat_result) -> bool:
    """Tell whether other users may write to a file; a group of the user's own is none."""
    mode = status.st_mode
    of_group = bool(mode & stat.S_IWGRP) and status.st_gid != os.getegid()
    return bool(mode & stat.S_IWOTH) or of_group


@contextmanager
def reserved_ports(count: int, first: int = 8101, last: int = 9100) -> Iterator[list[int]]:
    """
    Reserve ports from C{first} to C{last} on which nothing listens, and which nobody
    else gets from here meanwhile.  They are not from the range that outgoing
    connections take theirs from: a server here is started long after its port
    was chosen.

    Each port is bound by a socket that does not listen and lets others bind the
    port too if they ask for that (C{SO_REUSEADDR}), as servers do and this
    function does not.

    @raise DemoError: there are not so many.
    """
    with ExitStack() as held:
        found: list[int] = []
        for port in range(first, last + 1):
            if len(found) == count:
                break
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probe.close()
                continue
            held.enter_context(probe)
            for option in socket.SO_REUSEADDR, socket.SO_REUSEPORT:
                probe.setsockopt(socket.SOL_SOCKET, option, 1)
            found.append(port)
        if len(found) < count:
            raise DemoError(f"no {count} free ports from {first} to {last}")
        yield found


def _bind(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        probe.listen(1)
