"""
This module has the requests of a switcher: those that wait for a model, and those that are in
flight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from llmux.errors import HookFailed, ModelNotFound, NotReady, SwitchError, SwitchTimeout
from llmux.interfaces import Arrived, Completed, Forwarded, Left, LeftReason, Phase
from llmux.switching.decisions.listeners import Listeners
from llmux.switching.facts.model import InFlightGuard, Model, Waiter
from llmux.switching.stories.shutdown import SHUTTING_DOWN, TRY_AGAIN, Shutdown
from llmux.switching.wishes.errands import Steered
from llmux.switching.wishes.idleness import Idleness
from llmux.switching.wishes.steering import Steering

__all__ = ["Requests"]


class Asked(Steered, Protocol):
    """This protocol is what requests need of the switcher, beyond what commands need."""

    @property
    def steering(self) -> Steering: ...
    @property
    def idleness(self) -> Idleness: ...

    def is_admitted(self, waiter: Waiter, now: float) -> bool:
        """Tell whether the policy admits a request that arrives for a model that drains."""

    def begins_to_wait(self) -> None:
        """Note that a request has begun to wait."""

    def depends_on(self, model: Model) -> bool:
        """
        Tell whether the policy's answer may be another because this model has run out of
        requests, or has one again.
        """

    def begins_to_serve(self, model: Model) -> None:
        """Note that the model takes requests from now on."""


class Requests:
    """
    L{Requests} give guards: at once for a model that is awake, and to waiters when their model
    wakes.

    @ivar wanted: the models that requests wait for, in the order in which that began.
    @ivar latest: the number of the request that was the last to ask for a guard.
    """

    _log = Logger()

    def __init__(
        self,
        stage: Asked,
        models: Mapping[str, Model],
        listeners: Listeners,
        shutdown: Shutdown,
    ) -> None:
        """
        @param models: all models; this mapping is changed elsewhere.
        """
        self.wanted: dict[str, Model] = {}
        self.latest = 0
        self._stage = stage
        self._seconds = stage.clock.seconds
        self._models = models
        self._listeners = listeners
        self._shutdown = shutdown
        self._stories = stage.stories

    @property
    def in_flight(self) -> bool:
        """Tell whether any guard is held."""
        return any(model.guards for model in self._models.values())

    def acquire_now(self, model: str) -> InFlightGuard | None:
        """
        Return a guard if the model is awake and takes requests, else None.

        @raise ModelNotFound: no model has this name.
        """
        found = self._models.get(model)
        if found is None:
            raise ModelNotFound(model)
        if not found.open:
            return None
        # If a model was idle and is busy again, the policy may decide otherwise.
        asks = self.wanted and not found.guards and self._stage.depends_on(found)
        if asks and not self._stage.settings.drain_before_switch:
            # If nothing is drained, a switch that begins because of this request would put the
            # model to sleep while the request is on its way, so the policy is asked first.
            self._stage.consider()
            asks = False
            if not found.open:
                return None
        listeners = self._listeners
        seconds = self._seconds
        now = seconds() if listeners.of_requests else None
        self.latest = request = self.latest + 1
        found.waited.counts[0] += 1
        guard = InFlightGuard(self, found, request, now)
        found.guards.add(guard)
        if now is not None:
            listeners.tell(Forwarded(now, model, request, 0.0))
        if asks:
            self._stage.consider()
        return guard

    def acquire(
        self, model: str, *, arrived: float | None = None, retry: bool = False
    ) -> Deferred[InFlightGuard]:
        """
        Return a guard as soon as the model is awake and takes requests.  The Deferred must be
        cancelled when the client leaves.

        @param arrived: when the request first arrived, on the switcher's clock; None for now.
            The time limit counts from this time.
        @param retry: whether the request has had a guard before, and its backend failed.

        @return: a Deferred that fails with a L{SwitchError} if there will be no guard.
        """
        # A request that is refused has a number of its own as well, by which it is shown.
        self.latest = request = self.latest + 1
        found = self._models.get(model)
        if found is None or found.leaving:
            return fail(ModelNotFound(model))
        if found.open:
            guard = self.acquire_now(model)
            if guard is not None:
                return succeed(guard)
        if self._shutdown.begun:
            return fail(NotReady(model, SHUTTING_DOWN, TRY_AGAIN))
        if self._stage.steering.errands.asks:
            refusal = self._stage.steering.refusal(found)
            if refusal is not None:
                return fail(refusal)
        now = self._stage.clock.seconds()
        waiter = Waiter(found, request, now if arrived is None else arrived, self._cancelled)
        limit = self._stage.settings.request_timeout
        if limit is not None and waiter.arrived + limit <= now:
            return fail(self._timed_out(waiter, limit))
        if not retry:
            self._listeners.tell(Arrived(now, model, request))
        if found.phase is Phase.DRAINING and self._stage.is_admitted(waiter, now):
            waiter.deferred.callback(self._guard(waiter, now))
            self._stage.consider()
            return waiter.deferred
        if limit is not None:
            waiter.timer = self._stage.clock.callLater(
                waiter.arrived + limit - now, self._expired, waiter, limit
            )
        is_news = not self._is_awaited(found)
        found.enqueue(waiter)
        self.wanted.setdefault(model, found)
        if is_news:
            self._stage.begins_to_wait()
        return waiter.deferred

    def _guard(self, waiter: Waiter, now: float) -> InFlightGuard:
        model = waiter.state
        guard = InFlightGuard(self, model, waiter.request, now)
        model.guards.add(guard)
        waited = now - waiter.arrived
        model.waited.observe(waited)
        self._listeners.tell(Forwarded(now, model.name, waiter.request, waited))
        return guard

    def guard_released(self, guard: InFlightGuard, answered: bool, now: float | None) -> None:
        """Note that an exchange is over."""
        model = guard.state
        model.guards.discard(guard)
        if answered and not model.answered:
            model.answered = True
            model.wake_backoff.reset()
        listeners = self._listeners
        if listeners.of_requests:
            if now is None:
                now = self._seconds()
            forwarded = guard.forwarded
            service = 0.0 if forwarded is None else now - forwarded
            listeners.tell(Completed(now, model.name, guard.request, service, answered))
        if self._stage.idleness.counts and not model.guards:
            self._stage.idleness.emptied(model)
        if self.wanted:
            if not model.guards and self._stage.depends_on(model):
                self._stage.consider()
        elif self._stories or self._shutdown.begun or model.leaving:
            # A drain may have come to its end although no request waits, or llmux stops, or
            # the model is to be forgotten.
            self._stage.consider()

    def serve(self, model: Model) -> None:
        """Let the model take requests, and give all its waiters their guards in this turn."""
        if self._shutdown.begun or model.leaving:
            return
        now = self._stage.clock.seconds()
        model.open_to_requests()
        self._stage.begins_to_serve(model)
        self.wanted.pop(model.name, None)
        waiters = model.take_waiters()
        for waiter in waiters:
            waiter.guard = self._guard(waiter, now)
        # All waiters are called before the policy is asked, because a decision could close the
        # model in between.
        with self._stage.holding_questions():
            for waiter in waiters:
                # A waiter that another waiter's callback has cancelled has given its guard
                # back.
                guard, waiter.guard = waiter.guard, None
                if guard is not None and not waiter.deferred.called:
                    waiter.deferred.callback(guard)
            self._stage.steering.errands.served(model)
        self._stage.idleness.serves(model)

    def refuse(self, model: Model, error: SwitchError) -> None:
        """Fail the model's waiters with this error."""
        now = self._stage.clock.seconds()
        self.wanted.pop(model.name, None)
        waiters = model.take_waiters()
        for waiter in waiters:
            self._left(waiter, LeftReason.FAILED, now)
        for waiter in waiters:
            if not waiter.deferred.called:
                waiter.deferred.errback(error)
        if isinstance(error, HookFailed):
            self._stage.steering.errands.not_woken(model, error)

    def others_wait(self, model: str) -> bool:
        """
        Tell whether requests wait until this model has finished what it has in flight: those of
        models that need its room, and its own while it drains.
        """
        found = self._models[model]
        if found.phase is Phase.DRAINING and found.waiting:
            return True
        return bool(self.who_waits_for_room_of(found))

    def who_waits_for_room_of(self, model: Model) -> Sequence[str]:
        """
        Return the names of the models that requests wait for and that want what this model
        holds.  A model that has been given room elsewhere does not.
        """
        held = self._stage.capacity.held(model.name)
        elsewhere = {t.target.name for t in self._stage.transitions if model not in t.victims}
        return [
            name
            for name, other in self.wanted.items()
            if other is not model
            and name not in elsewhere
            and any(
                amount and held.get(each, 0)
                for needs in other.settings.places
                for each, amount in needs.items()
            )
        ]

    def _is_awaited(self, model: Model) -> bool:
        """
        Tell whether the model wakes and requests wait for that: further requests that come or
        go change nothing.
        """
        return model.phase is Phase.WAKING and model.waiting > 0

    def _cancelled(self, waiter: Waiter) -> None:
        guard, waiter.guard = waiter.guard, None
        if guard is not None:
            guard.release(answered=False)
        elif waiter.state.waits(waiter):
            self._remove(waiter, LeftReason.DISCONNECTED)
            if not self._is_awaited(waiter.state):
                self._stage.consider()

    def _expired(self, waiter: Waiter, limit: float) -> None:
        waiter.timer = None
        for transition in self._stage.transitions:
            if transition.target is waiter.state:
                transition.outwaited = True
        self._remove(waiter, LeftReason.TIMEOUT)
        waiter.deferred.errback(self._timed_out(waiter, limit))
        self._stage.consider()

    def _timed_out(self, waiter: Waiter, limit: float) -> SwitchTimeout:
        self._log.warn(
            "a request for {model} has waited {timeout_secs:g} s",
            event="request_timeout",
            model=waiter.model,
            timeout_secs=limit,
        )
        return SwitchTimeout(waiter.model, limit)

    def _remove(self, waiter: Waiter, reason: LeftReason) -> None:
        model = waiter.state
        waiter.stop_timer()
        model.dequeue(waiter)
        if not model.waiting:
            self.wanted.pop(model.name, None)
        self._left(waiter, reason, self._stage.clock.seconds())

    def _left(self, waiter: Waiter, reason: LeftReason, now: float) -> None:
        age = now - waiter.arrived
        waiter.state.waited.observe(age)
        self._listeners.tell(Left(now, waiter.model, waiter.request, reason, age))
