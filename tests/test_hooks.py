"""These tests check hooks as processes: C{/bin/sh}, pipes and process groups."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import LogLevel

from llmux.config import ModelConfig
from llmux.hooks.runner import HookRunner
from llmux.hooks.runs.spawn import Spawner, spawn_session, spawn_with_setsid
from llmux.interfaces import HookKind, HookResult, IRunningHook
from llmux.monitoring.log import format_json, format_text

from .hook_log import HookLog

GRACE = 0.2


class Hooks:
    """This object starts scripts as the hooks of a model called C{a}."""

    def __init__(self, reactor: Any, directory: Path, log: HookLog, spawn: Spawner) -> None:
        self.reactor = reactor
        self.directory = directory
        self.log = log
        self.finished: list[tuple[str, str, bool]] = []
        self._spawn = spawn

    def start(
        self, script: str, hook: HookKind = HookKind.WAKE, *, limit: float = 60, name: str = "a"
    ) -> IRunningHook:
        config = ModelConfig(
            port=8001,
            wake=script,
            sleep=script,
            alive=script,
            wake_timeout_secs=limit,
            sleep_timeout_secs=limit,
            alive_timeout_secs=limit,
        )
        runner = HookRunner(
            self.reactor,
            {name: config},
            str(self.directory),
            metrics=self,
            grace=GRACE,
            spawn=self._spawn,
        )
        return runner.start(name, hook)

    async def run(
        self, script: str, hook: HookKind = HookKind.WAKE, *, limit: float = 60
    ) -> HookResult:
        return await self.start(script, hook, limit=limit).exited

    def hook_finished(self, model: str, hook: str, seconds: float, ok: bool) -> None:
        self.finished.append((model, hook, ok))

    async def until(self, true: Callable[[], bool]) -> None:
        """Look again and again until the condition holds, for 30 s at most."""

        def look() -> None:
            if true():
                call.stop()
            elif self.reactor.seconds() > deadline:
                raise AssertionError("it never came to be")

        deadline = self.reactor.seconds() + 30
        call = LoopingCall(look)
        call.clock = self.reactor
        await call.start(0.01)


@pytest.fixture
def hooks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hooks]:
    from twisted.internet import reactor

    with HookLog() as log:
        make: Any = getattr(request, "param", spawn_session)
        yield Hooks(reactor, tmp_path, log, make(reactor))


both_spawners = pytest.mark.parametrize(
    "hooks", [spawn_session, spawn_with_setsid], indirect=True
)


def alive(pid: int) -> bool:
    """Tell whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children() -> set[int]:
    """Return the ids of this process's children, zombies included."""
    return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}


def descriptors() -> dict[str, str]:
    """Return the descriptors that this process has open."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass
    return found


# What a script finds.


@pytest_twisted.ensureDeferred
async def test_a_hook_runs_in_the_directory_of_the_configuration(hooks: Hooks) -> None:
    await hooks.run('pwd -P; echo "$PWD"')
    assert hooks.log.lines() == [str(hooks.directory.resolve())] * 2


@pytest_twisted.ensureDeferred
async def test_an_odd_name_of_the_directory_is_no_option_and_is_not_expanded(
    hooks: Hooks,
) -> None:
    """No part of the directory's name is taken for an option, or expanded."""
    hooks.directory = hooks.directory / "-x $(false) 'é\n"
    hooks.directory.mkdir()
    (hooks.directory / "wake.sh").write_text("echo found\n")
    assert (await hooks.run("sh ./wake.sh")).ok
    assert hooks.log.lines() == ["found"]


