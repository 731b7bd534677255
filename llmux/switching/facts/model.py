"""
This module has one model: its phase, the requests that wait for it, and those in flight to it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import Protocol

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from llmux.interfaces import Needs, WaitingRequest
from llmux.monitoring.metrics import Histogram
from llmux.switching.facts.backoff import Backoff
from llmux.switching.facts.capacity import all_places
from llmux.switching.facts.phases import Event, Phase, step
from llmux.switching.facts.settings import ModelSettings

__all__ = ["INFINITY", "InFlightGuard", "Model", "Waiter"]

INFINITY = float("inf")


class GuardOwner(Protocol):
    """A L{GuardOwner} is told when one of its guards is released."""

    def guard_released(self, guard: InFlightGuard, answered: bool, now: float | None) -> None:
        """
        Note that a guard is not held any more.

        @param now: the time, if the holder of the guard has told it.
        """


class InFlightGuard:
    """
    A guard is the right of one request to be in flight to a model's backend: while a guard is
    held, the model is not put to sleep (if requests are drained).

    @ivar state: the model itself.
    @ivar request: the number of the request.
    @ivar forwarded: when the guard was given; None if no listener wanted to know.
    @ivar on_abort: a function that is called with the reason when the exchange must end now.
        The function aborts the exchange and releases the guard.
    @ivar may_wait_again: whether, when L{on_abort} is called, the backend is at fault, so that
        a request whose client has got nothing yet may wait for another turn.
    @ivar holder: the object that holds the guard, until the guard is released, for lists of
        requests; None if nobody has said.
    """

    __slots__ = (
        "_issuer",
        "forwarded",
        "holder",
        "may_wait_again",
        "on_abort",
        "request",
        "state",
    )

    def __init__(
        self, issuer: GuardOwner, state: Model, request: int, forwarded: float | None
    ) -> None:
        self._issuer: GuardOwner | None = issuer
        self.state = state
        self.request = request
        self.forwarded = forwarded
        self.on_abort: Callable[[str], None] | None = None
        self.may_wait_again = False
        self.holder: object | None = None

    @property
    def model(self) -> str:
        """The model's name."""
        return self.state.name

    @property
    def released(self) -> bool:
        """Tell whether the guard is not held any more."""
        return self._issuer is None

    def release(self, answered: bool = True, now: float | None = None) -> None:
        """
        Release the guard, because the exchange is over.  A second call does nothing.

        @param answered: whether the whole reply of the backend has come.
        @param now: the time on the switcher's clock, if the caller has just read it.
        """
        issuer = self._issuer
        if issuer is not None:
            self._issuer = self.on_abort = self.holder = None
            issuer.guard_released(self, answered, now)


