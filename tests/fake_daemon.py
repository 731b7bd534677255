"""This module has a daemon that does nothing but answer as llmux does under C{/llmux/}."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_UNIX, SHUT_RDWR
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["FakeDaemon", "ago", "fake_daemon", "model", "two_models"]

PATIENCE = 30.0


def ago(seconds: float) -> str:
    """Write a moment as the daemon writes it; a negative number of seconds is in the future."""
    moment = datetime.now(UTC) - timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def model(name: str, **changes: Any) -> dict[str, Any]:
    """Return an entry of C{models}: a model that sleeps, with these changes."""
    return {
        "name": name,
        "aliases": [],
        "state": "asleep",
        "since": ago(240),
        "place": None,
        "backend": "127.0.0.1:8001",
        "in_flight": 0,
        "waiters": 0,
        "oldest_wait_secs": None,
        "turn": None,
        "wake_secs": 13.8,
        "sleep_secs": 2.1,
        "cost_secs": {},
        "last_switch": None,
        "answered": 0,
        "failed": 0,
        "backoff": None,
        "idle_sleep_at": None,
        "pinned_until": None,
    } | changes


def two_models(**changes: Any) -> dict[str, Any]:
    """Return a status in which llama is awake and two requests wait for mistral."""
    return {
        "schema": 1,
        "version": "0.2.0",
        "now": ago(0),
        "started": ago(86400),
        "generation": 1,
        "mode": "auto",
        "pins": [],
        "paused": None,
        "reload": None,
        "policy": {
            "name": "cost_aware",
            "max_wait_secs": 120,
            "decision": {
                "at": ago(4),
                "do": "stay",
                "why": "quantum",
                "until": ago(-10),
                "text": "llama woke 4 s ago; left alone for 10 s more",
            },
        },
        "resources": [{"name": "gpu0", "capacity": 24, "free": 2, "held": {"llama": 22}}],
        "switches": [],
        "models": [
            model(
                "llama",
                state="awake",
                place={"gpu0": 22},
                in_flight=3,
                cost_secs={"mistral": 21.0},
                answered=812,
                failed=3,
                last_switch={
                    "at": ago(240),
                    "victims": ["mistral"],
                    "cost_secs": 20.4,
                    "drain_secs": 6.0,
                    "result": "ok",
                },
            ),
            model(
                "mistral",
                waiters=2,
                oldest_wait_secs=61.2,
                cost_secs={"llama": 21.0},
                turn={"position": 1, "secs": [9, 58], "because": "max_wait at 05:31:58"},
            ),
        ],
    } | changes


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self._open: set[Any] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the errors of clients that leave early."""

    def drop_all(self) -> None:
        """Close all open connections."""
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(SHUT_RDWR)


class _UnixServer(_Server):
    address_family = AF_UNIX
    server_address: Any

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0

    def get_request(self) -> Any:
        request, _ = self.socket.accept()
        return request, ("socket", 0)


