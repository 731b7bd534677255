"""
These tests compare what llmux reads from random replies, whole and damaged, with what h11 reads
from them.
"""

from __future__ import annotations

from itertools import pairwise

import h11
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmux.backend.reply import fields_of
from tests.proxy_fakes import Network, RecordedExchange

FIELDS = st.lists(
    st.sampled_from(
        [
            b"Content-Type: text/plain",
            b"X-Empty:",
            b"x-spaced:   a b  ",
            b"Set-Cookie: a=b",
            b"Set-Cookie: c=d",
            b"Connection: keep-alive",
            b"Connection: close",
            b"connection: X-Empty , Set-Cookie",
            b"Keep-Alive: timeout=5",
            b"Server: \xe9",
        ]
    ),
    max_size=4,
)
BODY = st.binary(max_size=40)
INTERIM = st.lists(
    st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\n"]),
    max_size=2,
)


@st.composite
def replies(draw: st.DrawFn) -> tuple[bytes, bool]:
    """Draw the bytes of a reply, and whether the backend closes after them."""
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]))
    status = draw(st.sampled_from([b"200 OK", b"204 No Content", b"304 Not", b"503 Busy \xff"]))
    fields = draw(FIELDS)
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    body = draw(BODY)
    if framing == "length":
        fields.insert(0, b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        parts = [draw(BODY) for _ in range(draw(st.integers(0, 3)))]
        chunks = [b"%X%s\r\n%s\r\n" % (len(p), b";e=1", p) for p in [body, *parts] if p]
        trailer = draw(st.sampled_from([b"", b"X-Trailer: 1\r\n"]))
        body = b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"
    if status[:3] in (b"204", b"304"):
        body = b""
    head = b"\r\n".join([version + b" " + status, *fields, b"", b""])
    sent = head + body
    damage = draw(st.integers(0, 5))
    if damage == 1:
        sent = sent[: draw(st.integers(0, len(sent)))]
    elif damage == 2:
        sent += draw(BODY)
    elif damage == 3:
        at = draw(st.integers(0, len(sent) - 1))
        sent = sent[:at] + draw(st.binary(min_size=1, max_size=2)) + sent[at + 1 :]
    # Interim replies are not damaged, since llmux does not look into them.
    return b"".join(draw(INTERIM)) + sent, draw(st.booleans())


def ours(sent: bytes, cuts: list[int], closes: bool, *, is_head: bool) -> RecordedExchange:
    network = Network()
    exchange = RecordedExchange(is_head=is_head)
    network.backend.begin(exchange)
    end = network.connect()
    edges = [0, *sorted(cuts), len(sent)]
    for start, stop in pairwise(edges):
        if start < stop:
            end.send(sent[start:stop])
    if closes and not end.closed:
        end.close()
    return exchange


def by_h11(
    sent: bytes, closes: bool, *, is_head: bool
) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
    """Return status, headers and body of a whole reply as h11 reads it, or None."""
    client = h11.Connection(h11.CLIENT)
    method = b"HEAD" if is_head else b"GET"
    client.send(h11.Request(method=method, target="/", headers=[("Host", "b")]))
    client.send(h11.EndOfMessage())
    status, headers, body = 0, [(b"", b"")], b""
    try:
        client.receive_data(sent)
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                if not closes:
                    return None
                closes = False
                client.receive_data(b"")
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return status, headers, body
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(replies(), st.lists(st.integers(0, 200), max_size=6), st.booleans())
def test_a_reply_is_what_h11_says_it_is(
    reply: tuple[bytes, bool], cuts: list[int], is_head: bool
) -> None:
    sent, closes = reply
    whole = ours(sent, [], closes, is_head=is_head).reply
    cut = ours(sent, [c for c in cuts if c < len(sent)], closes, is_head=is_head).reply
    if whole.outcome == "ended" or not whole.outcome:
        assert cut == whole
    else:
        # How much of the body had been passed on before the fault depends on the cuts.
        assert (cut.outcome, cut.in_doubt) == (whole.outcome, whole.in_doubt)
    theirs = by_h11(sent, closes, is_head=is_head)
    if whole.outcome == "ended":
        assert theirs is not None
        status, headers, body = theirs
        assert (whole.status, whole.body) == (status, body)
        kept = [(name.lower(), value) for name, value in fields_of(whole.block)]
        assert [pair for pair in headers if pair in kept] == kept
