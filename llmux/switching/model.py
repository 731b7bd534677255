"""
One model: its phase, the requests that wait for it, and those in flight to it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from llmux.interfaces import Needs, WaitingRequest
from llmux.monitoring.metrics import Histogram
from llmux.switching.backoff import Backoff
from llmux.switching.capacity import all_places
from llmux.switching.phases import Event, Phase, step
from llmux.switching.settings import ModelSettings

__all__ = ["INFINITY", "InFlightGuard", "Model", "Waiter"]

INFINITY = float("inf")


class GuardOwner(Protocol):
    """The owner of guards is told when one of them is released."""

    def guard_released(self, guard: InFlightGuard, answered: bool) -> None:
        """The guard is held no longer."""


class InFlightGuard:
    """
    The right to be in flight to a model's backend: while one is held, the
    model is not put to sleep (draining on).

    @ivar model: the model's name.
    @ivar state: the model itself.
    @ivar forwarded: when it was given; None if nobody wanted to know.
    @ivar on_abort: called with the reason when the exchange must end now.  It
        aborts the exchange and lets the guard go.
    @ivar may_wait_again: when L{on_abort} is called: the backend is to blame,
        so a request whose client has seen nothing yet may wait for another
        turn.
    @ivar holder: whoever holds the guard, for who looks; until the guard is released.
        May be left unset.
    """

    __slots__ = (
        "_issuer",
        "forwarded",
        "holder",
        "may_wait_again",
        "model",
        "on_abort",
        "request",
        "state",
    )

    holder: object | None

    def __init__(
        self, issuer: GuardOwner, state: Model, request: int, forwarded: float | None
    ) -> None:
        self._issuer: GuardOwner | None = issuer
        self.state = state
        self.forwarded = forwarded
        self.model = state.name
        self.request = request
        self.on_abort: Callable[[str], None] | None = None
        self.may_wait_again = False

    @property
    def released(self) -> bool:
        """The guard is held no longer."""
        return self._issuer is None

    def release(self, answered: bool = True) -> None:
        """
        The exchange is over.  A second call does nothing.

        @param answered: the backend's reply arrived whole.
        """
        issuer = self._issuer
        if issuer is not None:
            self._issuer = None
            self.on_abort = self.holder = None
            issuer.guard_released(self, answered)


class Waiter(WaitingRequest):
    """A request that waits, and the Deferred of its guard."""

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
        """Forget the request's time limit."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Model:
    """
    One model, from the switcher's point of view.

    @ivar name: its name in the configuration.
    @ivar settings: what is particular to it.
    @ivar phase: where in its life it is.
    @ivar since: when it came to this phase.
    @ivar place: the number of the place where it is; None if it is asleep, or
        nobody knows.
    @ivar open: it is awake and gives guards at once; then nobody waits.
    @ivar guards: of the requests that are in flight to it.
    @ivar woke_at: when it last woke.
    @ivar answered: it has completed a request since then.
    @ivar wake_began: when its last wake began; None if llmux has begun none.
    @ivar said_yes: C{alive} has said yes since the last wake began.
    @ivar wake_backoff: until when it is not woken, because it has failed.
    @ivar sleep_backoff: until when it is not put to sleep, because its sleep
        hook has failed.
    @ivar busy: one of the stories moves this model now.
    @ivar next_settings: what is particular to it from its next sleep on; None if nothing
        has changed.
    @ivar leaving: the model is no longer configured: it gives no guards, and is forgotten
        when it is asleep.
    @ivar doubts: Deferreds of those whose requests its backend did not
        answer; each fires with True if the model is found dead.
    @ivar waited: how long its requests waited.
    @ivar stepped: called with the model after each step.
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
        # Oldest first: (arrival, request number).
        self._order: list[tuple[float, int]] = []
        self._epoch = self._sum = self._sum_of_squares = 0.0

    def step(self, event: Event, now: float) -> None:
        """
        Something has happened to the model.

        @raise ImpossibleEvent: it cannot happen in the present phase.
        """
        self.phase = step(self.phase, event)
        self.since = now
        self.open = False
        if self.stepped is not None:
            self.stepped(self)

    def configure(self, settings: ModelSettings) -> None:
        """
        This is particular to the model from now on, as far as that does not concern what
        it was woken with; the rest when it is asleep.
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
        """Nothing is left of how the model was woken: what has been configured holds."""
        if self.next_settings is not None:
            self.settings, self.next_settings = self.next_settings, None

    def is_let_go(self) -> None:
        """No story moves the model any more."""
        self.busy = False
        if self.phase is Phase.ASLEEP:
            self.is_asleep()

    @property
    def needs(self) -> Needs:
        """What the model holds, if it is not asleep."""
        places = self.settings.places
        return all_places(places) if self.place is None else places[self.place]

    def may_sleep_from(self, min_active: float) -> float:
        """The time from which the model, which is awake, may be put to sleep for another."""
        if self.settings.always:
            return INFINITY
        return max(self.woke_at + min_active, self.sleep_backoff.until)

    # ------------------------------------------------------------ its waiters

    @property
    def waiting(self) -> int:
        """How many requests wait for the model."""
        return len(self._order)

    def waiters(self) -> Iterable[Waiter]:
        """The requests that wait, oldest first."""
        return (self._waiters[request] for _, request in self._order)

    def waits(self, waiter: Waiter) -> bool:
        """The request is among those that wait."""
        return waiter.request in self._waiters

    def enqueue(self, waiter: Waiter) -> None:
        """The request waits; its place in the queue is by when it first arrived."""
        if not self._order:
            # Ages are summed from a near origin: squares of times since 1970
            # would leave no digits for the seconds that matter.
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
        """The request waits no longer."""
        del self._waiters[waiter.request]
        del self._order[bisect_left(self._order, (waiter.arrived, waiter.request))]
        self._count(waiter.arrived, -1)

    def take_waiters(self) -> list[Waiter]:
        """All that wait, oldest first; afterwards none does."""
        taken = list(self.waiters())
        self._waiters.clear()
        self._order.clear()
        for waiter in taken:
            waiter.stop_timer()
        return taken

    def oldest(self) -> float:
        """When the first of the waiters arrived; infinity if nobody waits."""
        return self._order[0][0] if self._order else INFINITY

    def sum_of_ages(self, now: float) -> float:
        """The sum of the waiters' ages: n now - S1, with S1 the sum of n arrivals."""
        return len(self._order) * (now - self._epoch) - self._sum

    def sum_of_squared_ages(self, now: float) -> float:
        """
        The sum of the squares of the waiters' ages: n now^2 - 2 now S1 + S2,
        with S1 the sum of n arrivals and S2 the sum of their squares.
        """
        since = now - self._epoch
        return len(self._order) * since * since - 2 * since * self._sum + self._sum_of_squares

    def _count(self, arrived: float, sign: int) -> None:
        offset = arrived - self._epoch
        self._sum += sign * offset
        self._sum_of_squares += sign * offset * offset
