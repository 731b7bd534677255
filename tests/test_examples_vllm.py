"""These tests check the scripts of examples/vllm-sleep with stand-ins of vLLM and of docker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.web.server import Request

from .daemon import free_port
from .example_hooks import SLEEP, WAKE, Api, Example, program, programs_first

programs = programs_first

# vLLM.


class Vllm(Api):
    """
    This API answers as vLLM does.

    @ivar asleep: the answer of C{/is_sleeping}.
    @ivar obeys: True if C{/sleep} puts the server to sleep.
    @ivar development: True if VLLM_SERVER_DEV_MODE is set.
    @ivar dead: True if the engine of the server has died.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asleep = False
        self.obeys = True
        self.development = True
        self.dead = False

    def answer(self, request: Request) -> tuple[int, Any]:
        if request.path == b"/health":
            return 200, None
        if self.dead:
            return 500, {"error": "EngineDeadError"}
        if not self.development:
            return 404, {"detail": "Not Found"}
        match request.method, request.path:
            case b"GET", b"/is_sleeping":
                return 200, {"is_sleeping": self.asleep}
            case b"POST", b"/wake_up":
                self.asleep = False
                return 200, None
            case b"POST", b"/sleep" if request.args == {b"level": [b"1"]}:
                self.asleep = self.obeys
                return (200 if self.obeys else 500), None
        return 405, None


DOCKER = """
[ "$1" = top ] || echo "$*" >>"$(dirname "$0")/docker.log"
"""


@pytest.fixture
def vllm(programs: Path) -> Iterator[Vllm]:
    program(programs / "docker", DOCKER)
    api = Vllm()
    yield api
    api.close()


def docker_log(programs: Path) -> list[str]:
    path = programs / "docker.log"
    return path.read_text().splitlines() if path.exists() else []


@pytest_twisted.ensureDeferred
async def test_a_model_of_vllm_is_alive_while_its_server_does_not_sleep(
    vllm: Vllm, programs: Path
) -> None:
    """The model is alive while the server of vLLM does not sleep."""
    example = Example("vllm-sleep", vllm.listen())
    assert await example.is_awake("qwen3-8b")
    assert (await example.run("qwen3-8b", SLEEP)).ok
    assert vllm.asleep
    assert not await example.is_awake("qwen3-8b")
    assert (await example.run("qwen3-8b", WAKE)).ok
    assert not vllm.asleep
    assert await example.is_awake("qwen3-8b")
    assert docker_log(programs) == []


@pytest_twisted.ensureDeferred
async def test_a_hook_of_vllm_asks_for_nothing_when_it_is_repeated(vllm: Vllm) -> None:
    """
    A hook asks for nothing if the model to wake is awake, or the model to put to sleep sleeps.
    """
    example = Example("vllm-sleep", vllm.listen())
    assert (await example.run("qwen3-8b", WAKE)).ok
    vllm.asleep = True
    assert (await example.run("qwen3-8b", SLEEP)).ok
    assert [line for line in vllm.requests if line.startswith("POST")] == []


@pytest_twisted.ensureDeferred
async def test_the_wake_hook_of_vllm_starts_a_server_and_waits_for_it(
    vllm: Vllm, programs: Path
) -> None:
    """The wake hook starts a server where none runs, and waits for it."""
    from twisted.internet import reactor

    port = free_port()
    example = Example("vllm-sleep", port)
    assert not await example.is_awake("qwen3-8b")
    waking = Deferred.fromCoroutine(example.run("qwen3-8b", WAKE))
    typed_reactor: Any = reactor
    while not docker_log(programs):
        turn: Deferred[None] = Deferred()
        typed_reactor.callLater(0.02, turn.callback, None)
        await turn
    assert not waking.called
    vllm.listen(port)
    assert (await waking).ok
    assert docker_log(programs) == ["start vllm-qwen3"]
    assert await example.is_awake("qwen3-8b")


@pytest_twisted.ensureDeferred
async def test_vllm_cannot_be_started(programs: Path) -> None:
    program(programs / "docker", "echo no such container >&2; exit 5")
    result = await Example("vllm-sleep", free_port()).run("qwen3-8b", WAKE)
    assert result.exit_code == 5
    assert "no such container" in result.stderr


@pytest_twisted.ensureDeferred
async def test_a_wake_fails_at_once_if_vllm_ends_while_it_starts(programs: Path) -> None:
    """The wake hook fails as soon as the server that it has started ends."""
    program(programs / "docker", 'case $1 in top) exit 1 ;; esac; echo "$*" >&2')
    result = await Example("vllm-sleep", free_port()).run("qwen3-8b", WAKE)
    assert result.exit_code == 1
    assert "vllm-qwen3 ended before it was ready" in result.stderr
    assert "logs --tail 20 vllm-qwen3" in result.stderr


@pytest_twisted.ensureDeferred
async def test_a_vllm_whose_engine_is_dead_is_told_and_stopped(
    vllm: Vllm, programs: Path
) -> None:
    """The output says that the engine is dead, and the sleep hook stops the server."""
    vllm.dead = True
    example = Example("vllm-sleep", vllm.listen())
    result = await example.run("qwen3-8b", WAKE)
    assert result.says_no
    assert "answers 500: the engine is dead" in result.stderr
    assert "VLLM_SERVER_DEV_MODE" not in result.stderr
    assert (await example.run("qwen3-8b", SLEEP)).ok
    assert docker_log(programs) == ["stop vllm-qwen3"]


@pytest_twisted.ensureDeferred
async def test_vllm_does_not_sleep(vllm: Vllm, programs: Path) -> None:
    """A server that does not sleep is stopped: the GPU must be free."""
    vllm.obeys = False
    example = Example("vllm-sleep", vllm.listen())
    assert (await example.run("qwen3-8b", SLEEP)).ok
    assert docker_log(programs) == ["stop vllm-qwen3"]


@pytest_twisted.ensureDeferred
async def test_vllm_does_not_answer(programs: Path) -> None:
    """A server that does not answer may be loading, on the GPU."""
    program(programs / "docker", DOCKER)
    assert (await Example("vllm-sleep", free_port()).run("qwen3-8b", SLEEP)).ok
    assert docker_log(programs) == ["stop vllm-qwen3"]


@pytest_twisted.ensureDeferred
async def test_the_log_says_that_vllm_lacks_the_sleep_mode(vllm: Vllm) -> None:
    """The output of the wake hook says which setting of the server is missing."""
    vllm.development = False
    result = await Example("vllm-sleep", vllm.listen()).run("qwen3-8b", WAKE)
    assert result.says_no
    assert "VLLM_SERVER_DEV_MODE=1" in result.stderr
