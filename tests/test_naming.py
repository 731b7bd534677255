"""
These tests check aliases, variants and changed bodies on the whole way from a client to a
backend.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.web.resource import Resource
from twisted.web.server import Request
from zope.interface.verify import verifyObject

from llmux.config import ModelConfig
from llmux.config.name_values import VariantConfig
from llmux.proxy.naming.names import Names, names_of
from llmux.proxy.stock_caller import StockCaller
from llmux.proxy.turn import Turn
from llmux.web.body import IN_MEMORY
from llmux.web.caller import ICaller
from llmux.web.limits import SCAN_ABOVE
from llmux.web.request import LlmuxRequest
from tests.interpreter import printed_by
from tests.proxy_world import ProxyWorld, chat
from tests.web_fakes import Leaf

SITES = pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
PLAIN = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"model":"told"}'[:-1]


def names(**of_a: Any) -> Names:
    """Make the names of a model C{a} that is configured like this, and of a plain C{b}."""
    plain: dict[str, Any] = {"port": 1, "wake": "w", "sleep": "s"}
    models = {"a": ModelConfig(**plain, **of_a), "b": ModelConfig(**plain)}
    return names_of(models)


def request(body: bytes, *headers: bytes) -> bytes:
    lines = (b"Host: llmux", b"Content-Length: %d" % len(body), *headers)
    return b"POST /v1/chat/completions HTTP/1.1\r\n%b\r\n\r\n%b" % (b"\r\n".join(lines), body)


def in_chunks(body: bytes, size: int) -> bytes:
    head = b"POST /v1/x HTTP/1.1\r\nHost: llmux\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def told(sent: bytes) -> tuple[bytes, bytes]:
    """Return what went to a backend: the head, and a body of as many bytes as the head says."""
    head, _, body = sent.partition(b"\r\n\r\n")
    lengths = [
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    ]
    assert lengths == [len(body)]
    return head, body


class Asked:
    """This world has a model C{a} that is awake, and keeps what its backend gets."""

    def __init__(self, known: Names | None, *, stock: bool = False, **options: Any) -> None:
        self.world = ProxyWorld(stock=stock, names=known, **options)
        self.world.wake("a")
        self.client = self.world.client()

    def ask(self, data: bytes) -> bytes:
        """
        Send a request in pieces as a socket has them, and return all that the backend gets of
        it.
        """
        for at in range(0, len(data), 65536):
            self.client.send(data[at : at + 65536])
        for _ in range(40):
            self.world.settle()
        end = self.world.accept()
        sent = end.take()
        while end.transport.producer is not None:
            end.transport.producer.resumeProducing()
            sent += end.take()
        end.send(PLAIN)
        self.world.settle()
        return sent


@SITES
@pytest.mark.parametrize("size", [0, SCAN_ABOVE + 1, IN_MEMORY + 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_changed_however_it_comes(stock: bool, size: int, chunked: bool) -> None:
    known = names(
        backend_model="org/A",
        strip=["top_k"],
        defaults={"max_tokens": 9, "n": 1},
        set={"t": 0.5},
    )
    body = json.dumps({"model": "a", "top_k": 3, "n": 2, "x": "y" * size, "t": 1}).encode()
    asked = Asked(known, stock=stock)
    data = in_chunks(body, 50_000) if chunked else request(body)
    _, sent = told(asked.ask(data))
    assert json.loads(sent) == {
        "model": "org/A",
        "n": 2,
        "x": "y" * size,
        "t": 0.5,
        "max_tokens": 9,
    }
    # The reply is left as the backend sends it.
    assert asked.client.received.endswith(b'{"model":"told"')
    assert asked.world.in_flight() == 0


@SITES
@pytest.mark.parametrize("size", [0, IN_MEMORY + 1])
def test_a_forms_model_is_told_by_the_backends_name(stock: bool, size: int) -> None:
    def form(model: bytes) -> bytes:
        field = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        return field % (b"audio", b"y" * size) + field % (b"model", model) + b"--x--\r\n"

    asked = Asked(names(backend_model="org/A", set={"t": 1}), stock=stock)
    kind = b"Content-Type: multipart/form-data; boundary=x"
    _, sent = told(asked.ask(request(form(b"a"), kind)))
    assert sent == form(b"org/A")


@SITES
def test_an_alias_goes_to_its_model_under_the_models_own_name(stock: bool) -> None:
    """No byte is changed where there is nothing to change: the backend gets the alias."""
    asked = Asked(names(aliases=["gpt-4o"]), stock=stock)
    body = b' {"model": "gpt-4o", "model":"gpt-4o"}'
    assert told(asked.ask(request(body)))[1] == body
    metrics = b"".join(asked.world.metrics.pieces()).decode()
    assert 'model="a"' in metrics
    assert "gpt-4o" not in metrics


def test_a_variant_needs_no_switch() -> None:
    known = names(
        backend_model="A",
        defaults={"effort": "low", "n": 1},
        variants={
            "a:high": VariantConfig(defaults={"effort": "high"}, set={"think": True}),
            "a:lora": VariantConfig(backend_model="lora"),
        },
    )
    asked = Asked(known)
    switches = list(asked.world.hooks.started)
    for name, expected in {
        "a:high": {"model": "A", "effort": "high", "n": 1, "think": True},
        "a:lora": {"model": "lora", "effort": "low", "n": 1},
        "a": {"model": "A", "effort": "low", "n": 1},
    }.items():
        asked.client = asked.world.client()
        asked.client.send(request(json.dumps({"model": name}).encode()))
        asked.world.settle()
        backends = asked.world.reactor.tcpClients
        if name == "a:high":
            end = asked.world.accept()
        assert json.loads(told(end.take())[1]) == expected
        end.send(PLAIN)
        asked.world.settle()
    assert len(backends) == 1
    assert asked.world.hooks.started == switches


@SITES
def test_a_request_that_waits_gets_its_changed_body_when_its_model_is_awake(
    stock: bool,
) -> None:
    asked = Asked(names(aliases=["other"], backend_model="A"), stock=stock)
    asked.world.wake("b")
    client = asked.world.client()
    client.send(request(b'{"model":"other","x":"' + b"y" * 100_000 + b'"}'))
    asked.world.advance(5)
    sent = asked.world.accept().take()
    assert told(sent)[1] == b'{"model":"A","x":"' + b"y" * 100_000 + b'"}'


@SITES
def test_a_name_that_is_not_known_is_told_as_it_came(stock: bool) -> None:
    asked = Asked(names(aliases=["other"]), stock=stock)
    asked.client.send(request(b'{"model":"Other"}'))
    asked.world.settle()
    assert b"404" in asked.client.received.partition(b"\r\n")[0]
    assert b"Model not found: Other" in asked.client.received


@SITES
def test_what_cannot_be_changed_is_refused_before_anything_wakes(stock: bool) -> None:
    asked = Asked(names(set={"t": 1}), stock=stock)
    asked.world.wake("b")
    before = list(asked.world.hooks.started)
    asked.client.send(request(b'{"model":"a"' + b',"t":1' * 1001 + b"}"))
    asked.world.advance(1)
    assert asked.client.received.startswith(b"HTTP/1.1 400")
    assert b"too many keys" in asked.client.received
    assert asked.world.hooks.started == before


def test_a_client_that_leaves_while_its_body_is_changed_is_forgotten() -> None:
    asked = Asked(names(set={"t": 1}))
    body = b'{"model":"a","x":[' + b'{"t":[]},' * 150_000 + b"1]}"
    data = request(body)
    for at in range(0, len(data), 65536):
        asked.client.send(data[at : at + 65536])
    asked.client.leave()
    asked.world.advance(1)
    assert asked.world.attempts() == 0
    assert asked.world.in_flight() == 0


class Echo(Leaf):
    """This Resource answers with the headers that it finds, and what there is to read."""

    def render(self, request: Request) -> bytes:
        assert request.content is not None
        model = request.llmux_model  # type: ignore[attr-defined] # set for Resources like this
        lengths = request.requestHeaders.getRawHeaders(b"content-length")
        return b"%r %r %b" % (model, lengths, request.content.read())


@SITES
@pytest.mark.parametrize("size", [0, IN_MEMORY + 1])
def test_any_resource_reads_the_changed_body(stock: bool, size: int) -> None:
    known = names(aliases=["other"], backend_model="long-name")
    world = ProxyWorld(stock=stock, names=known, wrapped=Echo())
    world.wake("a")
    client = world.client()
    data = request(b'{"x":"%b","model":"other"}' % (b"y" * size))
    for at in range(0, len(data), 65536):
        client.send(data[at : at + 65536])
    world.advance(1)
    expected = b'{"x":"%b","model":"long-name"}' % (b"y" * size)
    assert client.received.endswith(b"'a' [b'%d'] %b" % (len(expected), expected))


class Touching(Resource):
    """This Resource looks at everything before it leaves the request to another Resource."""

    def __init__(self, leaf: Resource) -> None:
        Resource.__init__(self)
        self._leaf = leaf

    def getChild(self, path: bytes, request: Request) -> Resource:
        assert request.content is not None
        request.content.read()
        assert request.requestHeaders.hasHeader(b"content-length")
        return self._leaf


@SITES
def test_what_was_made_of_the_old_body_is_made_anew(stock: bool) -> None:
    known = names(aliases=["other"], backend_model="long-name")
    world = ProxyWorld(stock=stock, names=known, wrapped=Echo())
    world.site.resource = Touching(world.switching)
    world.wake("a")
    client = world.client()
    client.send(request(b'{"model":"other"}'))
    world.advance(1)
    assert client.received.endswith(b"'a' [b'21'] " + b'{"model":"long-name"}')


@given(
    st.sampled_from(["a", "b"]),
    st.binary(max_size=30),
    st.sampled_from([b"", b"X-Y: z\r\n", b"Content-Type: text/plain\r\n"]),
    st.sampled_from([0, 300_000]),
)
@settings(deadline=None, max_examples=60)
def test_where_nothing_is_configured_the_backend_gets_what_it_got(
    model: str, junk: bytes, headers: bytes, padding: int
) -> None:
    """This holds with other names beside the model, and without any."""
    wanted = chat(model, headers=headers, padding=padding)
    wanted = wanted.replace(b'"x": "', b'"x": "' + json.dumps(junk.hex()).encode()[1:-1])
    head, _, body = wanted.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    wanted = b"%b\r\nContent-Length: %d\r\n\r\n%b" % (b"\r\n".join(lines), len(body), body)
    seen = []
    for known in (None, names(aliases=["c"], variants={"v": VariantConfig(set={"x": 1})})):
        asked = Asked(known)
        asked.world.wake(model)
        seen.append(asked.ask(wanted))
    assert seen[0] == seen[1]
    assert told(seen[0])[1] == body


@pytest.mark.parametrize(
    "change",
    [
        {"aliases": ("b",)},
        {"backend_model": "b"},
        {"strip": ("b",)},
        {"defaults": {"b": 1}},
        {"set": {"b": None}},
        {"variants": {"b": VariantConfig()}},
    ],
)
def test_any_change_makes_a_model_other_than_plain(change: Any) -> None:
    assert ModelConfig(port=1, wake="w", sleep="s", listed=False).is_plain
    assert not ModelConfig(port=1, wake="w", sleep="s", **change).is_plain


def test_what_is_not_configured_is_not_imported() -> None:
    code = (
        "import sys; from twisted.internet.testing import MemoryReactorClock\n"
        "from llmux import build_app\n"
        "from llmux.config import Config, ModelConfig\n"
        "a = ModelConfig(port=1, wake='w', sleep='s')\n"
        "build_app(Config(models={'a': a}), MemoryReactorClock())\n"
        "print([m for m in sys.modules if 'naming.' in m or 'splicing' in m])"
    )
    assert printed_by(code) == "[]\n"


def test_without_names_a_turn_is_taken_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Turn, name: str) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(Turn, "take_name", never)
    asked = Asked(None)
    assert told(asked.ask(chat("a")))


@SITES
def test_both_kinds_of_callers_provide_their_interface(stock: bool) -> None:
    seen: list[ICaller] = []

    class Looking(Leaf):
        def render(self, request: Request) -> bytes:
            seen.append(request if isinstance(request, LlmuxRequest) else StockCaller(request))
            assert verifyObject(ICaller, seen[0])
            return b""

    world = ProxyWorld(stock=stock, wrapped=Looking())
    world.wake("a")
    world.client().send(chat("a"))
    world.advance(1)
    assert len(seen) == 1
