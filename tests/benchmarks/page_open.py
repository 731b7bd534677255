"""
This script measures what an open page costs each request: a thousand requests a second, by
turns without a page and with one that follows all events::

    python tests/benchmarks/page_open.py [--rounds 8] [--seconds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.load import missing, quick_post
from tests.benchmarks.processes import tree_cpu

HERE = Path(__file__).resolve().parent
RATE = 1000
CONNECTIONS = 8


def paced(port: int, seconds: float) -> int:
    """Send C{RATE} requests a second, and return how many were answered."""
    request = quick_post("a")
    selector = selectors.DefaultSelector()
    idle: list[socket.socket] = []
    got: dict[socket.socket, bytearray] = {}
    for _ in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", port))
        selector.register(connection, selectors.EVENT_READ, connection)
        idle.append(connection)
        got[connection] = bytearray()
    began = time.monotonic()
    sent = answered = 0
    while (now := time.monotonic()) < began + seconds:
        while idle and sent < (now - began) * RATE:
            idle.pop().sendall(request)
            sent += 1
        for key, _ in selector.select(0.0005):
            connection = key.data
            data = got[connection]
            data += connection.recv(65536)
            if not missing(data):
                data.clear()
                answered += 1
                idle.append(connection)
    for connection in got:
        connection.close()
    return answered


class Page:
    """
    An open page follows all events, and asks for the requests as often as llmux's own page
    does.
    """

    def __init__(self, port: int) -> None:
        self.bytes = 0
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(b"GET /llmux/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while data := self._socket.recv(65536):
            self.bytes += len(data)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


@contextmanager
def daemon(directory: Path, backend: int) -> Iterator[tuple[int, int]]:
    """Run an llmux, and return its process id and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    model = {"port": backend, "wake": "true", "sleep": "true", "alive": "true"}
    file = directory / f"{port}.json"
    file.write_text(json.dumps({"port": port, "models": {"a": model}}))
    process = subprocess.Popen(
        [sys.executable, "-m", "llmux", "-c", str(file)],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="What an open page costs each request.")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmux-bench-") as name, ExitStack() as stack:
        counter = Path(name, "counter")
        counter.write_bytes(bytes(8))
        backend = subprocess.Popen(
            [sys.executable, str(HERE / "fake_backend.py"), str(counter)],
            stdout=subprocess.PIPE,
        )
        stack.callback(backend.wait)
        stack.callback(backend.kill)
        assert backend.stdout is not None
        behind = int(backend.stdout.readline())
        # There are two equal daemons, so that neither has had a page before.
        daemons = [stack.enter_context(daemon(Path(name), behind)) for _ in range(2)]
        for _, port in daemons:
            paced(port, 1.0)
        page = Page(daemons[1][1])
        stack.callback(page.close)
        ratios = []
        for _ in range(options.rounds):
            figures = []
            for pid, port in daemons:
                before, seen = tree_cpu(pid), page.bytes
                answered = paced(port, options.seconds)
                figures.append((tree_cpu(pid) - before) / answered / 1e3)
                print(
                    f"{figures[-1]:7.1f} us a request, {answered / options.seconds:.0f}/s, "
                    f"{page.bytes - seen} bytes of events"
                )
            ratios.append(figures[1] / figures[0])
        print(f"with a page open: {statistics.median(ratios):.3f} times the CPU")


if __name__ == "__main__":
    main()