@pytest_twisted.ensureDeferred
async def test_a_hook_has_our_environment_and_variables_of_its_model(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook has llmux's environment, and variables that say which model it is for."""
    monkeypatch.setenv("OF_OURS", "ours")
    await hooks.start(
        'echo "$LLMUX_MODEL $LLMUX_HOOK $LLMUX_HOST $LLMUX_PORT $LLMUX_TIMEOUT_SECS $OF_OURS"',
        HookKind.SLEEP,
        limit=900.5,
        name='org/é "model" $(date)',
    ).exited
    assert hooks.log.lines() == ['org/é "model" $(date) sleep 127.0.0.1 8001 900.5 ours']


@pytest_twisted.ensureDeferred
async def test_the_input_of_a_hook_is_empty(hooks: Hooks) -> None:
    """The input of a hook is empty even if llmux's own is not."""
    read, write = os.pipe()
    os.write(write, b"ours\n")
    ours = os.dup(0)
    os.dup2(read, 0)
    try:
        assert (await hooks.run("! read line")).ok
    finally:
        os.dup2(ours, 0)
        for fd in (read, write, ours):
            os.close(fd)


@pytest_twisted.ensureDeferred
async def test_a_hook_has_a_session_of_its_own(hooks: Hooks) -> None:
    """Ctrl-C in llmux's terminal is not for hooks, and they have no terminal to stop at."""
    await hooks.run("echo $$; ps -o pgid= -o sid= -o tty= -p $$")
    pid, columns = hooks.log.lines()
    assert columns.split() == [pid, pid, "?"]


@pytest_twisted.ensureDeferred
async def test_a_hook_inherits_no_descriptor_of_ours(hooks: Hooks) -> None:
    """
    A hook has no descriptor of llmux, even if it may be inherited: a server would keep llmux's
    port for hours.
    """
    ours = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(ours, True)
    try:
        await hooks.run("ls -m /proc/$$/fd; true")
    finally:
        os.close(ours)
    assert hooks.log.lines() == ["0, 1, 2"]


@pytest.mark.parametrize("shell", [s for s in ("/bin/sh", "/bin/bash") if os.path.exists(s)])
@pytest_twisted.ensureDeferred
async def test_a_hook_begins_with_no_signal_ignored_or_blocked(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    """
    A hook's C{kill -INT} works, whatever signals llmux was started with. (dash, which is sh on
    many systems, unblocks signals by itself.)
    """
    monkeypatch.setattr("llmux.hooks.runner.SHELL", shell)
    was = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        await hooks.run("grep -E '^Sig(Blk|Ign)' /proc/self/status")
        still = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, was)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    assert [line.split()[1] for line in hooks.log.lines()] == ["0" * 16] * 2
    assert still is signal.SIG_IGN


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("script", "code", "lines"),
    [
        ("echo one\necho two", 0, ["one", "two"]),
        ("-no-such-program", 127, []),
        ('echo "$# $*"', 0, ["0 "]),
        ("set -e\nfalse\necho never", 1, []),
        ("set -eu; echo a; exit 4; echo b", 4, ["a"]),
        ("trap 'echo bye' EXIT; exit 2", 2, ["bye"]),
        ("cat <<END\na $LLMUX_MODEL\n  'b'\nEND\n", 0, ["a a", "  'b'"]),
        ("cat <<'END'\n$LLMUX_MODEL\nEND", 0, ["$LLMUX_MODEL"]),
        ("f() { return 6; }\nf", 6, []),
        ("# only a comment", 0, []),
        ("exec sh -c 'exit 9'", 9, []),
        ("if true; then", 2, []),
        ("exit 1; 'unbalanced", 2, []),
    ],
)
async def test_a_script_means_what_it_means_to_sh(
    hooks: Hooks, script: str, code: int, lines: list[str]
) -> None:
    """A script means the same as to C{sh -c}."""
    assert (await hooks.run(script)).exit_code == code
    assert hooks.log.lines() == lines


# What cannot be started.


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("script", ["echo \0", "#" + "x" * 200_000])
async def test_a_script_that_no_shell_takes_could_not_be_started(
    hooks: Hooks, script: str
) -> None:
    before = descriptors()
    result = await hooks.run(script)
    assert (result.exit_code, result.timed_out) == (None, False)
    assert result.reason == "could not be started"
    assert result.stderr
    assert descriptors() == before


@pytest_twisted.ensureDeferred
async def test_an_alive_hook_in_a_vanished_directory_does_not_say_no(hooks: Hooks) -> None:
    """The alive hook of a vanished directory must not seem to say no."""
    hooks.directory = hooks.directory / "gone"
    result = await hooks.run("exit 1", HookKind.ALIVE)
    assert result.reason == "could not be started"
    assert not result.says_no
    assert "No such file" in result.stderr and "gone" in result.stderr


