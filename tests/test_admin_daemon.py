"""These tests run a real daemon, as its owner, browsers and others meet it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.admin_daemon import Owner
from tests.daemon import (
    PATIENCE,
    Backend,
    Daemon,
    ask,
    connect,
    wait_until,
    write_config,
)


@pytest.fixture
def port(tmp_path: Path, behind: Backend) -> int:
    return write_config(tmp_path, behind.port)


@pytest.fixture
def daemon(tmp_path: Path, port: int) -> Iterator[Daemon]:
    with Daemon(["-c", "config.json"], tmp_path) as daemon:
        yield daemon


@pytest.fixture
def owner(tmp_path: Path, daemon: Daemon) -> Owner:
    return Owner(tmp_path / "config.json")


def send(
    port: int, method: str, path: str, body: str = "", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Send a request over TCP, and return the status, the headers and the body of the reply."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, named)
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()


class Follower:
    """A follower reads events over TCP, in a thread."""

    def __init__(self, port: int, query: str = "") -> None:
        self.events: list[tuple[str, Any]] = []
        self.ended = threading.Event()
        self._connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._connection.request("GET", f"/llmux/events{query}")
        self._reply = self._connection.getresponse()
        assert self._reply.status == 200
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        kind = ""
        for line in self._reply:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                self.events.append((kind, json.loads(value)))
        self.ended.set()
        self._connection.close()

    def of(self, kind: str) -> list[Any]:
        """Return the data of the events of this kind."""
        return [data for each, data in list(self.events) if each == kind]

    def has_seen(self, model: str, state: str) -> bool:
        """Tell whether the model has come to this state, as far as the reader knows."""
        return (model, state) in [(each["name"], each["state"]) for each in self.of("model")]

    def join(self) -> None:
        """Wait for the stream's end."""
        assert self.ended.wait(PATIENCE)
        self._thread.join()


def test_two_browsers_see_a_switch_and_the_end(daemon: Daemon, owner: Owner, port: int) -> None:
    followers = [Follower(port), Follower(port, "?only=model")]
    with closing(connect(port)) as connection:
        ask(connection, "a")
        ask(connection, "b")
    for follower in followers:
        wait_until(partial(follower.has_seen, "b", "awake"), "b to be awake")
    wait_until(lambda: len(followers[0].of("request")) > 0, "the requests")
    first = followers[0]
    assert [switch["target"] for switch in first.of("switch") if switch["result"]] == ["a", "b"]
    assert {kind for kind, _ in followers[1].events} == {"status", "model"}
    daemon.signal(signal.SIGTERM)
    for follower in followers:
        follower.join()
    assert daemon.wait() == 0


def test_a_browser_is_let_in_by_an_address_with_a_token(owner: Owner, port: int) -> None:
    status, document = owner.post("open", {})
    assert status == 200
    url = urlsplit(document["url"])
    assert (url.hostname, url.port, url.path) == ("127.0.0.1", port, "/llmux/")
    status, headers, _ = send(port, "GET", f"{url.path}?{url.query}")
    assert status == 303
    cookie = headers["Set-Cookie"].partition(";")[0]
    status, headers, page = send(port, "GET", "/llmux/", Cookie=cookie)
    assert status == 200
    assert page.startswith(b"<!doctype html>")
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    command = {"Content_Type": "application/json", "Cookie": cookie}
    status, _, body = send(port, "POST", "/llmux/cancel", '{"request": 7}', **command)
    assert (status, json.loads(body)["error"]["code"]) == (404, "request_not_found")
    command["Cookie"] = cookie[:-1] + ("0" if cookie[-1] != "0" else "1")
    status, _, body = send(port, "POST", "/llmux/cancel", '{"request": 7}', **command)
    assert (status, json.loads(body)["error"]["code"]) == (403, "control_denied")


class _ReverseProxy(BaseHTTPRequestHandler):
    """
    This proxy does what nginx does by default: Host has the name of the upstream, and everybody
    comes from loopback.
    """

    upstream = 0

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with closing(HTTPConnection("127.0.0.1", self.upstream, timeout=PATIENCE)) as way:
            headers = dict(self.headers.items()) | {"Host": f"127.0.0.1:{self.upstream}"}
            way.request(self.command, self.path, body or None, headers)
            reply = way.getresponse()
            data = reply.read()
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _forward

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_nobody_commands_through_a_reverse_proxy(owner: Owner, port: int) -> None:
    proxy = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Proxy", (_ReverseProxy,), {"upstream": port})
    )
    thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
    thread.start()
    try:
        outside = proxy.server_address[1]
        for verb in ("sleep", "switch", "wake", "open", "cancel"):
            status, _, body = send(
                outside,
                "POST",
                f"/llmux/{verb}",
                '{"model": "a"}',
                Content_Type="application/json",
                X_Forwarded_For="127.0.0.1",
            )
            assert (status, json.loads(body)["error"]["code"]) == (403, "control_denied")
        # A page under the proxy's own name has a foreign origin here.
        status, _, _ = send(
            outside, "GET", "/llmux/status", Origin=f"http://127.0.0.1:{outside}"
        )
        assert status == 403
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


@pytest.mark.skipif(shutil.which("curl") is None, reason="without curl")
def test_curl_gets_the_status_on_the_socket(owner: Owner) -> None:
    def curl(*arguments: str) -> str:
        return subprocess.run(
            ["curl", "-sS", "--unix-socket", str(owner.path), *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        ).stdout

    assert json.loads(curl("http://llmux.localhost/llmux/status"))["schema"] == 1
    assert json.loads(curl("http://localhost/ready"))["ready"] is True
    assert "application/json" in curl("-d", "model=a", "http://localhost/llmux/wake")


def test_a_daemon_on_all_addresses_shows_itself_to_who_is_let_in(
    tmp_path: Path, behind: Backend
) -> None:
    port = write_config(tmp_path, behind.port, host="0.0.0.0")
    with Daemon(["-c", "config.json"], tmp_path):
        owner = Owner(tmp_path / "config.json")
        assert send(port, "GET", "/llmux/status")[0] == 401
        assert send(port, "GET", "/llmux/events")[0] == 401
        status, _, page = send(port, "GET", "/llmux/")
        assert status == 401
        assert b"llmux open" in page
        assert send(port, "GET", "/metrics")[0] == 200
        url = urlsplit(owner.post("open", {})[1]["url"])
        assert url.netloc == f"127.0.0.1:{port}"
        _, headers, _ = send(port, "GET", f"{url.path}?{url.query}")
        cookie = headers["Set-Cookie"].partition(";")[0]
        assert send(port, "GET", "/llmux/status", Cookie=cookie)[0] == 200
