"""These tests check the scripts of examples/podman-criu with a stand-in of podman."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import pytest_twisted

from llmux.interfaces import HookKind

from .daemon import free_port, wait_until
from .example_hooks import EXAMPLES, SLEEP, WAKE, Example, program, programs_first

programs = programs_first

# Podman.

PODMAN = """
cd "$(dirname "$0")"
echo "$2 $(eval echo \\${$#})" >>podman.log
read -r status checkpointed <podman.state
case $2$4 in
    inspect*Checkpointed*) echo "$status $checkpointed" ;;
    inspect*) echo "$status" ;;
    checkpoint*) [ ! -e slow ] || { touch began; sleep 60; } ;;
esac
case $2 in
    inspect) ;;
    *) [ ! -e "no-$2" ] || { echo "no $2" >&2; exit 125; } ;;
esac
case $2 in
    checkpoint) echo exited true >podman.state ;;
    stop | kill) echo exited false >podman.state ;;
    restore | start | unpause) echo running false >podman.state ;;
    logs) echo "no memory" ;;
esac
[ ! -e ends ] || echo exited false >podman.state
"""


class Podman:
    """This program has the state of a container called vllm-qwen3."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        program(directory / "podman", PODMAN)
        # The container's server answers while the container runs.
        program(directory / "curl", 'grep -q ^running "${0%/*}/podman.state"')
        (directory / "podman.state").write_text("created false\n")
        self.example = Example("podman-criu", free_port())

    def state(self) -> str:
        return (self._directory / "podman.state").read_text().strip()

    def pause(self) -> None:
        (self._directory / "podman.state").write_text("paused false\n")

    def log(self) -> list[str]:
        return (self._directory / "podman.log").read_text().splitlines()

    def breaks(self, verb: str) -> None:
        (self._directory / f"no-{verb}").touch()

    async def run(self, hook: HookKind) -> list[str]:
        """Return what the hook had podman do, inspections left out."""
        log = self._directory / "podman.log"
        log.write_text("")
        assert (await self.example.run("qwen3-8b", hook)).ok
        lines = [line.split() for line in log.read_text().splitlines()]
        assert {name for _, name in lines} == {"vllm-qwen3"}
        return [verb for verb, _ in lines if verb != "inspect"]


@pytest.fixture
def podman(programs: Path) -> Podman:
    return Podman(programs)


@pytest_twisted.ensureDeferred
async def test_a_container_of_podman_is_started_once_and_restored_afterwards(
    podman: Podman,
) -> None:
    """
    The container is started the first time, then checkpointed and restored; a repeated hook
    does nothing.
    """
    assert await podman.run(SLEEP) == []
    assert await podman.run(WAKE) == ["start"]
    assert await podman.run(WAKE) == []
    assert await podman.run(SLEEP) == ["checkpoint"]
    assert await podman.run(SLEEP) == []
    assert await podman.run(WAKE) == ["restore"]
    assert podman.state() == "running false"


@pytest_twisted.ensureDeferred
async def test_a_container_that_cannot_be_checkpointed_is_stopped(podman: Podman) -> None:
    podman.breaks("checkpoint")
    await podman.run(WAKE)
    assert await podman.run(SLEEP) == ["checkpoint", "stop"]
    assert podman.state() == "exited false"
    assert await podman.run(WAKE) == ["start"]


@pytest_twisted.ensureDeferred
async def test_a_container_that_cannot_be_restored_is_started(podman: Podman) -> None:
    podman.breaks("restore")
    await podman.run(WAKE)
    await podman.run(SLEEP)
    assert await podman.run(WAKE) == ["restore", "start"]


@pytest_twisted.ensureDeferred
async def test_a_wake_fails_if_the_server_in_podman_ends_at_once(
    podman: Podman, programs: Path
) -> None:
    (programs / "ends").touch()
    result = await podman.example.run("qwen3-8b", WAKE)
    assert result.says_no
    assert "vllm-qwen3 ended before it was ready" in result.stderr
    assert "no memory" in result.stderr


@pytest_twisted.ensureDeferred
async def test_both_hooks_fail_if_podman_has_no_such_container(
    podman: Podman, programs: Path
) -> None:
    program(programs / "podman", "echo no such container >&2; exit 125")
    for hook in (WAKE, SLEEP):
        result = await podman.example.run("qwen3-8b", hook)
        assert result.says_no
        assert "no such container" in result.stderr


@pytest_twisted.ensureDeferred
async def test_a_paused_container_does_not_count_as_asleep(podman: Podman) -> None:
    """A paused container holds its memory, and so it does not count as asleep."""
    podman.pause()
    assert await podman.run(SLEEP) == ["unpause", "checkpoint"]
    podman.pause()
    assert await podman.run(WAKE) == ["unpause"]
    podman.pause()
    podman.breaks("unpause")
    assert await podman.run(SLEEP) == ["unpause", "stop"]


def test_a_checkpoint_that_is_cut_short_ends_the_container(
    podman: Podman, programs: Path
) -> None:
    """
    A checkpoint that is cut short would leave a server that nobody can reach, so the hook ends
    the container.
    """
    (programs / "podman.state").write_text("running false\n")
    (programs / "slow").touch()
    script = [str(EXAMPLES / "podman-criu" / "sleep.sh"), "vllm-qwen3"]
    with subprocess.Popen(script, start_new_session=True, stderr=subprocess.PIPE) as hook:
        wait_until((programs / "began").exists, "the checkpoint")
        os.killpg(hook.pid, signal.SIGTERM)
        assert hook.wait(30) == 1
    assert podman.log()[-1] == "kill vllm-qwen3"
    assert podman.state() == "exited false"
