"""
This module cuts the output of hooks into lines, and logs them at a limited rate.

Everything that a hook writes, or a server that the hook leaves in the background, goes to the
log.  Logging one line takes some 25 microseconds, so that one MiB of empty lines would take
half a minute.  Therefore the number of lines has two limits.

 - In one turn of the reactor all hooks together log C{LINES_A_TURN} lines;
   what they have written beyond waits for the next turn.
 - Each model logs C{LINES_AT_ONCE} lines, and C{LINES_A_SECOND} more for each
   second that passes.  Lines beyond that are left out, and counted: a line
   in the log says how many.  To count a line costs some nanoseconds.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from llmux.monitoring.output_ring import OutputRing

__all__ = ["LineBudget", "Lines", "OutputLog"]

LINES_A_TURN = 100
LINES_AT_ONCE = 5000
LINES_A_SECOND = 500

LONGEST_LINE = 8 * 1024
"""A line that is longer than this many bytes is cut."""

MOST_WAITING = 256 * 1024
"""This many bytes of one pipe's output may wait for later turns."""

REPORT = 1.0
"""The log says how many lines were left out this many seconds after the first of them."""

_log = Logger()


class Lines:
    """
    This buffer cuts output into lines, without their ends: a line feed, with or without a
    carriage return, or a carriage return alone (progress bars).  A line of more than 8 KiB is
    cut there.

    Whether a carriage return at the end of the data ends a line is decided when the next byte
    has come.
    """

    _END = re.compile(rb"\r?\n|\r(?!\n|\Z)")

    def __init__(self) -> None:
        self._rest = b""

    def __len__(self) -> int:
        """Return the number of bytes that have been fed and not been taken."""
        return len(self._rest)

    def feed(self, data: bytes) -> None:
        """Append bytes that have been read."""
        self._rest += data

    def take(self, most: int) -> list[bytes]:
        """
        Remove the next lines that are complete.

        @param most: the largest number of lines; the pieces of a long line count as one.
        """
        *whole, self._rest = self._END.split(self._rest, most)
        lines = [piece for line in whole for piece in _pieces(line)]
        if len(whole) < most:
            *cut, self._rest = _pieces(self._rest)
            lines += cut
        return lines

    def skip(self) -> int:
        """
        Remove all lines that are complete.

        @return: the number of lines; lines longer than 8 KiB count more than once.
        """
        rest = self._rest
        end = max(rest.rfind(b"\n"), rest.rfind(b"\r", 0, -1)) + 1
        count = rest.count(b"\n", 0, end)
        if b"\r" in rest:
            count += rest.count(b"\r", 0, end) - rest.count(b"\r\n", 0, end)
        cut = max(0, len(rest) - end - 1) // LONGEST_LINE
        self._rest = rest[end + cut * LONGEST_LINE :]
        return count + cut

    def end(self) -> list[bytes]:
        """Remove and return the last line, which has no end, when no more data will come."""
        rest, self._rest = self._rest, b""
        return [rest.removesuffix(b"\r")] if rest else []


def _pieces(line: bytes) -> list[bytes]:
    if len(line) <= LONGEST_LINE:
        return [line]
    return [line[at : at + LONGEST_LINE] for at in range(0, len(line), LONGEST_LINE)]


class LineBudget:
    """
    A budget says how many lines the hooks of one runner may log now.

    @ivar clock: the clock, which also tells the turns of the reactor.
    @ivar ring: the ring that keeps what is logged; or None.
    """

    def __init__(self, clock: IReactorTime, ring: OutputRing | None = None) -> None:
        self.clock = clock
        self.ring = ring
        self._left_this_turn = LINES_A_TURN
        self._next_turn: IDelayedCall | None = None
        self._waiting: deque[OutputLog] = deque()
        self._models: dict[str, tuple[float, float]] = {}

    def this_turn(self) -> int:
        """Tell how many lines may be logged before the reactor's next turn."""
        return self._left_this_turn

    def of_model(self, model: str) -> int:
        """Tell how many lines this model may log before some are left out."""
        left, since = self._models.get(model, (LINES_AT_ONCE, 0.0))
        now = self.clock.seconds()
        left = min(LINES_AT_ONCE, left + (now - since) * LINES_A_SECOND)
        self._models[model] = left, now
        return int(left)

    def spend(self, model: str, lines: int) -> None:
        """Note that this model has logged this many lines."""
        left, since = self._models[model]
        self._models[model] = left - lines, since
        self._left_this_turn -= lines
        self._await_next_turn()

    def wait(self, output: OutputLog) -> None:
        """Continue this output in a later turn."""
        self._waiting.append(output)
        self._await_next_turn()

    def _await_next_turn(self) -> None:
        if self._next_turn is None:
            self._next_turn = self.clock.callLater(0, self._turn)

    def _turn(self) -> None:
        self._next_turn = None
        self._left_this_turn = LINES_A_TURN
        waiting, self._waiting = self._waiting, deque()
        for output in waiting:
            output.go_on()


class OutputLog:
    """An L{OutputLog} takes the output of one of a hook's pipes, and logs it."""

    def __init__(
        self, budget: LineBudget, model: str, hook: str, stream: str, level: Any
    ) -> None:
        """
        @param stream: C{stdout} or C{stderr}.
        @param level: the L{LogLevel} of the lines.
        """
        self._budget = budget
        self._model = model
        self._hook = hook
        self._stream = stream
        self._level = level
        self._lines = Lines()
        self._waits = False
        self._ended = False
        self._left_out = 0
        self._report: IDelayedCall | None = None

    def received(self, data: bytes) -> None:
        """Log the lines that these bytes complete, now or in a later turn."""
        self._lines.feed(data)
        if not self._waits:
            self.go_on()
        elif len(self._lines) > MOST_WAITING:
            self._leave_out(self._lines.skip())

    def ended(self) -> None:
        """Log what is left, because no process will write to the pipe any more."""
        self._ended = True
        if not self._waits:
            self.go_on()

    def go_on(self) -> None:
        """Log as many lines as this turn allows."""
        self._waits = False
        of_model = self._budget.of_model(self._model)
        if of_model <= 0:
            self._leave_out(self._lines.skip())
        else:
            most = min(self._budget.this_turn(), of_model)
            lines = self._lines.take(most) if most > 0 else []
            self._write(lines)
            if len(lines) >= most and len(self._lines):
                self._waits = True
                self._budget.wait(self)
                return
        if self._ended:
            self._write(self._lines.end())
            self._say_how_many_were_left_out()

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        self._budget.spend(self._model, len(lines))
        ring = self._budget.ring
        for line in lines:
            if ring is not None:
                ring.add(self._model, self._hook, self._stream, line)
            _log.emit(
                self._level,
                "{model} {hook} {stream}: {line}",
                model=self._model,
                hook=self._hook,
                stream=self._stream,
                line=line.decode("utf-8", "replace"),
            )

    def _leave_out(self, count: int) -> None:
        self._left_out += count
        if self._left_out and self._report is None:
            self._report = self._budget.clock.callLater(
                REPORT, self._say_how_many_were_left_out
            )

    def _say_how_many_were_left_out(self) -> None:
        if self._report is not None and self._report.active():
            self._report.cancel()
        self._report = None
        count, self._left_out = self._left_out, 0
        if count:
            _log.emit(
                self._level,
                "{model} {hook} {stream}: {count} lines left out",
                event="output_left_out",
                model=self._model,
                hook=self._hook,
                stream=self._stream,
                count=count,
            )
