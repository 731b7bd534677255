"""This module has the directory of a demo, which holds all that the demo writes."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import socket
import stat
from pathlib import Path

from llmux.demo.models import MODELS

__all__ = ["DemoDirectory", "DemoError", "check_port_free"]

_MARK = "# Written by `llmux demo`, which overwrites it at each start."
_LOCK = "lock"
"""
The demo holds a lock on this file; its servers end when the process with the lock ends, even by
SIGKILL.
"""


class DemoError(Exception):
    """The demo cannot go on.  The error's message says why, and what to do."""


class DemoDirectory:
    """
    A L{DemoDirectory} is the directory of one demo.

    @ivar path: the absolute path of the directory.
    @ivar config: the configuration file in it.
    @ivar models: the directory in which gemma3's file is put together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.config = self.path / "config.yaml"
        self.models = self.path / "models"

    def claim(self) -> None:
        """
        Make the directory, and lock it for as long as this process runs.

        @raise DemoError: another demo runs in the directory; the directory holds a
            configuration that is not a demo's; the directory, or something in it, belongs to
            another user or may be written by others; or it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
            self._check_owner()
            self.path.chmod(0o700)
            self.models.mkdir(mode=0o700, exist_ok=True)
            if self.config.exists() and not self.config.read_text().startswith(_MARK):
                raise DemoError(f"{self.config} is not the demo's; choose another --directory")
            # The lock's descriptor is never closed, so that the lock is released when the
            # process ends, for whatever reason.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            self._lock = os.open(self.path / _LOCK, flags, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A demo that was killed may have left a file that is not complete.
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
        Check that no other user could have put anything into the directory, because the demo
        runs the commands in its configuration and overwrites its files.
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
        """Write a new file, and replace the old one by it."""
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(new, flags, mode), "wb") as file:
            file.write(data)
        new.replace(path)

    def write_config(self, python: str, port: int) -> None:
        """
        Write the configuration of the demo.

        @param python: the interpreter that runs the models' servers.
        @param port: the port of llmux.
        @raise DemoError: the directory cannot be written to.
        """
        try:
            self._write(self.config, _configuration(python, port).encode(), 0o600)
        except OSError as error:
            raise _unwritable(self.path, error) from error


def _configuration(python: str, port: int) -> str:
    lines = [_MARK, f"port: {port}", "sleep_on_exit: true", "shutdown_timeout_secs: 5"]
    lines += ["state_dir: state", ""]
    lines.append("models:")
    for model in MODELS.values():
        command = f"{shlex.quote(python)} -m llmux.demo.model_server --model {model.name}"
        # The server ends when the demo ends, even by SIGKILL.
        lines += [
            f"  # {model.title}",
            f"  {model.name}:",
            "    serve: |",
            f'      {command} --port "$LLMUX_PORT" --lock {_LOCK}',
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
    """Tell whether other users may write to a file; the user's own group does not count."""
    mode = status.st_mode
    of_group = bool(mode & stat.S_IWGRP) and status.st_gid != os.getegid()
    return bool(mode & stat.S_IWOTH) or of_group


def _bind(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        probe.listen(1)