@pytest_twisted.ensureDeferred
async def test_directory_is_a_file(hooks: Hooks) -> None:
    hooks.directory = hooks.directory / "file"
    hooks.directory.write_text("")
    assert (await hooks.run("true")).reason == "could not be started"


@pytest_twisted.ensureDeferred
async def test_a_hook_fails_if_no_descriptor_is_left(hooks: Hooks) -> None:
    """If no descriptor is left, a hook fails like any other, and none is lost."""
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare in range(8):
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + spare, limits[1]))
        try:
            run = hooks.start("true")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (await run.exited).reason in ("could not be started", "exit status 0")
    await hooks.until(lambda: descriptors() == before)


@pytest_twisted.ensureDeferred
async def test_an_exit_status_that_others_took_is_unknown(hooks: Hooks) -> None:
    """
    Code that waits for all children takes llmux's children too: then nothing is known of a
    hook's exit.
    """
    run = hooks.start("echo $$; until [ -e go ]; do sleep 0.01; done; exit 0")
    await hooks.until(lambda: hooks.log.lines() != [])
    (hooks.directory / "go").touch()
    steal(int(hooks.log.lines()[0]))
    assert (await run.exited).reason == "exit status unknown"


def steal(pid: int) -> None:
    """Wait for a child without a turn of the reactor."""
    os.waitpid(pid, 0)


# Output.


@pytest_twisted.ensureDeferred
async def test_each_line_of_output_is_logged_with_its_source(hooks: Hooks) -> None:
    """
    Each line is logged with its source in fields of their own, and before the outcome (but for
    the last line, if it has no end).
    """
    await hooks.run("echo one; echo 'two {not a format}' >&2; printf three")
    said = [event.get("line", "completed") for event in hooks.log.events]
    # Either of the two pipes may be read first.
    assert {"one", "two {not a format}"} <= set(said[: said.index("completed")])
    await hooks.log.line("three")
    assert hooks.log.lines() == ["one", "three"]
    assert hooks.log.lines("stderr") == ["two {not a format}"]
    for event in hooks.log.events:
        if "line" in event:
            assert (event["model"], event["hook"]) == ("a", "wake")
            assert event["log_level"] is LogLevel.info


@pytest_twisted.ensureDeferred
async def test_bytes_that_are_no_text_are_replaced(hooks: Hooks) -> None:
    await hooks.run(r"printf 'a\377\000b\n'")
    assert hooks.log.lines() == ["a\ufffd\0b"]


@pytest_twisted.ensureDeferred
async def test_the_tail_of_stderr_is_logged_with_a_failure(hooks: Hooks) -> None:
    """
    The last 4 KiB of stderr are logged with a failure, complete although the exit is seen in
    the same turn of the reactor.
    """
    before = children()
    run = hooks.start("seq 1 2000 >&2; exit 3")
    # On a busy machine its exit may have been seen while it was started.
    for pid in children() - before:
        await_exit(pid)
    result = await run.exited
    assert len(result.stderr) == 4096
    assert result.stderr.endswith("\n1999\n2000\n")
    (failure,) = hooks.log.outcomes()
    assert failure["last_words"] == "2000"