class FakeDaemon:
    """
    This daemon answers what it is told to answer, and remembers what it was asked.

    @ivar status: the document of C{/llmux/status}, to which C{now} is added.
    @ivar history: the document of C{/llmux/history}.
    @ivar requests: the rows of C{/llmux/requests}.
    @ivar log: the lines of C{/llmux/log}.
    @ivar roles: the roles that C{/llmux/whoami} names.
    @ivar told: the commands that came, with their JSON.
    @ivar asked: the paths that were asked for.
    @ivar does: by verb, a function that is called at each such command; it may return a status
        and a document in place of the status object.
    @ivar denied: the reason for which every question is refused; None to answer all.
    @ivar has_no_streams: True to refuse streams of events.
    @ivar may_answer: an event that is set, unless answers of C{/llmux/status} are to be held
        back.
    @ivar page: the file that is served as the page, and the header with which it is served.
    """

    def __init__(self, status: dict[str, Any] | None = None) -> None:
        self.status = status if status is not None else two_models()
        self.history: dict[str, Any] = {"schema": 1, "models": {}, "switches": []}
        self.requests: list[dict[str, Any]] = []
        self.log = ["llama wake: loading", "llama wake: ready"]
        self.roles = ["infer", "view", "control"]
        self.denied: str | None = None
        self.has_no_streams = False
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.does: dict[str, Callable[[dict[str, Any]], tuple[int, Any] | None]] = {}
        self.page: tuple[bytes, str] | None = None
        self.lock = threading.Lock()
        self._readers: list[queue.Queue[bytes | None]] = []
        self._number = 0
        self._servers: list[_Server] = []

    # ------------------------------------------------------------- what it tells

    def now(self) -> dict[str, Any]:
        """Return the status as of now."""
        with self.lock:
            return deepcopy(self.status) | {"now": ago(0)}

    def entry(self, name: str) -> dict[str, Any]:
        """Find a model's entry of the status, which the test may change."""
        found: dict[str, Any] = next(m for m in self.status["models"] if m["name"] == name)
        return found

    def tell(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send an event to all readers."""
        self._number += 1
        text = f"id: {self._number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
        for reader in self._readers:
            reader.put(text.encode())

    def change(self, name: str, **changes: Any) -> None:
        """Change a model's entry, and send the event that says so."""
        with self.lock:
            self.entry(name).update(changes)
        self.tell("model", {"schema": 1, "at": ago(0)} | self.entry(name))

    def cut_streams(self) -> None:
        """End all streams of events."""
        for reader in self._readers:
            reader.put(None)

    # ------------------------------------------------------------- where it is

    def _serve(self, server: _Server) -> None:
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def listen_at(self, path: Path) -> None:
        """Serve on a Unix socket."""
        server: Any = _UnixServer
        self._serve(server(str(path), _requests_for(self)))

    def listen(self, port: int = 0) -> int:
        """Serve on a port of loopback, and return it."""
        server = _Server(("127.0.0.1", port), _requests_for(self))
        self._serve(server)
        return int(server.server_address[1])

    def stop(self) -> None:
        """Serve no more, and end all streams."""
        self.cut_streams()
        for server in self._servers:
            server.shutdown()
            server.server_close()
            server.drop_all()
            if isinstance(server, _UnixServer):
                os.unlink(server.server_address)
        self._servers.clear()

    def subscribers(self) -> int:
        """Return how many streams of events there have been."""
        return len(self._readers)

    def subscribe(self) -> queue.Queue[bytes | None]:
        """
        Return a queue of the events that are sent from now on; None is put into it at the end.
        """
        reader: queue.Queue[bytes | None] = queue.Queue()
        self._readers.append(reader)
        return reader


def _requests_for(daemon: FakeDaemon) -> type[BaseHTTPRequestHandler]:
    class Exchange(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            daemon.asked.append(self.path)
            daemon.headers.append(dict(self.headers))
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            if url.path == "/llmux/" and daemon.page is not None:
                page, policy = daemon.page
                self._send(200, page, "text/html; charset=utf-8", policy)
            elif daemon.denied is not None:
                self._json(401, _error(daemon.denied))
            elif url.path == "/llmux/events" and daemon.has_no_streams:
                self._json(503, _error("no more streams"))
            elif url.path == "/llmux/events":
                self._events(query)
            elif url.path == "/llmux/log":
                self._log(query)
            else:
                answer = self._answer(url.path, query)
                if url.path == "/llmux/status":
                    daemon.may_answer.wait(PATIENCE)
                self._json(*answer)

        def _answer(self, path: str, query: Mapping[str, str]) -> tuple[int, Any]:
            status = daemon.now()
            if path == "/llmux/status":
                if "model" in query:
                    named = [m for m in status["models"] if m["name"] == query["model"]]
                    if not named:
                        return 404, _error(f"there is no model {query['model']}")
                    status["models"] = named
                return 200, status
            if path == "/llmux/requests":
                return 200, {"schema": 1, "requests": daemon.requests}
            if path == "/llmux/history":
                return 200, daemon.history
            if path == "/llmux/whoami":
                return 200, {"schema": 1, "name": "cookie", "roles": daemon.roles}
            return 404, _error("there is nothing here")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            verb = self.path.removeprefix("/llmux/")
            if self.headers["Content-Type"] != "application/json":
                self._json(415, _error("commands are JSON"))
                return
            daemon.headers.append(dict(self.headers))
            daemon.told.append((verb, body))
            action = daemon.does.get(verb)
            answer = action(body) if action is not None else None
            status, document = answer or (200, daemon.now())
            self._json(status, document)

        def _json(self, status: int, document: Any) -> None:
            self._send(status, json.dumps(document).encode(), "application/json")

        def _send(self, status: int, body: bytes, kind: str, policy: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            if policy:
                self.send_header("Content-Security-Policy", policy)
            self.end_headers()
            self.wfile.write(body)

        def _log(self, query: Mapping[str, str]) -> None:
            if query.get("model") not in (None, *(m["name"] for m in daemon.status["models"])):
                self._json(404, _error(f"there is no model {query['model']}"))
                return
            lines = daemon.log[-int(query.get("tail", 200)) :]
            text = "".join(line + "\n" for line in lines).encode()
            if query.get("follow") != "true":
                self._send(200, text, "text/plain; charset=utf-8")
                return
            reader = daemon.subscribe()
            self._begin_stream("text/plain; charset=utf-8")
            self.wfile.write(text)
            while reader.get(timeout=PATIENCE) is not None:
                self.wfile.write(b"llama wake: one more\n")
            self.close_connection = True

        def _begin_stream(self, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", "no-store")
            self.send_header("Connection", "close")
            self.end_headers()

        def _events(self, query: Mapping[str, str]) -> None:
            only = query.get("only", "").split(",") if "only" in query else None
            reader = daemon.subscribe()
            self._begin_stream("text/event-stream")
            try:
                first = f"event: status\ndata: {json.dumps(daemon.now())}\n\n"
                self.wfile.write(b": hello\n\n" + first.encode())
                while (text := reader.get(timeout=PATIENCE)) is not None:
                    kind = text.split(b"event: ")[1].split(b"\n")[0].decode()
                    if only is None or kind in only:
                        self.wfile.write(text)
            except (OSError, queue.Empty):
                pass
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Exchange


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


@contextmanager
def fake_daemon(status: dict[str, Any] | None = None) -> Iterator[FakeDaemon]:
    """Run a fake daemon until the end of the C{with} block; a test tells it where to listen."""
    daemon = FakeDaemon(status)
    try:
        yield daemon
    finally:
        daemon.stop()