class Waiter(WaitingRequest):
    """A L{Waiter} is a request that waits, with the Deferred of its guard."""

    __slots__ = ("deferred", "guard", "state", "timer")

    def __init__(
        self,
        state: Model,
        request: int,
        arrived: float,
        cancelled: Callable[[Waiter], None],
    ) -> None:
        super().__init__(state.name, request, arrived)
        self.state = state
        self.guard: InFlightGuard | None = None
        self.timer: IDelayedCall | None = None
        self.deferred: Deferred[InFlightGuard] = Deferred(lambda _: cancelled(self))

    def stop_timer(self) -> None:
        """Cancel the request's time limit."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Model:
    """
    A L{Model} is one model, as the switcher sees it.

    @ivar name: the name in the configuration.
    @ivar settings: the settings of this model.
    @ivar phase: the phase of the model's life.
    @ivar since: when the model came to this phase.
    @ivar place: the number of the place where the model is; None if it is asleep, or if that is
        not known.
    @ivar open: whether the model is awake and requests get guards at once; then no request
        waits.
    @ivar guards: the guards of the requests that are in flight to the model.
    @ivar woke_at: when the model last woke.
    @ivar answered: whether the model has completed a request since then.
    @ivar wake_began: when the last wake began; None if llmux has begun none.
    @ivar said_yes: whether C{alive} has said yes since the last wake began.
    @ivar wake_backoff: the pause in which the model is not woken, because it has failed.
    @ivar sleep_backoff: the pause in which the model is not put to sleep, because its sleep
        hook has failed.
    @ivar busy: whether a story moves this model now.
    @ivar next_settings: the settings of this model from its next sleep on; None if nothing has
        changed.
    @ivar leaving: whether the model is not configured any more; then requests get no guards,
        and the model is forgotten when it is asleep.
    @ivar doubts: the Deferreds of requests that the backend did not answer; each fires with
        True if the backend is found dead.
    @ivar waited: the histogram of the times that requests waited.
    @ivar stepped: a function that is called with the model after each step.
    """

    __slots__ = (
        "_epoch",
        "_order",
        "_sum",
        "_sum_of_squares",
        "_waiters",
        "answered",
        "busy",
        "doubts",
        "guards",
        "leaving",
        "name",
        "next_settings",
        "open",
        "phase",
        "place",
        "said_yes",
        "settings",
        "since",
        "sleep_backoff",
        "stepped",
        "waited",
        "wake_backoff",
        "wake_began",
        "woke_at",
    )

    def __init__(self, name: str, settings: ModelSettings, waited: Histogram) -> None:
        self.name = name
        self.settings = settings
        self.phase = Phase.UNKNOWN
        self.since = 0.0
        self.place: int | None = None
        self.open = False
        self.guards: set[InFlightGuard] = set()
        self.woke_at = 0.0
        self.answered = False
        self.wake_began: float | None = None
        self.said_yes = False
        self.wake_backoff = Backoff()
        self.sleep_backoff = Backoff()
        self.busy = False
        self.doubts: list[Deferred[bool]] = []
        self.leaving = False
        self.next_settings: ModelSettings | None = None
        self.waited = waited
        self.stepped: Callable[[Model], None] | None = None
        self._waiters: dict[int, Waiter] = {}
        # (arrival, request number) of each waiter, the oldest first.
        self._order: list[tuple[float, int]] = []
        self._epoch = self._sum = self._sum_of_squares = 0.0

    def step(self, event: Event, now: float) -> None:
        """
        Change the phase of the model, because something has happened to it.

        @raise ImpossibleEvent: the event cannot happen in the present phase.
        """
        self.phase = step(self.phase, event)
        self.since = now
        self.close_to_requests()
        if self.stepped is not None:
            self.stepped(self)

    def open_to_requests(self) -> None:
        """Let requests have guards at once, from now on until the model's next step."""
        self.open = True

    def close_to_requests(self) -> None:
        """Give no request a guard at once any more."""
        self.open = False

    def configure(self, settings: ModelSettings) -> None:
        """
        Set the settings of the model.  Those with which the model was woken change only when it
        is asleep.
        """
        self.next_settings = None
        if self.phase is Phase.ASLEEP and not self.busy:
            self.settings = settings
            return
        if settings != self.settings:
            self.next_settings = settings
            self.settings = replace(
                self.settings, always=settings.always, idle_sleep=settings.idle_sleep
            )

    def is_asleep(self) -> None:
        """
        Apply the settings that were configured while the model was awake, because it is asleep
        now.
        """
        if self.next_settings is not None:
            self.settings, self.next_settings = self.next_settings, None

    def is_let_go(self) -> None:
        """Note that no story moves the model any more."""
        self.busy = False
        if self.phase is Phase.ASLEEP:
            self.is_asleep()

    @property
    def needs(self) -> Needs:
        """Return what the model holds, if it is not asleep."""
        places = self.settings.places
        return all_places(places) if self.place is None else places[self.place]

    def may_sleep_from(self, min_active: float) -> float:
        """
        Return the time from which the model, which is awake, may be put to sleep for another.
        """
        if self.settings.always:
            return INFINITY
        return max(self.woke_at + min_active, self.sleep_backoff.until)

    # ------------------------------------------------------------ its waiters

    @property
    def waiting(self) -> int:
        """Return how many requests wait for the model."""
        return len(self._order)

    def waiters(self) -> Iterable[Waiter]:
        """Yield the requests that wait, the oldest first."""
        return (self._waiters[request] for _, request in self._order)

    def waits(self, waiter: Waiter) -> bool:
        """Tell whether the request is among those that wait."""
        return waiter.request in self._waiters

    def enqueue(self, waiter: Waiter) -> None:
        """Put a request into the queue, by the time when it first arrived."""
        if not self._order:
            # Ages are summed from an origin that is near, because the squares of times since
            # 1970 are so large that no digits would be left for seconds.
            self._epoch = waiter.arrived
            self._sum = self._sum_of_squares = 0.0
        place = waiter.arrived, waiter.request
        if self._order and place < self._order[-1]:
            insort(self._order, place)
        else:
            self._order.append(place)
        self._waiters[waiter.request] = waiter
        self._count(waiter.arrived, 1)

    def dequeue(self, waiter: Waiter) -> None:
        """Remove a request that does not wait any more."""
        del self._waiters[waiter.request]
        del self._order[bisect_left(self._order, (waiter.arrived, waiter.request))]
        self._count(waiter.arrived, -1)

    def take_waiters(self) -> list[Waiter]:
        """Remove and return all requests that wait, the oldest first."""
        taken = list(self.waiters())
        self._waiters.clear()
        self._order.clear()
        for waiter in taken:
            waiter.stop_timer()
        return taken

    def oldest(self) -> float:
        """Return when the first of the waiters arrived; infinity if no request waits."""
        return self._order[0][0] if self._order else INFINITY

    def sum_of_ages(self, now: float) -> float:
        """
        Return the sum of the waiters' ages, in seconds: n now - S1, with S1 the sum of n
        arrivals.
        """
        return len(self._order) * (now - self._epoch) - self._sum

    def sum_of_squared_ages(self, now: float) -> float:
        """
        Return the sum of the squares of the waiters' ages, in square seconds: n now^2 - 2 now
        S1 + S2, with S1 the sum of n arrivals and S2 the sum of their squares.
        """
        since = now - self._epoch
        return len(self._order) * since * since - 2 * since * self._sum + self._sum_of_squares

    def _count(self, arrived: float, sign: int) -> None:
        offset = arrived - self._epoch
        self._sum += sign * offset
        self._sum_of_squares += sign * offset * offset
