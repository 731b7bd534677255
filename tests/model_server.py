"""
This script is a model's server: it answers health and requests on LLMUX_PORT.

    python -S model_server.py [--delay SECS] [--ignore-term] [--child] [--torrent]

C{GET /health} is answered 503 until the server is ready.  Each request is answered with the
process id.  Each start writes a line into C{starts} of the working directory.  While a server
runs, it holds a lock on C{running}; a second server at the same time writes a line into
C{twice}.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__: list[str] = []

MODEL = os.environ["LLMUX_MODEL"]
_ready = threading.Event()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200 if _ready.is_set() else 503, b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = {
            "pid": os.getpid(),
            "port": int(os.environ["LLMUX_PORT"]),
            "place": int(os.environ.get("LLMUX_PLACE", "0")),
        }
        self._answer(200, json.dumps(answer).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _hold_lock() -> None:
    descriptor = os.open(f"running.{MODEL}", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with open("twice", "a") as file:
            print(MODEL, file=file)


def _main() -> None:
    options = sys.argv[1:]
    _hold_lock()
    if "--ignore-term" in options:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open("starts", "a") as file:
        print(MODEL, os.getpid(), file=file)
    print("loading", flush=True)
    if "--child" in options:
        # The child holds the lock, and ignores TERM.
        child = subprocess.Popen(
            ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], close_fds=False
        )
        print("child", child.pid, flush=True)
    if "--torrent" in options:
        threading.Thread(target=_torrent, daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["LLMUX_PORT"])), _Answers)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    if "--delay" in options:
        time.sleep(float(options[options.index("--delay") + 1]))
    with open("ready", "a") as file:
        print(f"{time.time():.6f}", file=file)
    _ready.set()
    threading.Event().wait()


def _torrent() -> None:
    line = b"x" * 70 + b"\n"
    while True:
        os.write(1, line * 1000)


if __name__ == "__main__":
    _main()
