"""This module runs the daemon that is fuzzed, and looks at it from outside."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.daemon import ROOT, environment, free_port

__all__ = ["State", "WatchedDaemon", "get"]

_TROUBLE = re.compile(r"Traceback|Unhandled|a defect|NoTransition|never retrieved")
_SERIES = re.compile(r"^(llmux_[a-z_]+)(?:\{([^}]*)\})? ([0-9.e+-]+)$", re.MULTILINE)


async def get(port: int, path: str, patience: float = 10.0) -> bytes:
    """
    Ask llmux for a path, and return the body of the answer.

    @raise OSError, TimeoutError, EOFError: there is no answer.
    """

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise EOFError(f"{path}: {head[:200]!r}")
            return body
        finally:
            writer.close()

    return await asyncio.wait_for(ask(), patience)


class State:
    """
    A state is what a daemon holds at a moment.

    @ivar busy: exchanges in flight and waiters, as the daemon counts them.
    @ivar clients: how many descriptors are connections from clients.
    @ivar backends: how many descriptors are connections to backends.
    @ivar others: how many other descriptors there are.
    @ivar resident: the resident memory in MiB.
    """

    def __init__(self, pid: int, port: int, exposition: str) -> None:
        self.busy = 0.0
        for name, _, value in _SERIES.findall(exposition):
            if name in ("llmux_model_in_flight", "llmux_request_queue_depth"):
                self.busy += float(value)
        inodes = set()
        total = 0
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                name = os.readlink(f"/proc/{pid}/fd/{fd}")
            except OSError:
                continue
            total += 1
            if name.startswith("socket:["):
                inodes.add(name[8:-1])
        self.clients = self.backends = 0
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] not in inodes or words[3] == "0A":
                continue
            if int(words[1].rpartition(":")[2], 16) == port:
                self.clients += 1
            else:
                self.backends += 1
        self.others = total - self.clients - self.backends
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        self.resident = pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class WatchedDaemon:
    """
    This daemon is C{python -m tests.watched_daemon} in a directory of its own.

    @ivar port: the port on which the daemon listens.
    """

    def __init__(
        self,
        directory: Path,
        models: Mapping[str, Any],
        prefix: tuple[str, ...] = (),
        **keys: Any,
    ) -> None:
        """@param prefix: a command that is put before the daemon's command and runs it."""
        self.directory = directory
        self.port = free_port()
        self._prefix = prefix
        directory.mkdir(parents=True, exist_ok=True)
        document = {"models": models, "port": self.port} | keys
        (directory / "config.json").write_text(json.dumps(document, indent=1))
        self._log = directory / "log"
        self._turns = directory / "turns"
        self._log_read = self._turns_read = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the id of the daemon's process."""
        assert self.process is not None
        return self.process.pid

    def start(self, environ: Mapping[str, str] | None = None) -> None:
        """Start the daemon, which listens a little later."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                (
                    *self._prefix,
                    *(sys.executable, "-m", "tests.watched_daemon", str(self._turns)),
                    *("-c", str(self.directory / "config.json"), "--log-format", "text"),
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment() | {"PYTHONPATH": str(ROOT)} | dict(environ or {}),
            )

    async def up(self, patience: float = 30.0) -> bool:
        """Tell whether the daemon answers within so many seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        while loop.time() < until:
            assert self.process is not None
            if self.process.poll() is not None:
                return False
            try:
                await get(self.port, "/health", until - loop.time())
                return True
            except (OSError, EOFError, TimeoutError):
                await asyncio.sleep(0.05)
        return False

    async def state(self) -> State:
        """
        Find out what the daemon holds; this asks over a connection that counts as a client's.
        """
        exposition = (await get(self.port, "/metrics")).decode()
        return State(self.pid, self.port, exposition)

    def cpu(self) -> float:
        """Return the seconds of CPU that the daemon has taken."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def trouble(self, final: bool = False) -> list[tuple[str, str]]:
        """
        Return what has come to the log since the last call and should never be there: each
        entry's last line, and the whole entry.

        @param final: True if nothing more will come, so that the last entry is whole.
        """
        text, end = _new(self._log, self._log_read)
        entries: list[list[str]] = []
        for line in text.splitlines():
            if line[:1] in (" ", "\t") and entries:
                entries[-1].append(line)
            else:
                entries.append([line])
        if entries and not final:
            end -= len("\n".join(entries.pop()).encode()) + 1
        self._log_read = max(self._log_read, end)
        return [
            ([line for line in entry if line.strip()][-1].strip()[:150], "\n".join(entry))
            for entry in entries
            if any(_TROUBLE.search(line) for line in entry)
        ]

    def turns(self) -> list[dict[str, Any]]:
        """Return the long turns since the last call."""
        text, self._turns_read = _new(self._turns, self._turns_read)
        return [json.loads(line) for line in text.splitlines()]

    def kill(self) -> None:
        """End the daemon at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


def _new(path: Path, start: int) -> tuple[str, int]:
    if not path.exists():
        return "", start
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return data[:end].decode("utf-8", "replace"), start + end
