"""These tests check what llmux reads and logs of the output of real hooks."""

from __future__ import annotations

import json
import os
import re
import resource
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel

from llmux.interfaces import HookKind, HookResult
from llmux.monitoring.log import format_json, format_text

from .real_hooks import Hooks, children, running_hooks

hooks = running_hooks

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
