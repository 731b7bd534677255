"""
These tests ask for the paths that llmux answers itself, through its own channel and a stock
Site.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from llmux.config import ModelConfig
from llmux.monitoring.metrics import Metrics
from llmux.proxy.endpoints import Root
from llmux.proxy.model_list import ModelList
from llmux.proxy.refusals import RefusalLog
from llmux.switching.facts.model import Model
from llmux.switching.facts.settings import ModelSettings
from llmux.web.site import LlmuxSite
from tests.conftest import LoggedEvents
from tests.interpreter import printed_by
from tests.web_fakes import Wire, replies


class Rest(Resource):
    """This resource stands for the models."""

    isLeaf = True
    route_is_stable = True

    def __init__(self) -> None:
        Resource.__init__(self)

    def render(self, request: Request) -> bytes:
        return b"rest " + request.uri


def model_list(clock: Clock, *names: str) -> ModelList:
    """Make a list of models with these names, all asleep."""
    metrics = Metrics()
    settings = ModelSettings(1.0)
    models = {name: Model(name, settings, metrics.queue_wait(name)) for name in names}
    configured = {name: ModelConfig(port=1, wake="w", sleep="s") for name in names}
    return ModelList(RefusalLog(clock), configured, lambda: models)


def ask(site: Site, line: str) -> tuple[int, dict[str, str], bytes]:
    transport = StringTransport()
    channel = site.buildProtocol(None)
    channel.makeConnection(transport)
    channel.dataReceived(f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    cast(Any, site).reactor.advance(0)
    head, _, body = transport.value().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    if headers.get("transfer-encoding") == "chunked":
        body = body.split(b"\r\n")[1]
    return int(first.split()[1]), headers, body


@pytest.fixture(params=["ours", "stock"])
def site(request: pytest.FixtureRequest) -> Site:
    clock = Clock()
    root = Root(model_list(clock, "b", "a", "org/model:7b"), Rest(), Metrics(), clock)
    made = LlmuxSite(root, clock) if request.param == "ours" else Site(root, reactor=clock)
    return made


def test_the_models_are_listed_by_name(site: Site) -> None:
    status, headers, body = ask(site, "GET /v1/models")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "llmux",
                "status": {"value": "unloaded", "failed": False},
            }
            for name in ("a", "b", "org/model:7b")
        ],
    }


@pytest.mark.parametrize("path", ["org/model:7b", "org%2Fmodel%3A7b", "org/model:7b?x=1"])
def test_one_model_is_described_at_its_path(site: Site, path: str) -> None:
    status, _, body = ask(site, f"GET /v1/models/{path}")
    assert (status, json.loads(body)["id"]) == (200, "org/model:7b")


def test_an_unknown_model_is_not_found(site: Site) -> None:
    status, _, body = ask(site, "GET /v1/models/zzz")
    error = json.loads(body)["error"]
    assert (status, error["code"], error["message"]) == (
        404,
        "model_not_found",
        "Model not found: zzz",
    )


def test_the_answer_for_a_model_is_not_taken_for_another_model(site: Site) -> None:
    """The answer for one path is not remembered for another path."""
    for name in ("a", "b", "a"):
        assert json.loads(ask(site, f"GET /v1/models/{name}")[2])["id"] == name


def test_the_health_is_ok(site: Site) -> None:
    assert ask(site, "GET /health")[::2] == (200, b'{"status": "ok"}\n')


def test_the_metrics_are_text_for_prometheus(site: Site) -> None:
    status, headers, body = ask(site, "GET /metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"llmux_switch_total" in body


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/v1/models/a"])
def test_an_endpoint_takes_get_and_head_alone(site: Site, path: str) -> None:
    status, headers, body = ask(site, f"DELETE {path}")
    assert (status, headers["allow"]) == (405, "get, head")
    assert json.loads(body)["error"]["code"] == "method_not_allowed"
    status, headers, body = ask(site, f"HEAD {path}")
    assert (status, body) == (200, b"")
    # The length of the metrics is not known before they are there.
    assert path == "/metrics" or int(headers["content-length"]) > 0


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat/completions",
        "/health/x",
        "/metricsx",
        "//health",
        "/api/x?y",
    ],
)
def test_every_other_path_is_the_models(site: Site, path: str) -> None:
    assert ask(site, f"GET {path}")[2] == f"rest {path}".encode()


class Scraped:
    """This site has metrics of so many models, and a clock of its own."""

    def __init__(self, models: int) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        for number in range(models):
            self.metrics.request_answered(f"m{number}", 200, 0.1)
            self.metrics.queue_wait(f"m{number}").observe(1)
        root = Root(model_list(self.clock, "a"), Rest(), self.metrics, self.clock)
        self.site = LlmuxSite(root, self.clock)

    def ask(self, method: str = "GET") -> Wire:
        wire = Wire()
        wire.connect(self.site.buildProtocol(None))
        wire.protocol.dataReceived(f"{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return wire

    def turn(self) -> bool:
        """Run what is due, as one turn of the reactor does; return False if nothing is."""
        due: list[Any]
        due = [c for c in self.clock.getDelayedCalls() if c.getTime() <= self.clock.seconds()]
        for call in due:
            self.clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)
        return bool(due)


def metrics_of(wire: Wire) -> bytes:
    (reply,) = replies(wire.said(), [b"GET"], closed=False)
    assert reply.whole and reply.status == 200
    return reply.body


def test_a_thousand_models_are_exposed_a_little_in_each_turn() -> None:
    """The parts together are what prometheus_client makes at once."""
    scraped = Scraped(1000)
    first, second, third = scraped.ask(), scraped.ask(), scraped.ask()
    third.lose()
    turns = 0
    while scraped.turn():
        turns += 1
    assert turns > 10
    registry = CollectorRegistry()
    registry.register(scraped.metrics)
    for wire in (first, second):
        assert metrics_of(wire).startswith(generate_latest(registry))
    assert third.said() == b""


def test_scrapes_that_cost_too_much_get_the_last_text_for_a_second() -> None:
    scraped = Scraped(1000)
    first = scraped.ask()
    while scraped.turn():
        pass
    scraped.metrics.request_answered("late", 200, 0.1)
    assert metrics_of(scraped.ask()) == metrics_of(first)
    scraped.clock.advance(1)
    last = scraped.ask()
    while scraped.turn():
        pass
    assert b'model="late"' in metrics_of(last)


def test_a_scrape_is_fresh_where_scrapes_are_few() -> None:
    scraped = Scraped(1)
    for number in range(3):
        scraped.metrics.request_answered(f"new{number}", 200, 0.1)
        wire = scraped.ask()
        while scraped.turn():
            pass
        assert f'model="new{number}"'.encode() in metrics_of(wire)


def test_the_head_of_the_metrics_costs_no_exposition(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise AssertionError

    monkeypatch.setattr(Metrics, "pieces", never)
    wire = Scraped(1).ask("HEAD")
    (reply,) = replies(wire.said(), [b"HEAD"], closed=False)
    assert reply.status == 200


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EMFILE, "Too many open files"), b"too many open files"),
        (ZeroDivisionError(), b"llmux's log"),
    ],
)
def test_a_scrape_that_fails_says_why(
    error: Exception, reason: bytes, monkeypatch: pytest.MonkeyPatch, logged_failures: Any
) -> None:
    """
    A scrape that fails is answered with 503, without a traceback; the next one is tried anew.
    """

    def broken(_: object) -> Iterator[bytes]:
        yield b"some"
        raise error

    scraped = Scraped(1)
    with monkeypatch.context() as patched:
        patched.setattr(Metrics, "pieces", broken)
        (reply,) = replies(scraped.ask().said(), [b"GET"], closed=False)
    assert reply.status == 503
    assert reason in reply.body
    assert len(logged_failures.flush(ZeroDivisionError)) == (reason == b"llmux's log")
    wire = scraped.ask()
    while scraped.turn():
        pass
    assert b"llmux_switch_total" in metrics_of(wire)


def test_a_refused_request_is_logged(site: Site, logged: LoggedEvents) -> None:
    ask(site, "POST /health")
    ask(site, "GET /v1/models/nobody")
    assert logged.of("request_refused") == [
        "405 for /health: POST is not for this path: use GET.",
        "404 for /v1/models/nobody: Model not found: nobody",
    ]


def test_a_first_scrape_without_a_descriptor_left_fails_and_the_next_one_does_not() -> None:
    """
    The first scrape imports prometheus_client.  What it imports is not needed by a server that
    nobody scrapes.
    """
    code = (
        "import os, resource, sys\n"
        "import llmux.app, llmux.daemon.service\n"
        "from llmux.monitoring.metrics import Metrics\n"
        "assert 'prometheus_client' not in sys.modules\n"
        "metrics = Metrics()\n"
        "_, most = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))\n"
        "try:\n"
        "    for _ in metrics.pieces(): pass\n"
        "except OSError as error:\n"
        "    print(error.strerror)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n"
        "print(b'llmux_switch_total' in b''.join(metrics.pieces()))\n"
    )
    assert printed_by(code) == "Too many open files\nTrue\n"
