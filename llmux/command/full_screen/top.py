"""
C{llmux top} shows in a terminal what the page shows in a browser.

A thread asks the daemon for its status, so that the keyboard works even if the daemon hangs;
each command has a thread of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from threading import Event, Lock, Thread
from typing import Any

from llmux.command.full_screen.held_lanes import SeenHistory
from llmux.command.full_screen.terminal import Screen
from llmux.command.full_screen.top_frame import LANE_SECS, cut, frame_lines, wrap
from llmux.command.full_screen.top_keys import KEYS_LINE, GivenCommand, TopKeys
from llmux.command.link.daemon_link import CommandRefused, DaemonLink, NotReachable
from llmux.command.words.styles import Styled, paint, wants_colour

__all__ = ["run_top"]

_POLL_SECS = 0.5
_HISTORY_SECS = 60.0
_ANSWER_SECS = 5.0
_SILENCE_SECS = 8.0
_TOLD_SECS = 8.0


def run_top(link: DaemonLink) -> int:
    """
    Show what goes on until the user quits; or once, if there is no terminal.

    @return: the exit status.
    """
    status = link.ask("GET", "/llmux/status")
    history = SeenHistory()
    _load_history(link, history)
    history.note(status)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if not is_terminal or os.environ.get("TERM", "dumb") == "dumb":
        colour = wants_colour()
        width = shutil.get_terminal_size((100, 24)).columns
        for line in frame_lines(status, history, width=width, height=None, colour=colour):
            print(paint(line, colour).rstrip())
        return 0
    with Screen() as screen:
        return _Top(link, screen, status, history).run()


def _load_history(link: DaemonLink, history: SeenHistory) -> None:
    try:
        history.load(link.ask("GET", f"/llmux/history?secs={LANE_SECS:.0f}"))
    except CommandRefused:
        # This llmux keeps no history; the lanes show what is seen from now on.
        pass


class _Top:
    """A L{_Top} shows a daemon in a terminal."""

    def __init__(
        self, link: DaemonLink, screen: Screen, status: Any, history: SeenHistory
    ) -> None:
        self._link = link
        self._screen = screen
        self._history = history
        self._keys = TopKeys()
        self._lock = Lock()
        # The attributes below are shared by the threads, under the lock.
        self._status = status
        self._heard = time.time()
        self._lost: str | None = None
        self._told: tuple[float, Styled] | None = None
        self._failure: CommandRefused | None = None
        self._soon = Event()

    def run(self) -> int:
        """Show frames until the user quits."""
        Thread(target=self._follow, daemon=True).start()
        colour = wants_colour()
        while not self._keys.is_over:
            with self._lock:
                if self._failure is not None:
                    raise self._failure
                status, lost = self._status, self._lost
                if lost is None and time.time() - self._heard > _SILENCE_SECS:
                    lost = self._not_connected("No answer")
            self._keys.see(status)
            try:
                self._screen.draw(self._frame(status, lost, colour), colour)
                for key in self._screen.wait(1.0):
                    command = self._keys.press(key, status)
                    if command is not None:
                        Thread(target=self._tell, args=(command,), daemon=True).start()
            except (EOFError, OSError):
                # The terminal has been closed, so that no message can be shown.
                return 1
        return 0

    def _frame(self, status: Any, lost: str | None, colour: bool) -> list[list[Styled]]:
        width, height = self._screen.size
        foot = self._foot(width)
        with self._lock:
            lines = frame_lines(
                status,
                self._history,
                width=width,
                height=max(1, height - len(foot)),
                colour=colour,
                selected=self._keys.selected,
                lost=lost,
            )
        return (lines + foot)[:height]

    def _foot(self, width: int) -> list[list[Styled]]:
        if self._keys.question is not None:
            question = [Styled(self._keys.question, "warn"), Styled(" y/n", "strong")]
            return list(wrap(question, width))
        told = self._told
        if told is not None and time.monotonic() - told[0] < _TOLD_SECS:
            return list(wrap([told[1]], width))
        return [cut(KEYS_LINE, width)]

    def _not_connected(self, why: str) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(self._heard))
        return f"Not connected since {since}. {why}"

    # ------------------------------------------------------------- in other threads

    def _follow(self) -> None:
        loaded = time.monotonic()
        while True:
            try:
                status = self._link.ask("GET", "/llmux/status", timeout=_ANSWER_SECS)
                fresh = None
                if self._lost is not None or time.monotonic() - loaded > _HISTORY_SECS:
                    loaded = time.monotonic()
                    fresh = SeenHistory()
                    _load_history(self._link, fresh)
                with self._lock:
                    self._status, self._lost, self._heard = status, None, time.time()
                    self._history = self._history if fresh is None else fresh
                    self._history.note(status)
            except (NotReachable, TimeoutError) as e:
                why = str(e) or "no answer"
                with self._lock:
                    self._lost = self._not_connected(f"{why[:1].upper()}{why[1:]}")
            except CommandRefused as e:
                if e.status in (401, 403, 404):
                    with self._lock:
                        self._failure = e
                    self._screen.wake()
                    return
            self._screen.wake()
            self._soon.wait(_POLL_SECS)
            self._soon.clear()

    def _tell(self, command: GivenCommand) -> None:
        what = " ".join(
            [command.verb, *([command.body["model"]] if "model" in command.body else [])]
        )
        self._say(Styled(f"{what}: told", "busy"))
        try:
            self._link.ask("POST", f"/llmux/{command.verb}", command.body, timeout=None)
            self._say(Styled(f"{what}: done", "good"))
        except (CommandRefused, NotReachable, TimeoutError) as e:
            self._say(Styled(f"{what}: {e}", "bad"))

    def _say(self, text: Styled) -> None:
        self._told = (time.monotonic(), text)
        self._soon.set()
        self._screen.wake()
