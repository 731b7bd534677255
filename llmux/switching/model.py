"""Requests that wait for a model, and requests that are in flight to one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from llmux.interfaces import WaitingRequest
from llmux.monitoring.metrics import Histogram
from llmux.switching.backoff import Backoff

__all__ = ["InFlightGuard", "ModelQueue", "Waiter"]

INFINITY = float("inf")


class GuardOwner(Protocol):
    """Who is told that a guard was released."""

    def guard_released(self, guard: InFlightGuard, answered: bool) -> None:
        """The guard is held no longer."""


class InFlightGuard:
    """
    The right to be in flight to a model's backend: while one is held, the
    model is not put to sleep (draining on).

    @ivar model: the model's name.
    @ivar forwarded: when it was given; None if nobody wanted to know.
    @ivar on_abort: called with the reason when the exchange must end now.  It
        aborts the exchange and lets the guard go.
    @ivar may_wait_again: when L{on_abort} is called: the backend is to blame,
        so a request whose client has seen nothing yet may wait for another
        turn.
    """

    __slots__ = (
        "_issuer",
        "forwarded",
        "may_wait_again",
        "model",
        "on_abort",
        "queue",
        "request",
    )

    def __init__(
        self, issuer: GuardOwner, queue: ModelQueue, request: int, forwarded: float | None
    ) -> None:
        self._issuer: GuardOwner | None = issuer
        self.queue = queue
        self.forwarded = forwarded
        self.model = queue.name
        self.request = request
        self.on_abort: Callable[[str], None] | None = None
        self.may_wait_again = False

    @property
    def released(self) -> bool:
        """It is held no longer."""
        return self._issuer is None

    def release(self, answered: bool = True) -> None:
        """
        The exchange is over.  A second call does nothing.

        @param answered: the backend's reply arrived whole.
        """
        issuer = self._issuer
        if issuer is not None:
            self._issuer = None
            self.on_abort = None
            issuer.guard_released(self, answered)


class Waiter(WaitingRequest):
    """A request that waits, and the Deferred of its guard."""

    __slots__ = ("deferred", "guard", "queue", "timer")

    def __init__(
        self,
        queue: ModelQueue,
        request: int,
        arrived: float,
        cancelled: Callable[[Waiter], None],
    ) -> None:
        super().__init__(queue.name, request, arrived)
        self.queue = queue
        self.guard: InFlightGuard | None = None
        self.timer: IDelayedCall | None = None
        self.deferred: Deferred[InFlightGuard] = Deferred(lambda _: cancelled(self))

    def stop_timer(self) -> None:
        """Its time limit no longer matters."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class ModelQueue:
    """
    One model's waiters and guards.

    @ivar waiters: by request number, oldest first.
    @ivar open: it is awake and takes requests; then nobody waits.
    @ivar woke_at: when it last woke.
    @ivar answered: it has completed a request since then.
    @ivar backoff: when it may be woken again after it has failed.
    @ivar waited: how long its requests waited.
    """

    __slots__ = (
        "_epoch",
        "_sum",
        "_sum_of_squares",
        "answered",
        "backoff",
        "guards",
        "name",
        "open",
        "waited",
        "waiters",
        "woke_at",
    )

    def __init__(self, name: str, waited: Histogram) -> None:
        self.name = name
        self.waiters: OrderedDict[int, Waiter] = OrderedDict()
        self.guards: set[InFlightGuard] = set()
        self.open = False
        self.backoff = Backoff()
        self.answered = False
        self.woke_at = 0.0
        self.waited = waited
        self._epoch = self._sum = self._sum_of_squares = 0.0

    def enqueue(self, waiter: Waiter) -> None:
        """It waits.  One that has waited before goes in front of those who came after it."""
        waiters = self.waiters
        goes_first = False
        if waiters:
            goes_first = waiter.arrived < self.oldest()
        else:
            # Ages are summed from a near origin: squares of times since 1970
            # would leave no digits for the seconds that matter.
            self._epoch = waiter.arrived
            self._sum = self._sum_of_squares = 0.0
        waiters[waiter.request] = waiter
        if goes_first:
            waiters.move_to_end(waiter.request, last=False)
        self._count(waiter.arrived, 1)

    def dequeue(self, waiter: Waiter) -> None:
        """It waits no longer."""
        del self.waiters[waiter.request]
        self._count(waiter.arrived, -1)

    def take_waiters(self) -> list[Waiter]:
        """All of them, oldest first; none waits any longer."""
        taken = list(self.waiters.values())
        self.waiters.clear()
        for waiter in taken:
            waiter.stop_timer()
        return taken

    def oldest(self) -> float:
        """When the first of them arrived; infinity if nobody waits."""
        waiters = self.waiters
        return next(iter(waiters.values())).arrived if waiters else INFINITY

    def sum_of_ages(self, now: float) -> float:
        """With n waiters and S1 the sum of their arrivals: n now - S1."""
        return len(self.waiters) * (now - self._epoch) - self._sum

    def sum_of_squared_ages(self, now: float) -> float:
        """With S2 the sum of the squares of their arrivals: n now^2 - 2 now S1 + S2."""
        since = now - self._epoch
        return len(self.waiters) * since * since - 2 * since * self._sum + self._sum_of_squares

    def _count(self, arrived: float, sign: int) -> None:
        offset = arrived - self._epoch
        self._sum += sign * offset
        self._sum_of_squares += sign * offset * offset
