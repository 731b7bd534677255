"""The paths that llmux answers itself, through its own channel and a stock Site."""

from __future__ import annotations

import json

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from llmux.monitoring.metrics import Metrics
from llmux.proxy.endpoints import Root
from llmux.web.site import LlmuxSite


class Rest(Resource):
    """Stands for the models."""

    isLeaf = True
    route_is_stable = True

    def __init__(self) -> None:
        Resource.__init__(self)

    def render(self, request: Request) -> bytes:
        return b"rest " + request.uri


def ask(site: Site, line: str) -> tuple[int, dict[str, str], bytes]:
    transport = StringTransport()
    channel = site.buildProtocol(None)
    channel.makeConnection(transport)
    channel.dataReceived(f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = transport.value().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    if headers.get("transfer-encoding") == "chunked":
        body = body.split(b"\r\n")[1]
    return int(first.split()[1]), headers, body


@pytest.fixture(params=["ours", "stock"])
def site(request: pytest.FixtureRequest) -> Site:
    root = Root(["b", "a", "org/model:7b"], Rest(), Metrics())
    made = LlmuxSite(root, Clock()) if request.param == "ours" else Site(root, reactor=Clock())
    return made


def test_the_models_are_listed_by_name(site: Site) -> None:
    status, headers, body = ask(site, "GET /v1/models")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": "llmux"}
            for name in ("a", "b", "org/model:7b")
        ],
    }


@pytest.mark.parametrize("path", ["org/model:7b", "org%2Fmodel%3A7b", "org/model:7b?x=1"])
def test_one_model(site: Site, path: str) -> None:
    status, _, body = ask(site, f"GET /v1/models/{path}")
    assert (status, json.loads(body)["id"]) == (200, "org/model:7b")


def test_an_unknown_model(site: Site) -> None:
    status, _, body = ask(site, "GET /v1/models/zzz")
    error = json.loads(body)["error"]
    assert (status, error["code"], error["message"]) == (
        404,
        "model_not_found",
        "Model not found: zzz",
    )


def test_one_model_after_another(site: Site) -> None:
    """What one path has is not remembered for another."""
    for name in ("a", "b", "a"):
        assert json.loads(ask(site, f"GET /v1/models/{name}")[2])["id"] == name


def test_health(site: Site) -> None:
    assert ask(site, "GET /health")[::2] == (200, b'{"status": "ok"}\n')


def test_metrics(site: Site) -> None:
    status, headers, body = ask(site, "GET /metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"llmux_switch_total" in body


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/v1/models/a"])
def test_other_methods(site: Site, path: str) -> None:
    status, headers, body = ask(site, f"DELETE {path}")
    assert (status, headers["allow"]) == (405, "get, head")
    assert json.loads(body)["error"]["code"] == "method_not_allowed"
    status, headers, body = ask(site, f"HEAD {path}")
    assert (status, body) == (200, b"") and int(headers["content-length"]) > 0


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
