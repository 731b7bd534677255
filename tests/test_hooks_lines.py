"""
These tests check how the output of hooks is cut into lines, and how many of them are logged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from llmux.hooks.runs.lines import (
    LINES_A_SECOND,
    LINES_A_TURN,
    LINES_AT_ONCE,
    LineBudget,
    Lines,
    OutputLog,
)

from .hook_log import HookLog


def lines_of(*pieces: bytes, most: int = 1000) -> list[bytes]:
    lines = Lines()
    found: list[bytes] = []
    for piece in pieces:
        lines.feed(piece)
        while taken := lines.take(most):
            found += taken
    return found + lines.end()


def test_a_line_ends_at_any_of_the_three_line_ends() -> None:
    assert lines_of(b"a\nb\r\nc\rd\n\ne") == [b"a", b"b", b"c", b"d", b"", b"e"]
    assert lines_of(b"a\r", b"\nb\r", b"c\r") == [b"a", b"b", b"c"]
    assert lines_of() == lines_of(b"") == []


def test_a_long_line_is_cut_and_not_kept_until_it_ends() -> None:
    lines = Lines()
    lines.feed(b"x" * 8192)
    assert lines.take(10) == []
    lines.feed(b"y")
    assert lines.take(10) == [b"x" * 8192]
    lines.feed(b"z" * 20000 + b"\nend\n")
    assert lines.take(10) == [
        b"y" + b"z" * 8191,
        b"z" * 8192,
        b"z" * (20001 - 8192 - 8192),
        b"end",
    ]
    assert lines.end() == []


PIECES = st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n", b"x" * 5000]))


@given(PIECES, st.integers(1, 5))
@settings(deadline=None)
def test_pieces_do_not_matter(pieces: list[bytes], most: int) -> None:
    """Output is cut into the same lines, in whatever pieces it comes and is taken."""
    assert lines_of(*pieces, most=most) == lines_of(b"".join(pieces))


@given(st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n"])))
@settings(deadline=None)
def test_skipped_lines_are_those_that_would_have_been_taken(pieces: list[bytes]) -> None:
    taken, skipped = Lines(), Lines()
    for piece in pieces:
        taken.feed(piece)
        skipped.feed(piece)
        assert skipped.skip() == len(taken.take(1000))
        assert len(skipped) == len(taken)
    assert skipped.end() == taken.end()


def test_a_long_line_that_is_skipped_is_not_kept_until_it_ends() -> None:
    lines = Lines()
    lines.feed(b"a\n" + b"x" * 20000)
    assert lines.skip() == 3
    assert len(lines) == 20000 - 2 * 8192


class Turns(Clock):
    """
    This clock has turns, as a reactor has them: calls that are scheduled in a turn are for the
    next turn.
    """

    def turn(self) -> None:
        calls: list[Any] = list(self.getDelayedCalls())
        for call in calls:
            if call.getTime() <= self.seconds():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


class Outputs:
    """This object has pipes of hooks, and what is logged of them."""

    def __init__(self, log: HookLog) -> None:
        self.clock = Turns()
        self.budget = LineBudget(self.clock)
        self.log = log

    def open(self, model: str = "a", stream: str = "stdout") -> OutputLog:
        return OutputLog(self.budget, model, "wake", stream, LogLevel.info)

    def turn(self) -> int:
        """Run a turn of the reactor, and return how many lines it has logged."""
        before = len(self.log.lines())
        self.clock.turn()
        return len(self.log.lines()) - before


@pytest.fixture
def outputs() -> Iterator[Outputs]:
    with HookLog() as log:
        yield Outputs(log)


def numbered(count: int) -> list[str]:
    return [str(n) for n in range(count)]


def text(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def test_a_few_lines_are_logged_at_once(outputs: Outputs) -> None:
    output = outputs.open()
    output.received(b"one\ntwo\nthr")
    assert outputs.log.lines() == ["one", "two"]
    output.received(b"ee")
    output.ended()
    assert outputs.log.lines() == ["one", "two", "three"]


def test_a_turn_logs_a_hundred_lines_of_all_hooks_together(outputs: Outputs) -> None:
    first, second = outputs.open("a"), outputs.open("b")
    lines = numbered(450)
    first.received(text(lines))
    second.received(text(lines))
    assert len(outputs.log.lines()) == LINES_A_TURN
    turns = []
    while made := outputs.turn():
        turns.append(made)
    assert set(turns[:-1]) == {LINES_A_TURN}
    assert sum(turns) == 2 * 450 - LINES_A_TURN
    for model in "ab":
        logged = [e["line"] for e in outputs.log.events if e["model"] == model]
        assert logged == lines


def test_an_end_while_lines_wait_loses_none(outputs: Outputs) -> None:
    output = outputs.open()
    output.received(text(numbered(250)) + b"last")
    output.ended()
    for _ in range(5):
        outputs.turn()
    assert outputs.log.lines() == [*numbered(250), "last"]


def test_lines_beyond_a_models_rate_are_left_out_and_counted(outputs: Outputs) -> None:
    """Lines of another model are not left out."""
    output = outputs.open("a")
    sent = 0
    for _ in range(1000):
        output.received(b"y\n" * 100)
        sent += 100
        outputs.turn()
    assert len(outputs.log.lines()) == LINES_AT_ONCE
    outputs.clock.advance(1.0)
    assert outputs.log.left_out == sent - LINES_AT_ONCE
    (event,) = (e for e in outputs.log.events if "event" in e)
    assert (event["event"], event["model"], event["stream"]) == (
        "output_left_out",
        "a",
        "stdout",
    )
    outputs.open("b").received(b"heard\n")
    assert outputs.log.lines()[-1] == "heard"
    output.received(text(numbered(10)))
    assert outputs.log.lines()[-10:] == numbered(10)


def test_a_model_that_goes_on_logs_as_many_lines_as_its_rate_allows(outputs: Outputs) -> None:
    output = outputs.open()
    for _ in range(100):
        for _ in range(20):
            output.received(b"y\n" * 2000)
            outputs.clock.advance(0.05)
    outputs.clock.advance(1.1)
    logged = len(outputs.log.lines())
    assert LINES_AT_ONCE <= logged <= LINES_AT_ONCE + 102 * LINES_A_SECOND
    assert logged + outputs.log.left_out == 100 * 20 * 2000
    # One line a second says how many are missing.
    assert sum(1 for e in outputs.log.events if "count" in e) <= 102


def test_what_waits_is_bounded(outputs: Outputs) -> None:
    """The bound holds even if others take all of a turn's lines."""
    output = outputs.open()
    for _ in range(100):
        output.received(b"y\n" * 4096)
    outputs.clock.turn()
    output.ended()
    for _ in range(2000):
        if not outputs.turn():
            break
    assert len(outputs.log.lines()) + outputs.log.left_out == 100 * 4096
    assert outputs.log.left_out >= 100 * 4096 - 256 * 1024


def test_a_mebibyte_of_empty_lines_costs_little(outputs: Outputs) -> None:
    """
    Each turn of the reactor costs little too: as much as 100 lines cost, with this test's
    observers.
    """
    import time

    output = outputs.open()
    outputs.log.keep_lines = False
    turns = []
    began = time.process_time()
    for _ in range(128):
        before = time.process_time()
        output.received(b"\n" * 8192)
        outputs.clock.turn()
        turns.append(time.process_time() - before)
    output.ended()
    for _ in range(100):
        outputs.clock.turn()
    assert time.process_time() - began < 1.0
    assert sorted(turns)[-2] < 0.02


def test_the_end_of_a_pipe_says_what_was_left_out(outputs: Outputs) -> None:
    """The line is logged at the end, and no timer is left for it."""
    output = outputs.open()
    for _ in range(100):
        output.received(b"y\n" * 4096)
        outputs.turn()
    output.ended()
    outputs.turn()
    assert len(outputs.log.lines()) + outputs.log.left_out == 100 * 4096
    assert outputs.clock.getDelayedCalls() == []
