"""
This module measures how much CPU time each turn of the reactor takes.

A turn is what happens between two polls: as long as a turn lasts, no other client is served.
The CPU time of the reactor's thread is taken, which other processes on the same machine do not
lengthen.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["LIMIT", "Turn", "TurnMeter", "watch_stacks"]

LIMIT = 0.1
"""A turn may take at most so many seconds of CPU."""

_WORTH_A_LOOK = 0.03
"""The stack of a turn is taken after so many seconds of CPU."""

_LOOKS_EVERY = 0.015
_DEEP = 14


Places = Sequence[tuple[str, int, str]]
"""Places in the source: file, line and function."""


@dataclass(frozen=True)
class Turn:
    """
    This turn has ended, or L{watch_stacks} has found it still under way.

    @ivar cpu: seconds of CPU of the reactor's thread.
    @ivar wall: seconds of time.
    @ivar at: the time at which the turn ended, or was looked at, by L{time.monotonic}.
    @ivar stack: what ran in the middle of the turn, as lines; empty if nobody looked.
    """

    cpu: float
    wall: float
    stack: str
    at: float = 0.0


class TurnMeter:
    """
    This object takes the place of an epoll object, and measures from each return of C{poll} to
    the next call.  Everything else goes to the object behind it.

    @ivar worst: the turn that took most CPU since L{start_anew}.
    @ivar count: the number of turns since L{start_anew}.
    """

    def __init__(self, epoll: Any, ended: Callable[[Turn], object] | None = None) -> None:
        """@param ended: is called with each turn that took longer than a third of L{LIMIT}."""
        self._epoll = epoll
        self._poll = epoll.poll
        self._ended = ended
        self.began_cpu: float | None = None
        self.began = 0.0
        self.places: Places = ()
        self.start_anew()

    def start_anew(self) -> None:
        """Forget all turns so far, with the time that the present turn has taken already."""
        self.worst = Turn(0.0, 0.0, "")
        self.count = 0
        if self.began_cpu is not None:
            self.began_cpu = time.thread_time()
            self.began = time.monotonic()
            self.places = ()

    def close_turn(self) -> None:
        """Note the end of the present turn, if there is one."""
        began = self.began_cpu
        if began is None:
            return
        cpu = time.thread_time() - began
        self.began_cpu = None
        self.count += 1
        if cpu > self.worst.cpu:
            now = time.monotonic()
            self.worst = Turn(cpu, now - self.began, _text(self.places), now)
            if self._ended is not None and cpu > LIMIT / 3:
                self._ended(self.worst)
        elif self._ended is not None and cpu > LIMIT:
            now = time.monotonic()
            self._ended(Turn(cpu, now - self.began, _text(self.places), now))
        self.places = ()

    def poll(self, *arguments: Any) -> Any:
        """See L{select.epoll.poll}."""
        self.close_turn()
        try:
            return self._poll(*arguments)
        finally:
            self.began = time.monotonic()
            self.began_cpu = time.thread_time()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


def _places(thread: int) -> Places:
    """
    Return where a thread is, the innermost place first.  No source is read here, because each
    read would have to wait for the thread that works, until its turn is over.
    """
    places: list[tuple[str, int, str]] = []
    # A reference to a frame keeps all that its variables hold, so it is kept as briefly as
    # possible.
    frame = sys._current_frames().get(thread)
    while frame is not None and len(places) < _DEEP:
        code = frame.f_code
        places.append((code.co_filename, frame.f_lineno or 0, code.co_name))
        frame = frame.f_back
    del frame
    return places


def _text(places: Places) -> str:
    return "".join(
        f'  File "{file}", line {line}, in {name}\n'
        f"    {linecache.getline(file, line).strip()}\n"
        for file, line, name in reversed(places)
    )


def watch_stacks(meter: TurnMeter, still_running: Callable[[Turn], object]) -> None:
    """
    Start a thread that looks at this thread, and keeps the stack of a turn that takes long, for
    L{Turn.stack}.

    @param still_running: is called once with a turn that has taken five seconds of CPU and has
        not ended; it is called in the other thread.
    """
    thread = threading.get_ident()
    clock = time.pthread_getcpuclockid(thread)

    def look() -> None:
        told: float | None = None
        while True:
            time.sleep(_LOOKS_EVERY)
            began = meter.began_cpu
            if began is None:
                continue
            cpu = time.clock_gettime(clock) - began
            if cpu < _WORTH_A_LOOK or (meter.places and cpu < 5):
                continue
            places = meter.places = _places(thread)
            if cpu >= 5 and told != began:
                told = began
                now = time.monotonic()
                still_running(Turn(cpu, now - meter.began, _text(places), now))

    threading.Thread(target=look, name=f"turns of {os.getpid()}", daemon=True).start()
