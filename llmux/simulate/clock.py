"""A clock for simulations: time goes where the next call is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

__all__ = ["HeapClock"]


@implementer(IDelayedCall)
class _Call:
    """
    A call to be made.

    @ivar turn: which entry of the heap is this call's; those before a reset
        are stale.  None when it has been made or cancelled.
    """

    __slots__ = ("arguments", "cancelled", "clock", "function", "keywords", "time", "turn")

    def __init__(
        self,
        clock: HeapClock,
        time: float,
        function: Callable[..., object],
        arguments: Sequence[Any],
        keywords: dict[str, Any],
    ) -> None:
        self.clock = clock
        self.time = time
        self.function = function
        self.arguments = arguments
        self.keywords = keywords
        self.turn: int | None = None
        self.cancelled = False

    def getTime(self) -> float:
        return self.time

    def active(self) -> bool:
        return self.turn is not None

    def cancel(self) -> None:
        self._must_be_active()
        self.cancelled = True
        self.turn = None
        self.clock._has_stale()

    def reset(self, secondsFromNow: float) -> None:
        self._must_be_active()
        self._move(self.clock.seconds() + secondsFromNow)

    def delay(self, secondsLater: float) -> None:
        self._must_be_active()
        self._move(self.time + secondsLater)

    def _move(self, time: float) -> None:
        self.time = time
        self.clock._push(self)
        self.clock._has_stale()

    def _must_be_active(self) -> None:
        if self.cancelled:
            raise AlreadyCancelled
        if self.turn is None:
            raise AlreadyCalled


@implementer(IReactorTime)
class HeapClock:
    """
    L{twisted.internet.task.Clock} for many calls: each costs O(log n), where
    that one sorts all of them anew.

    Calls are made in the order of their times, and those of one time in the
    order in which they were last scheduled or reset.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._heap: list[tuple[float, int, _Call]] = []
        self._turns = 0
        self._stale = 0

    def seconds(self) -> float:
        """The time, in seconds."""
        return self._now

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        """Call it C{delay} seconds from now."""
        if delay < 0:
            raise ValueError(f"a delay of {delay} s")
        call = _Call(self, self._now + delay, callable, args, kw)
        self._push(call)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """Those that have yet to be made, in no order."""
        return [call for _, turn, call in self._heap if call.turn == turn]

    def next_time(self) -> float | None:
        """When the next call is due; None if there is none."""
        heap = self._heap
        while heap:
            time, turn, call = heap[0]
            if call.turn == turn:
                return time
            heappop(heap)
            self._stale -= 1
        return None

    def step(self) -> bool:
        """
        Go to the next call and make it.  What it raises is raised here.

        @return: False if there is none.
        """
        heap = self._heap
        while heap:
            time, turn, call = heappop(heap)
            if call.turn != turn:
                self._stale -= 1
                continue
            call.turn = None
            if time > self._now:
                self._now = time
            call.function(*call.arguments, **call.keywords)
            return True
        return False

    def advance(self, seconds: float) -> None:
        """Make all calls that are due within C{seconds}, and go there."""
        end = self._now + seconds
        while (due := self.next_time()) is not None and due <= end:
            self.step()
        self._now = max(self._now, end)

    def _push(self, call: _Call) -> None:
        self._turns += 1
        call.turn = self._turns
        heappush(self._heap, (call.time, self._turns, call))

    def _has_stale(self) -> None:
        """An entry of the heap is of no more use; too many of them are thrown out."""
        self._stale += 1
        if self._stale > 64 and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].turn == entry[1]]
            heapify(self._heap)
            self._stale = 0
