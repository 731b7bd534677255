"""This module runs the daemon as a process of its own, and a backend behind it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

__all__ = [
    "LLMUX",
    "TWISTD",
    "Backend",
    "Daemon",
    "ask",
    "backend",
    "connect",
    "free_port",
    "run",
    "wait_until",
    "write_config",
]

LLMUX = (sys.executable, "-m", "llmux")
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
ROOT = Path(__file__).parent.parent
PATIENCE = 30.0
"""
The tests wait for so many seconds for what takes a fraction of a second, unless the machine is
very busy.
"""


def environment() -> dict[str, str]:
    """
    Return an environment in which Python finds this checkout's llmux, whatever else is
    installed.
    """
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def free_port() -> int:
    """Find a port on which nothing listens."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return cast(int, probe.getsockname()[1])


def run(
    *arguments: str, cwd: Path, command: Sequence[str] = LLMUX
) -> subprocess.CompletedProcess[str]:
    """Run the command with these arguments, to its end."""
    return subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )


def wait_until(question: Callable[[], Any], what: str, patience: float | None = None) -> Any:
    """
    Ask until an answer is not false, and return that answer.

    @param patience: for how many seconds; None for L{PATIENCE}.
    @raise AssertionError: all answers were false.
    """
    until = time.monotonic() + (PATIENCE if patience is None else patience)
    while time.monotonic() < until:
        answer = question()
        if answer:
            return answer
        time.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}")


def write_config(directory: Path, backend_port: int, **keys: Any) -> int:
    """
    Write a C{config.json} into the directory, with two models at this backend whose hooks do
    nothing.

    @return: the port on which llmux will listen.
    """
    hooks = {"wake": "true", "sleep": "true", "alive": "true"}
    models = {name: {"port": backend_port, **hooks} for name in ("a", "b")}
    port = free_port()
    document = {"models": models, "port": port} | keys
    document = {key: value for key, value in document.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(document))
    return port


class _Server(ThreadingHTTPServer):
    """This server says nothing of clients that leave."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Backend:
    """
    This backend is a model server.  The server answers at once, or holds its answers back until
    C{let_go} is set.

    @ivar port: the port on which the server listens.
    @ivar holding: True to hold answers back.
    """

    def __init__(self) -> None:
        self.holding = False
        self.came = threading.Semaphore(0)
        self.let_go = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.came.release()
                if outer.holding:
                    outer.let_go.wait(PATIENCE)
                body = b'{"answer": 42}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def start(self) -> None:
        """Serve, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def backend() -> Iterator[Backend]:
    """Run a backend until the end of the C{with} block."""
    one = Backend()
    one.start()
    try:
        yield one
    finally:
        one.stop()


def ask(connection: HTTPConnection, model: str = "a") -> tuple[int, bytes]:
    """Send a request for a model, and return the status and the body of the reply."""
    connection.request("POST", "/v1/completions", json.dumps({"model": model}))
    reply = connection.getresponse()
    return reply.status, reply.read()


def connect(port: int) -> HTTPConnection:
    """Return a client's connection to this port."""
    return HTTPConnection("127.0.0.1", port, timeout=PATIENCE)


class Daemon:
    """
    A daemon is llmux in the foreground, with what it writes to stderr (C{llmux}) or to stdout
    (C{twistd -n}).

    @ivar lines: the lines that the daemon has written so far.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        *,
        command: Sequence[str] = LLMUX,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*command, *arguments],
            cwd=cwd,
            env=environment(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> Daemon:
        try:
            self.wait_for("listening")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def wait_for(self, text: str) -> str:
        """Wait for the first line that holds this text, and return it."""

        def look() -> str | None:
            found = next((line for line in self.lines if text in line), None)
            if found is None and self.process.poll() is not None:
                self._reader.join()
                if not any(text in line for line in self.lines):
                    raise AssertionError(f"ended without {text!r}: {self.lines}")
            return found

        return cast(str, wait_until(look, f"{text!r} in the log"))

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """
        Wait until the process has ended and all that it wrote is in C{lines}, and return its
        exit status.
        """
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status
