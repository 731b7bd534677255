"""
These tests run docker, and podman with CRIU, with two real models: three rounds of switching,
and each fault.  See README.md here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.containers import ENGINES, Engine, World, kill

A, B = "smollm2", "gemma3"


def _or_skip(engine: Engine) -> Engine:
    """Skip the test unless C{ENGINES} names this engine, which must work then."""
    if engine.program not in os.environ.get("ENGINES", "").split():
        pytest.skip(f"ENGINES does not name {engine.program}: see tests/engines/README.md")
    wanting = engine.wanting()
    assert not wanting, f"ENGINES names {engine.program}, but {wanting}"
    return engine


@pytest.fixture(params=list(ENGINES.values()), ids=list(ENGINES))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(_or_skip(request.param), tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[World]:
    made = World(_or_skip(ENGINES["podman"]), tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_three_rounds_of_switching_give_equal_answers(world: World) -> None:
    with world.llmux():
        for number in range(3):
            for model, other in ((A, B), (B, A)):
                world.expect(model)
                assert world.state(model) == "running"
                assert world.state(other) in ("exited", "created")
                if world.engine.keeps and (number, model) != (0, A):
                    assert world.is_kept(other)
    for model in (A, B):
        first, *later = [f"{secs:.1f}" for name, secs in world.seconds if name == model]
        print(f"{world.engine.program}: {model}: first {first} s, then {' and '.join(later)} s")


def test_a_container_that_is_killed_is_started_again(world: World) -> None:
    with world.llmux():
        world.expect(A)
        world.expect(B)
        world.expect(A)
        world.do("kill", A)
        world.expect(A)
        world.expect(B)


def test_a_container_that_is_paused_is_not_taken_for_asleep(world: World) -> None:
    with world.llmux(alive_timeout_secs=2):
        world.expect(A)
        world.do("pause", A)
        world.expect(B)
        assert world.state(A) == "exited"
        world.expect(A)


def test_a_server_that_ends_at_once_fails_its_wake_at_once(world: World) -> None:
    world.add("broken", "--no-such-argument")
    with world.llmux() as daemon:
        began = time.monotonic()
        status, _ = world.ask("broken")
        assert status == 503
        assert time.monotonic() - began < 30
        assert any("no-such-argument" in line for line in daemon.lines)
        world.expect(A)


def test_what_is_awake_is_adopted_after_llmux_was_killed(world: World) -> None:
    with world.llmux() as daemon:
        world.expect(A)
        started = world.started(A)
        kill(daemon)
    with world.llmux() as daemon:
        world.expect(A)
        assert world.started(A) == started
        world.expect(B)
        assert world.state(A) == "exited"


def test_a_model_whose_checkpoint_fails_is_stopped_and_started_anew(
    keeping: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Podman says that it cannot, as without CRIU, and the container runs on."""
    podman = tmp_path / "bin" / "podman"
    podman.parent.mkdir()
    podman.write_text(
        '#!/bin/sh\n[ "$2" != checkpoint ] || { echo "no criu" >&2; exit 125; }\n'
        f'PATH={os.environ["PATH"]} exec podman "$@"\n'
    )
    podman.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{podman.parent}:{os.environ['PATH']}")
        with keeping.llmux() as daemon:
            keeping.expect(A)
            keeping.expect(B)
            assert (keeping.state(A), keeping.is_kept(A)) == ("exited", False)
            keeping.expect(A)
            assert any("cannot be checkpointed: stopping it" in line for line in daemon.lines)


def test_a_checkpoint_that_is_cut_short_leaves_no_server_behind(keeping: World) -> None:
    """CRIU's lock of the network would keep everybody from such a server."""
    with keeping.llmux():
        keeping.expect(A)
    with keeping.llmux(sleep_timeout_secs=0.35):
        keeping.expect(A)
        keeping.ask(B)
        assert keeping.state(A) != "paused"
    with keeping.llmux():
        keeping.expect(A)
        keeping.expect(B)


def test_a_checkpoint_is_of_no_use_once_somebody_has_started_the_container(
    keeping: World,
) -> None:
    with keeping.llmux():
        keeping.expect(A)
        keeping.expect(B)
        assert keeping.is_kept(A)
        keeping.do("start", A)
        keeping.do("stop", A)
        keeping.expect(A)
        keeping.expect(B)
