"""These tests check the rules that keep web pages out, by themselves and on a connection."""

from __future__ import annotations

import pytest

from llmux.web.access import (
    AccessRules,
    host_pattern_is_sound,
    origin_pattern_is_sound,
    own_names,
)
from tests.channel_bench import Bench, Echo, Held, held_of

LOCAL = AccessRules(checks_host=True, hosts=["Llm.Lan", "*.home.arpa"])


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:3000", "localhost.", "a.localhost", "host.docker.internal"),
        *("127.0.0.1", "127.0.0.1:3000", "192.168.1.7:80", "[::1]", "[::1]:3000", "[fe80::1]"),
        *("llm.lan", "LLM.lan:1", "gpu.home.arpa", ""),
    ],
)
def test_names_of_this_machine_are_accepted(host: str) -> None:
    assert LOCAL.accepts_host(host.encode())


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost"),
        *("internal", "home.arpa", "lan", "llm.lan.evil", "a:b:c", "[::1", "0x7f.1", "*"),
        *("evil.example:3000", "localhost@evil", "\xe4", ".", "127.1"),
    ],
)
def test_other_names_are_not_accepted(host: str) -> None:
    """A page whose own name resolves to this machine asks by that name."""
    assert not LOCAL.accepts_host(host.encode("latin-1"))
    assert AccessRules().accepts_host(host.encode("latin-1"))
    assert AccessRules(checks_host=True, hosts=["*"]).accepts_host(b"evil.example")


def test_the_machine_knows_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Box.example.org")
    assert own_names() == ["box.example.org", "box"]


ORIGINS = ["https://chat.example", "http://localhost:*", "app://*", "chrome-extension://abc"]


@pytest.mark.parametrize(
    ("origin", "host", "accepted"),
    [
        ("http://127.0.0.1:3000", "127.0.0.1:3000", True),
        ("HTTP://LocalHost:3000", "localhost:3000", True),
        ("https://llm.example", "llm.example", True),
        ("http://127.0.0.1:3001", "127.0.0.1:3000", False),
        ("http://", "", False),
        ("ftp://x", "x", False),
        ("https://evil.example", "127.0.0.1:3000", False),
        ("null", "127.0.0.1:3000", False),
        ("https://chat.example", "127.0.0.1:3000", True),
        ("https://CHAT.example", "127.0.0.1:3000", True),
        ("http://chat.example", "127.0.0.1:3000", False),
        ("https://chat.example.evil", "127.0.0.1:3000", False),
        ("http://localhost:5173", "127.0.0.1:3000", True),
        ("http://localhost.evil:1", "127.0.0.1:3000", False),
        ("app://obsidian.md", "127.0.0.1:3000", True),
        ("chrome-extension://abcd", "127.0.0.1:3000", False),
    ],
)
def test_our_own_pages_and_those_that_are_listed_may_ask(
    origin: str, host: str, accepted: bool
) -> None:
    rules = AccessRules(origins=ORIGINS)
    assert rules.accepts_origin(origin.encode(), host.encode()) is accepted
    assert AccessRules(origins=["*"]).accepts_origin(origin.encode(), host.encode())


def test_a_sound_pattern_is_told_from_an_unsound_one() -> None:
    for good in (*ORIGINS, "*", "null", "http://[::1]:*", "file://*"):
        assert origin_pattern_is_sound(good)
    for bad in ("chat.example", "http://localhost*", "http://*.x", "http://x/", "", "https://"):
        assert not origin_pattern_is_sound(bad)
    for good in ("llm.lan", "*.lan", "*", "::1"):
        assert host_pattern_is_sound(good)
    for bad in ("http://x", "x:80", "x/", "", "*x", "a b"):
        assert not host_pattern_is_sound(bad)


# ------------------------------------------------------------ on a connection

CHECKED = AccessRules(checks_host=True, origins=["app://*"])
REFUSED = [
    (b"Host: evil.example:3000\r\n", 421, b"allowed_hosts"),
    (b"Host: 127.0.0.1:3000\r\nOrigin: https://evil.example\r\n", 403, b"cors_origins"),
    (b"Host: 127.0.0.1:3000\r\nOrigin: null\r\n", 403, b"cors_origins"),
    (b"Host: 127.0.0.1\r\nOrigin: app://x\r\norigin: http://b\r\n", 403, b"cors_origins"),
]


@pytest.mark.parametrize(("headers", "status", "remedy"), REFUSED)
def test_a_page_that_may_not_gets_told_and_nothing_is_asked(
    headers: bytes, status: int, remedy: bytes
) -> None:
    """
    A page that is not allowed is told so on its first request and on its hundredth, whole or in
    pieces.
    """
    bench = Bench(Held(), access=CHECKED)
    data = b"POST / HTTP/1.1\r\n" + headers + b"Content-Length: 2\r\n\r\n{}"
    for pieces in ([data], [data], [data[:30], data[30:]]):
        client = bench.client()
        client.send(*pieces)
        (reply,) = client.replies(b"POST")
        assert reply.status == status
        assert remedy in reply.body
        assert held_of(bench).requests == []


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: localhost:3000\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost:3000\r\nOrigin: http://localhost:3000\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]\r\nOrigin: app://x\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ],
)
def test_a_request_of_any_other_origin_and_host_is_served(head: bytes) -> None:
    client = Bench(Echo(), access=CHECKED).client()
    for _ in range(3):
        client.send(head)
    assert client.statuses() == [200] * 3


def test_lines_that_are_remembered_let_no_page_in() -> None:
    """A head made of lines that were seen in accepted heads is not accepted for that."""
    bench = Bench(Echo(), access=CHECKED)
    seen = [
        b"Host: localhost:3000\r\nOrigin: http://localhost:3000\r\n",
        b"Host: 127.0.0.1\r\nX-A: b\r\n",
        b"Host: 127.0.0.1\r\nX-A: b\r\nOrigin: http://127.0.0.1\r\n",
    ]
    for headers in seen:
        client = bench.client()
        client.send(b"GET / HTTP/1.1\r\n" + headers + b"\r\n")
        assert client.statuses() == [200]
    client = bench.client()
    client.send(
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: b\r\nOrigin: http://localhost:3000\r\n\r\n"
    )
    assert client.statuses() == [403]


def test_refusals_are_logged_once_a_minute(caplog_events: list[str]) -> None:
    bench = Bench(Echo(), access=CHECKED)
    for seconds in (0, 1, 60):
        bench.clock.advance(seconds)
        client = bench.client()
        client.send(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        client.wire.lose()
    lines = [line for line in caplog_events if "421" in line]
    assert len(lines) == 2
    assert "allowed_hosts" in lines[0]
    assert "(and 1 of this kind before)" in lines[1]


@pytest.fixture
def caplog_events() -> object:
    from twisted.logger import formatEvent, globalLogPublisher

    lines: list[str] = []

    def observe(event: dict[str, object]) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type] # any callable will do
    yield lines
    globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]
