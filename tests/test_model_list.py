"""
These tests check what clients are told of the models, through a configuration and a switcher.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from llmux.app import build_app
from llmux.config import Config, ModelConfig
from llmux.config.name_values import ModelMetadata, VariantConfig
from llmux.interfaces import HookKind
from llmux.web.site import LlmuxSite
from tests.admin_world import AdminWorld
from tests.fakes import FakeHookRunner
from tests.proxy_world import ClientEnd


class Listed:
    """This is an application with these models, under a clock, whose hooks are scripted."""

    def __init__(self, **models: dict[str, Any]) -> None:
        self.reactor = MemoryReactorClock()
        self.hooks = FakeHookRunner(self.reactor)
        config = Config(
            models={
                name: ModelConfig(port=8001, wake="w", sleep="s", alive="a", **model)
                for name, model in models.items()
            }
        )
        root, self.switcher = build_app(config, self.reactor, hooks=self.hooks)
        self.site = LlmuxSite(root, self.reactor)
        self.switcher.start()
        self.settle()

    def settle(self, seconds: float = 0.0) -> None:
        self.reactor.advance(seconds)
        for _ in range(30):
            self.reactor.advance(0)

    def get(self, path: str = "") -> Any:
        client = ClientEnd(self.site)
        client.send(f"GET /v1/models{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return json.loads(client.received.partition(b"\r\n\r\n")[2])

    def status(self, name: str = "a") -> Any:
        return self.get("/" + name)["status"]


def test_the_context_is_told_under_every_name_that_clients_read() -> None:
    metadata = ModelMetadata(
        context=32768, inputs=("text", "image"), tools=True, description="Sees."
    )
    listed = Listed(a={"metadata": metadata}, b={})
    a, b = listed.get()["data"]
    assert a == {
        "id": "a",
        "object": "model",
        "created": 0,
        "owned_by": "llmux",
        "description": "Sees.",
        "max_model_len": 32768,
        "meta": {"n_ctx": 32768},
        "context_length": 32768,
        "architecture": {"input_modalities": ["text", "image"]},
        "supported_parameters": ["tools", "tool_choice"],
        "status": {"value": "unloaded", "failed": False},
    }
    assert b.keys() == {"id", "object", "created", "owned_by", "status"}
    assert listed.get("/a") == a


def test_variants_are_listed_aliases_are_told_and_what_is_not_listed_has_its_path() -> None:
    listed = Listed(
        qwen={"aliases": ("gpt",), "variants": {"qwen:high": VariantConfig()}},
        hidden={"listed": False, "variants": {"hidden:high": VariantConfig()}},
    )
    listing = listed.get()
    assert [entry["id"] for entry in listing["data"]] == ["qwen", "qwen:high"]
    assert listing["data"][0]["aliases"] == ["gpt"]
    assert "aliases" not in listing["data"][1]
    for name in ("gpt", "hidden", "hidden:high", "qwen:high"):
        assert listed.get("/" + name)["id"] == name
    assert listed.get("/nobody")["error"]["code"] == "model_not_found"


def test_clients_that_name_no_model_are_not_told_what_is_not_listed() -> None:
    listed = Listed(qwen={"variants": {"q:x": VariantConfig()}}, hidden={"listed": False})
    client = ClientEnd(listed.site)
    client.send(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    assert b"`model` must be one of: q:x, qwen." in client.received


def test_the_status_follows_the_model() -> None:
    listed = Listed(a={"aliases": ("other",)}, b={})
    assert listed.status() == {"value": "unloaded", "failed": False}
    listed.hooks.script("a", HookKind.WAKE, 2.0)
    guard = listed.switcher.acquire("a")
    listed.settle()
    assert listed.status() == {"value": "loading", "failed": False}
    listed.settle(5)
    assert listed.status() == listed.status("other") == {"value": "loaded", "failed": False}
    assert listed.status("b") == {"value": "unloaded", "failed": False}
    guard.addCallback(lambda held: held.release())


def test_a_model_that_failed_to_wake_is_said_to_have_failed() -> None:
    listed = Listed(a={})
    listed.hooks.script("a", HookKind.WAKE, 0.0, 1)
    failed = listed.switcher.acquire("a")
    failed.addErrback(lambda _: None)
    listed.settle(1)
    assert listed.status() == {"value": "unloaded", "failed": True}


@pytest.mark.parametrize("path", ["/a", ""])
def test_head_has_no_body(path: str) -> None:
    client = ClientEnd(Listed(a={}).site)
    client.send(f"HEAD /v1/models{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert client.received.startswith(b"HTTP/1.1 200")
    assert client.received.endswith(b"\r\n\r\n")


def test_operators_may_call_a_model_by_any_of_its_names() -> None:
    world = AdminWorld(
        further={"llama": {"aliases": ["gpt-4o"], "variants": {"llama:high": {"strip": ["x"]}}}}
    )
    for name in ("llama", "gpt-4o", "llama:high"):
        (entry,) = world.ask(world.socket, f"/llmux/status?model={name}").json["models"]
        assert (entry["name"], entry["aliases"]) == ("llama", ["gpt-4o", "llama:high"])
        assert world.command(world.socket, "wake", model=name).status == 200
    assert world.control.told == [("wake", "llama", "socket")] * 3
    refused = world.command(world.socket, "wake", model="gpt-4p")
    assert (refused.status, refused.message) == (
        404,
        'There is no model "gpt-4p". Did you mean gpt-4o?',
    )


def test_the_list_is_behind_each_door() -> None:
    world = AdminWorld()
    assert len(world.ask(world.socket, "/v1/models").json["data"]) == 2
