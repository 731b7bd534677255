"""These tests check the scripts of examples/ollama with a stand-in of its API."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.web.server import Request

from .daemon import free_port
from .example_hooks import EXAMPLES, SLEEP, WAKE, Api, Example

# Ollama.


class Ollama(Api):
    """
    This API answers as Ollama does.

    @ivar loaded: by model in memory, for how long it stays.
    @ivar lists_as: the name by which C{/api/ps} lists what is loaded.
    @ivar unloads_after: how many more times C{/api/ps} lists what was unloaded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.installed = {"qwen3:8b", "mistral:7b", "mistral:latest"}
        self.loaded: dict[str, int] = {}
        self.unloads_after = 0
        self.lists_as: str | None = None
        self._going: dict[str, int] = {}

    def answer(self, request: Request) -> tuple[int, Any]:
        if request.path == b"/api/ps":
            self._going = {name: left - 1 for name, left in self._going.items() if left > 0}
            names = [self.lists_as or name for name in (*self.loaded, *self._going)]
            return 200, {"models": [{"name": n, "model": n, "size": 1} for n in names]}
        assert request.path == b"/api/generate"
        assert request.content is not None
        wanted = json.load(request.content)
        # Ollama takes a name in any case, and means the one that was pulled.
        found = [name for name in self.installed if name.lower() == wanted["model"].lower()]
        if not found:
            return 404, {"error": f"model '{wanted['model']}' not found"}
        name = found[0]
        assert wanted["stream"] is False and "prompt" not in wanted
        if wanted["keep_alive"] == 0:
            self.loaded.pop(name, None)
            self._going[name] = self.unloads_after
        else:
            self.loaded[name] = wanted["keep_alive"]
        return 200, {"model": name, "response": "", "done": True}


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    api = Ollama()
    yield api
    api.close()


@pytest_twisted.ensureDeferred
async def test_the_hooks_of_ollama_tell_two_models_on_one_port_apart(ollama: Ollama) -> None:
    """C{alive} tells two models on one port apart."""
    example = Example("ollama", ollama.listen())
    assert not await example.is_awake("qwen3:8b")
    assert (await example.run("qwen3:8b", WAKE)).ok
    assert ollama.loaded == {"qwen3:8b": -1}
    assert await example.is_awake("qwen3:8b")
    assert not await example.is_awake("mistral:7b")
    ollama.unloads_after = 3
    assert (await example.run("qwen3:8b", SLEEP)).ok
    assert not await example.is_awake("qwen3:8b")
    assert (await example.run("mistral:7b", WAKE)).ok
    assert ollama.loaded == {"mistral:7b": -1}


@pytest_twisted.ensureDeferred
async def test_a_hook_of_ollama_does_no_harm_when_it_is_repeated(ollama: Ollama) -> None:
    """
    A hook does no harm that wakes a model that is awake, or puts one to sleep that sleeps.
    """
    example = Example("ollama", ollama.listen())
    for hook in (SLEEP, WAKE, WAKE, SLEEP, SLEEP):
        assert (await example.run("qwen3:8b", hook)).ok
    assert ollama.loaded == {}


@pytest_twisted.ensureDeferred
async def test_the_log_says_that_ollama_lacks_the_model(ollama: Ollama) -> None:
    """The output of the wake hook says which model Ollama has not found."""
    ollama.installed.clear()
    example = Example("ollama", ollama.listen())
    result = await example.run("qwen3:8b", WAKE)
    assert result.says_no
    assert "model 'qwen3:8b' not found" in result.stderr


@pytest_twisted.ensureDeferred
async def test_ollama_name_without_a_tag(ollama: Ollama) -> None:
    """Ollama completes such a name, and lists the whole name."""
    example = Example("ollama", ollama.listen(), mistral="mistral:7b")
    assert (await example.run("mistral", WAKE)).ok
    assert ollama.loaded == {"mistral:latest": -1}
    assert await example.is_awake("mistral")
    assert not await example.is_awake("mistral:7b")


@pytest_twisted.ensureDeferred
async def test_ollama_name_in_another_case(ollama: Ollama) -> None:
    """The scripts find a model that Ollama calls by other capitals, and unload it again."""
    example = Example("ollama", ollama.listen(), **{"Mistral:7B": "mistral:7b"})
    assert (await example.run("Mistral:7B", WAKE)).ok
    assert await example.is_awake("Mistral:7B")
    assert (await example.run("Mistral:7B", SLEEP)).ok
    assert ollama.loaded == {}


@pytest_twisted.ensureDeferred
async def test_ollama_calls_the_model_what_the_scripts_are_told(
    ollama: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The argument of a hook is Ollama's name of a model that has another name in llmux."""
    port = str(ollama.listen())
    monkeypatch.setenv("LLMUX_HOST", "127.0.0.1")
    monkeypatch.setenv("LLMUX_PORT", port)
    monkeypatch.setenv("LLMUX_MODEL", "mine")

    async def run(hook: str) -> int:
        from twisted.internet.utils import getProcessValue

        path = str(EXAMPLES / "ollama" / "ollama.sh")
        value: int = await getProcessValue(path, [hook, "mistral:7b"], env=os.environ)
        return value

    assert await run("wake") == 0
    assert ollama.loaded == {"mistral:7b": -1}
    assert await run("alive") == 0
    assert await run("sleep") == 0
    assert ollama.loaded == {}
    assert await run("alive") == 1


@pytest_twisted.ensureDeferred
async def test_ollama_lists_another_name(ollama: Ollama) -> None:
    """A wake that fails says why, and leaves nothing in memory."""
    ollama.lists_as = "something-else"
    example = Example("ollama", ollama.listen())
    result = await example.run("qwen3:8b", WAKE)
    assert result.says_no
    assert "does not list it by this name" in result.stderr
    assert ollama.loaded == {}


@pytest_twisted.ensureDeferred
async def test_ollama_says_nothing_of_a_success(ollama: Ollama) -> None:
    example = Example("ollama", ollama.listen())
    assert (await example.run("qwen3:8b", WAKE)).stderr == ""


@pytest_twisted.ensureDeferred
async def test_nothing_is_awake_and_no_wake_succeeds_if_ollama_is_down() -> None:
    example = Example("ollama", free_port())
    assert not await example.is_awake("qwen3:8b")
    assert (await example.run("qwen3:8b", SLEEP)).ok
    result = await example.run("qwen3:8b", WAKE)
    assert result.says_no
    assert "curl: (7)" in result.stderr
