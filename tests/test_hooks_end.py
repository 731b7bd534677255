"""These tests check how real hooks and their children end, by themselves or with llmux."""

from __future__ import annotations

import os
import signal
import sys
import textwrap

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from .real_hooks import GRACE, Hooks, alive, both_spawners, children, descriptors, running_hooks

hooks = running_hooks

# What a hook leaves behind.


@both_spawners
@pytest_twisted.ensureDeferred
async def test_a_background_child_is_not_waited_for_and_lives_on(hooks: Hooks) -> None:
    """
    The result of a hook does not wait for a child that has inherited the pipes; the
    child lives, and its output still goes to the log when it is over.
    """
    script = """
        sh -c 'echo server $$; while ! [ -e go ]; do sleep 0.01; done
               seq 1 3000; echo served; echo gone >&2' &
        echo woken
    """
    result = await hooks.run(script, limit=0.3)
    assert result.ok
    await hooks.until(lambda: len(hooks.log.lines()) == 2)
    (server,) = (line for line in hooks.log.lines() if line.startswith("server"))
    # The child lives on beyond the time limit of the hook.
    passed: Deferred[None] = Deferred()
    hooks.reactor.callLater(0.3 + GRACE + 0.1, passed.callback, None)
    await passed
    assert alive(int(server.split()[1]))
    (hooks.directory / "go").touch()
    await hooks.log.line("served")
    await hooks.log.line("gone")
    assert len(hooks.log.lines()) == 3003
    await hooks.until(lambda: not alive(int(server.split()[1])))


@both_spawners
@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("by", ["limit", "kill"])
async def test_the_whole_group_of_a_hook_ends_by_force(hooks: Hooks, by: str) -> None:
    """A hook that is ended by force takes its background children along."""
    script = """
        sh -c 'trap "" TERM; echo $$; while :; do sleep 0.05; done' &
        sh -c 'echo $$; exec sleep 1000' &
        echo $$
        wait
    """
    run = hooks.start(script, limit=0.3 if by == "limit" else 60)
    await hooks.until(lambda: len(hooks.log.lines()) == 3)
    if by == "kill":
        run.kill()
    result = await run.exited
    assert result.timed_out == (by == "limit")
    assert result.duration >= GRACE  # one of them ignores TERM
    pids = [int(line) for line in hooks.log.lines()]
    await hooks.until(lambda: not any(map(alive, pids)))


@pytest_twisted.ensureDeferred
async def test_a_hook_may_tidy_up_after_sigterm(hooks: Hooks) -> None:
    """
    A hook may tidy up after TERM; whatever its exit status is then, it did not end by itself.
    """
    script = "trap 'echo tidy; exit 0' TERM; echo begun; while :; do sleep 0.01; done"
    run = hooks.start(script)
    await hooks.log.line("begun")
    run.kill()
    result = await run.exited
    assert (result.exit_code, result.reason) == (None, "stopped")
    assert not result.ok
    await hooks.log.line("tidy")


@both_spawners
@pytest_twisted.ensureDeferred
async def test_a_hook_that_cannot_be_killed_is_given_up(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook that has become root's (C{sudo}) cannot be killed; it is not waited for."""
    run = hooks.start("echo $$; while :; do sleep 0.05; done", limit=0.1)
    await hooks.until(lambda: hooks.log.lines() != [])
    group = int(hooks.log.lines()[0])

    def refuse(group: int, number: int) -> None:
        raise PermissionError

    killpg = os.killpg
    monkeypatch.setattr(os, "killpg", refuse)
    result = await run.exited
    assert result.timed_out
    killpg(group, signal.SIGKILL)
    await hooks.until(lambda: group not in children())


@both_spawners
@pytest_twisted.ensureDeferred
async def test_hooks_leave_nothing_behind(hooks: Hooks) -> None:
    """A hook leaves no zombie, no descriptor, no timer, and nothing to do at the shutdown."""
    at_shutdown = hooks.reactor._eventTriggers["shutdown"].after
    timers = hooks.reactor.getDelayedCalls()
    triggers = list(at_shutdown)
    before = descriptors()
    runs = []
    for n in range(20):
        looping = n % 4 == 3
        script = "while :; do sleep 0.05; done" if looping else f"echo {n}; exit {n % 3}"
        runs.append(hooks.start(script, limit=0.1 if looping else 60))
        # A fork takes some milliseconds.
        await deferLater(hooks.reactor, 0)
    for run in runs:
        await run.exited
    await hooks.until(lambda: not children() and descriptors() == before)
    assert hooks.reactor.getDelayedCalls() == timers
    assert at_shutdown == triggers


# The end of the reactor.

PROGRAM = """
    import sys
    from twisted.internet import reactor
    from llmux.config import ModelConfig
    from llmux.hooks.runner import HookRunner
    from llmux.interfaces import HookKind

    script, kill, signals = sys.argv[1:]
    config = ModelConfig(port=1, wake=script, sleep="true", alive="true")
    runner = HookRunner(reactor, {"a": config}, ".")
    run = runner.start("a", HookKind.WAKE)

    def stop(result=None):
        reactor.addSystemEventTrigger(kill, "shutdown", run.kill)
        reactor.stop()

    if kill == "never":
        run.exited.addCallback(lambda result: reactor.stop())
    else:
        def begun():
            try:
                open("begun")
            except FileNotFoundError:
                reactor.callLater(0.01, begun)
            else:
                stop()
        begun()
    reactor.run(installSignalHandlers=signals == "with")
"""


async def end_of_reactor(hooks: Hooks, script: str, kill: str, signals: str = "with") -> None:
    """Run a program that starts the hook, and stops."""
    from twisted.internet.utils import getProcessOutputAndValue

    (hooks.directory / "program.py").write_text(textwrap.dedent(PROGRAM))
    out, err, code = await getProcessOutputAndValue(
        sys.executable,
        ["program.py", script, kill, signals],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        path=str(hooks.directory),
        reactor=hooks.reactor,
    )
    assert (out, err, code) == (b"", b"", 0)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("phase", ["before", "during", "after"])
async def test_a_hook_is_killed_at_once_while_the_reactor_stops(
    hooks: Hooks, phase: str
) -> None:
    """A reactor that stops leaves a hook no time for a grace: KILL follows TERM at once."""
    script = """
        trap '' TERM
        sh -c 'echo $$ >pid; while :; do sleep 0.05; done' >/dev/null 2>&1 &
        until [ -s pid ]; do sleep 0.01; done
        touch begun
        wait
    """
    await end_of_reactor(hooks, script, phase)
    pid = int((hooks.directory / "pid").read_text())
    await hooks.until(lambda: not alive(pid))


@pytest_twisted.ensureDeferred
async def test_a_server_that_a_hook_left_survives_the_end_of_llmux(hooks: Hooks) -> None:
    """
    A server that was left awake for the next start does not die of its next line, though the
    pipe that it inherited was llmux's.
    """
    script = """
        sh -c 'echo $$ >pid; until [ -e go ]; do sleep 0.01; done
               echo one; seq 1 100000; echo two >&2; echo done >result' &
    """
    await end_of_reactor(hooks, script, "never")
    (hooks.directory / "go").touch()
    await hooks.until((hooks.directory / "result").exists)
    pid = int((hooks.directory / "pid").read_text())
    await hooks.until(lambda: not alive(pid))


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no pidfd")
@pytest_twisted.ensureDeferred
async def test_an_exit_is_noticed_where_nobody_listens_to_signals(hooks: Hooks) -> None:
    """A reactor that does not run in the main thread, for example, gets no signals."""
    await end_of_reactor(hooks, "sleep 0.2", "never", "without")
