"""This module has a clock for simulations, whose time jumps from call to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from math import inf

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

__all__ = ["HeapClock"]


@implementer(IReactorTime)
class HeapClock:
    """
    A L{HeapClock} is like L{twisted.internet.task.Clock}, but fast with many calls: scheduling
    a call costs O(log n), while C{Clock} sorts all calls anew.

    Calls are made in the order of their times. Calls for the same time are made
    in the order in which they were scheduled.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        # The time of an entry is that of its call, unless the call was moved since.
        self._heap: list[tuple[float, int, DelayedCall]] = []
        self._turns = 0
        self._stale = 0
        self._of_calls = (self._cancelled, self._moved, self.seconds)

    def seconds(self) -> float:
        """Return the time, in seconds."""
        return self._now

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        """
        Schedule a call for C{delay} seconds from now.

        @raise ValueError: the delay is negative.
        """
        if delay < 0:
            raise ValueError(f"a delay of {delay} s")
        time = self._now + delay
        call = DelayedCall(time, callable, args, kw, *self._of_calls)
        self._turns += 1
        heappush(self._heap, (time, self._turns, call))
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """Return the calls that have not been made yet, in no order."""
        return list({call: None for _, _, call in self._heap if call.active()})

    def next_time(self) -> float | None:
        """Return the time of the next call, in seconds; None if no call is scheduled."""
        heap = self._heap
        while heap:
            time, _, call = heap[0]
            if call.called or call.cancelled or call.time != time:
                heappop(heap)
                self._stale -= 1
            elif call.delayed_time:
                heappop(heap)
                call.activate_delay()
                self._push(call)
            else:
                return time
        return None

    def step(self, until: float = inf) -> bool:
        """
        Go to the time of the next call, and make that call.  What the call raises
        is raised here.

        @param until: no call that is due later is made.
        @return: False if no call is due.
        """
        time = self.next_time()
        if time is None or time > until:
            return False
        _, _, call = heappop(self._heap)
        if time > self._now:
            self._now = time
        call.called = 1
        call.func(*call.args, **call.kw)
        return True

    def advance(self, seconds: float) -> None:
        """Make all calls that are due within C{seconds}; the time is then C{seconds} later."""
        end = self._now + seconds
        while self.step(end):
            pass
        self._now = max(self._now, end)

    def _push(self, call: DelayedCall) -> None:
        self._turns += 1
        heappush(self._heap, (call.time, self._turns, call))

    def _moved(self, call: DelayedCall) -> None:
        """
        Add a call that is due earlier than before, so that its old entry is of no use any more.
        """
        self._push(call)
        self._count_stale()

    def _cancelled(self, call: DelayedCall) -> None:
        # DelayedCall sets this itself, but only after this method has returned.
        call.cancelled = 1
        self._count_stale()

    def _count_stale(self) -> None:
        """Remove the entries that are of no use if they are more than the others."""
        self._stale += 1
        if self._stale > 64 and self._stale * 2 > len(self._heap):
            self._heap = [
                entry for entry in self._heap if entry[2].time == entry[0] and entry[2].active()
            ]
            heapify(self._heap)
            self._stale = 0