def await_exit(pid: int) -> None:
    """Wait until a child is a zombie, without a turn of the reactor."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest_twisted.ensureDeferred
async def test_llmux_does_not_grow_with_100_megabytes_without_a_newline(hooks: Hooks) -> None:
    """A hook ends and llmux does not grow, however much the hook writes."""
    hooks.log.keep_lines = False
    before = resident()
    assert (await hooks.run("head -c 100000000 /dev/zero", limit=300)).ok
    # Output that is not logged is counted.
    await hooks.until(lambda: hooks.log.characters + 8192 * hooks.log.left_out == 100_000_000)
    assert resident() - before < 8 * 2**20


@pytest_twisted.ensureDeferred
async def test_thousands_of_lines_are_logged_in_order_and_the_rest_is_counted(
    hooks: Hooks,
) -> None:
    assert (await hooks.run("seq 1 20000")).ok
    await hooks.until(lambda: len(hooks.log.lines()) + hooks.log.left_out == 20000)
    assert len(hooks.log.lines()) >= 5000
    assert hooks.log.lines()[:5000] == [str(n) for n in range(1, 5001)]


@pytest_twisted.ensureDeferred
async def test_torrent_does_not_stall_the_reactor(hooks: Hooks) -> None:
    """The reactor has its turns while a hook writes as fast as it can."""
    hooks.log.keep_lines = False
    run = hooks.start("yes", limit=60)
    seconds = []
    turns: Deferred[None] = Deferred()

    def turn(before: float) -> None:
        now = hooks.reactor.seconds()
        seconds.append(now - before)
        if len(seconds) == 50:
            turns.callback(None)
        else:
            hooks.reactor.callLater(0, turn, now)

    await hooks.until(lambda: hooks.log.characters > 0)
    turn(hooks.reactor.seconds())
    await turns
    run.kill()
    await run.exited
    assert sorted(seconds)[25] < 0.5


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


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


# What is told.


@pytest_twisted.ensureDeferred
async def test_an_alive_script_with_a_typo_says_neither_yes_nor_no(hooks: Hooks) -> None:
    result = await hooks.run("crul http://127.0.0.1:1/", HookKind.ALIVE)
    assert result.reason == "exit status 127 (command not found)"
    assert "crul" in result.last_words
    assert not result.ok and not result.says_no


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("", ""),
        (" \n\n", ""),
        ("one\n two \n\n  \n", "two"),
        ("progress\rdone", "progress\rdone"),
        ("first\n" + "x" * 300 + "\n", "x" * 200),
    ],
)
def test_last_words_are_the_last_line_of_stderr_that_is_not_blank(
    stderr: str, words: str
) -> None:
    assert HookResult(1, False, 0.0, "exit status 1", stderr).last_words == words


@pytest_twisted.ensureDeferred
async def test_outcomes_are_logged_and_counted(hooks: Hooks) -> None:
    """Outcomes are logged and counted."""
    await hooks.run("true", HookKind.WAKE)
    await hooks.run("echo no >&2; exit 3", HookKind.SLEEP)
    await hooks.run("kill -9 $$", HookKind.WAKE)
    completed, failed, killed = hooks.log.outcomes()
    assert (completed["event"], completed["model"], completed["hook"]) == (
        "hook_completed",
        "a",
        "wake",
    )
    assert completed["duration_secs"] > 0
    assert completed["log_level"] is LogLevel.info
    assert (failed["event"], failed["hook"], failed["exit_code"], failed["last_words"]) == (
        "hook_failed",
        "sleep",
        3,
        "no",
    )
    assert failed["duration_secs"] > 0
    assert failed["log_level"] is LogLevel.warn
    assert killed["exit_code"] is None
    assert killed["reason"] == "killed by signal 9"
    assert hooks.finished == [("a", "wake", True), ("a", "sleep", False), ("a", "wake", False)]


@pytest_twisted.ensureDeferred
async def test_an_alive_hook_is_logged_for_debugging_alone(hooks: Hooks) -> None:
    """
    An alive hook is asked again and again: its output is for debugging, and its no is an
    answer, no failure.
    """
    await hooks.run("echo fine", HookKind.ALIVE)
    await hooks.run("echo refused >&2; exit 7", HookKind.ALIVE)
    await hooks.run("kill -9 $$", HookKind.ALIVE)
    assert len(hooks.log.events) == 5
    assert {event["log_level"] for event in hooks.log.events} == {LogLevel.debug}
    assert [ok for _, _, ok in hooks.finished] == [True, True, False]


@pytest_twisted.ensureDeferred
async def test_a_failure_is_one_line_and_what_the_hook_said_is_not_said_twice(
    hooks: Hooks,
) -> None:
    await hooks.run("echo one >&2; echo two >&2; exit 127", HookKind.SLEEP)
    text = [format_text(event) for event in hooks.log.events]
    assert [line[20:] for line in text[:2]] == [
        "info  a sleep stderr: one",
        "info  a sleep stderr: two",
    ]
    (failed,) = text[2:]
    assert re.fullmatch(
        r"warn  hook_failed: sleep hook of a failed: exit status 127 \(command not found\), "
        r"after \d+\.\d+ s; its last line: two",
        failed[20:],
    )
    assert json.loads(format_json(hooks.log.outcomes()[0]))["exit_code"] == 127


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
