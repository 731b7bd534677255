"""These tests run a configuration that was llama-swap's: what its cmdStop stops is stopped."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmux.command.main import main

from .daemon import Daemon, ask, connect, wait_until

BOX = f"""#!{sys.executable}
# As a client of a container engine is: what it starts is a child of somebody else, and goes on
# when the client is killed, until it is told to stop.
import os, signal, subprocess, sys, time
from pathlib import Path

SERVER = '''
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b"")
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"{{}}")
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
'''
verb, name = sys.argv[1:3]
pidfile = Path(__file__).with_name(name + ".pid")
if verb == "stop":
    os.kill(int(pidfile.read_text()), signal.SIGKILL)
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = subprocess.Popen(
    [sys.executable, "-c", SERVER, sys.argv[3]],
    start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
)
pidfile.write_text(str(server.pid))
print("serving", sys.argv[4], flush=True)
server.wait()
print("the server of", name, "has ended", flush=True)
"""

SWAP = """
macros: {engine: "./box run ${MODEL_ID} ${PORT}"}
models:
  one: {cmd: "${engine} 'a b'", cmdStop: "./box stop ${MODEL_ID}"}
  two: {cmd: "${engine} c", cmdStop: "./box stop ${MODEL_ID}"}
"""


def is_there(pidfile: Path) -> bool:
    try:
        os.kill(int(pidfile.read_text()), 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "box").write_text(BOX)
    (tmp_path / "box").chmod(0o755)
    (tmp_path / "swap.yaml").write_text(SWAP)
    yield tmp_path
    for pidfile in tmp_path.glob("*.pid"):
        if is_there(pidfile):
            os.kill(int(pidfile.read_text()), signal.SIGKILL)


def test_what_cmd_stop_stops_is_stopped(here: Path) -> None:
    assert main(["init", "--from", "llama-swap", "swap.yaml"]) == 0
    config = here / "config.yaml"
    config.write_text(config.read_text() + "state_dir: state\nsleep_on_exit: true\n")
    with Daemon(["-p", "0"], here) as daemon:
        port = int(daemon.wait_for("listening").rpartition(":")[2])
        with closing(connect(port)) as connection:
            for name, other in ("one", "two"), ("two", "one"), ("one", "two"):
                assert ask(connection, name)[0] == 200
                assert is_there(here / f"{name}.pid")
                assert not is_there(here / f"{other}.pid")
        daemon.wait_for("serving a b")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    wait_until(lambda: not is_there(here / "one.pid"), "the end of the last server")
