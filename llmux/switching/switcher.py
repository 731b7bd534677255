"""
Who waits, who is in flight, and when to change models.

The switcher carries out what its policy decides.  It does no I/O and knows no
reactor: a clock, a hook runner and a policy are given to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from llmux.errors import (
    HookFailed,
    Internal,
    ModelNotFound,
    NotReady,
    SwitchError,
    SwitchTimeout,
)
from llmux.interfaces import (
    Arrived,
    Completed,
    Estimate,
    Failed,
    Forwarded,
    IHookRunner,
    ISwitchPolicy,
    Left,
    LeftReason,
    Observer,
    PolicyEvent,
    Slept,
    SlotPhase,
    Woke,
)
from llmux.monitoring.metrics import Metrics
from llmux.switching.cost import SwitchCostTracker
from llmux.switching.model import INFINITY, InFlightGuard, ModelQueue, Waiter
from llmux.switching.sequences import Lifecycle
from llmux.switching.settings import SwitchSettings
from llmux.switching.slot import SlotState
from llmux.switching.transitions import Transitions
from llmux.switching.view import ScheduleContext

__all__ = [
    "Active",
    "HookFailed",
    "Idle",
    "InFlightGuard",
    "Internal",
    "ModelNotFound",
    "ModelSwitcher",
    "NotReady",
    "SwitchError",
    "SwitchSettings",
    "SwitchTimeout",
    "SwitcherState",
    "Switching",
]

_EVERY_EVENT: frozenset[type[Any]] = frozenset(
    {Arrived, Completed, Failed, Forwarded, Left, Slept, Woke}
)
_REQUEST_EVENTS = frozenset({Arrived, Completed, Forwarded})


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is awake."""


@dataclass(frozen=True, slots=True)
class Active:
    """C{model} is awake and serves."""

    model: str


@dataclass(frozen=True, slots=True)
class Switching:
    """On the way from C{source} (None: nothing was awake) to C{target} (None: to nothing)."""

    source: str | None
    target: str | None


SwitcherState = Idle | Active | Switching


class ModelSwitcher:
    """
    Gives guards for models, and has at most one model awake.

    Requests wait until L{start} has found out what is awake; the first that
    asks for a guard starts it if nobody has.

    @param wake_limits: the models, and for each the seconds within which its
        wake hook and the C{alive} after it must have succeeded.
    @param observers: told of every event, after the policy.
    @ivar costs: what switches have cost.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        hooks: IHookRunner,
        policy: ISwitchPolicy,
        wake_limits: Mapping[str, float],
        settings: SwitchSettings | None = None,
        metrics: Metrics | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        self.costs = SwitchCostTracker()
        self.metrics = Metrics() if metrics is None else metrics
        self.metrics.watch(self)
        self._clock = clock
        self._policy = policy
        self._settings = SwitchSettings() if settings is None else settings
        self._queues = {
            name: ModelQueue(name, self.metrics.queue_wait(name))
            for name in sorted(wake_limits)
        }
        # Those that somebody waits for, in the order in which that began.
        self._wanted: dict[str, ModelQueue] = {}
        self._requests = 0
        self._in_flight = 0
        self._observers: tuple[Observer, ...] = tuple(observers)
        self._listeners: dict[type[Any], tuple[Observer, ...]] = {}
        self._tells_of_requests = False
        self._choose_events()
        self._context = ScheduleContext(self._queues, self._wanted, self.costs)
        self._asking = False
        self._ask_again = False
        # Until then the answer would be the same, unless something changes for
        # a model that is not awake; or, if not held back, the awake one empties.
        self._quiet_until = 0.0
        self._held_back = False
        self._timer: IDelayedCall | None = None
        self._transitions = Transitions(
            self,
            clock,
            Lifecycle(clock, hooks, wake_limits),
            self._queues,
            self._settings,
            self.costs,
            self.metrics,
        )

    @property
    def models(self) -> Sequence[str]:
        """The names of the models, sorted."""
        return list(self._queues)

    @property
    def state(self) -> SwitcherState:
        """Idle, Active or Switching."""
        transitions = self._transitions
        source = transitions.awake or transitions.uncertain
        name = None if source is None else source.name
        if transitions.target is not None:
            return Switching(name, transitions.target.name)
        if transitions.uncertain is not None:
            return Switching(name, None)
        return Idle() if name is None else Active(name)

    def add_observer(self, observer: Observer) -> None:
        """Tell it of every event from now on."""
        self._observers += (observer,)
        self._choose_events()

    def start(self) -> Deferred[None]:
        """
        Ask every model whether it is awake.

        @return: fires when that is known.
        """
        transitions = self._transitions
        if transitions.state not in (SlotState.NEW, SlotState.ADOPTING):
            return succeed(None)
        started: Deferred[None] = Deferred()
        transitions.started.append(started)
        if transitions.state is SlotState.NEW:
            transitions.slot.start()
        return started

    def stop(self) -> Deferred[None]:
        """
        Refuse new requests and those that wait; let what is in flight finish
        within C{shutdown_timeout}, then abort it.

        @return: fires when nothing runs and nothing is in flight any more.
        """
        transitions = self._transitions
        if transitions.state is SlotState.STOPPED:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        transitions.stopped.append(stopped)
        if not transitions.stopping:
            transitions.stop()
            for queue in list(self._wanted.values()):
                self.refuse(queue, NotReady(queue.name, "llmux is shutting down"))
        return stopped

    def call_when_stopped(self, close: Callable[[], None]) -> None:
        """Call this once L{stop} is done: nothing is in flight any more."""
        self._transitions.closers.append(close)

    def abort(self) -> None:
        """Cut short what L{stop} waits for: exchanges and hooks."""
        self._transitions.abort()

    def acquire_now(self, model: str) -> InFlightGuard | None:
        """
        A guard if the model is awake and takes requests, else None.

        @raise ModelNotFound: there is no such model.
        """
        queue = self._queues.get(model)
        if queue is None:
            raise ModelNotFound(model)
        if not queue.open:
            return None
        self._requests = request = self._requests + 1
        queue.waited.counts[0] += 1
        if self._tells_of_requests or self._wanted:
            return self._acquire_watched(queue, request)
        guard = InFlightGuard(self, queue, request, None)
        queue.guards.add(guard)
        self._in_flight += 1
        return guard

    def acquire(
        self, model: str, *, arrived: float | None = None, retry: bool = False
    ) -> Deferred[InFlightGuard]:
        """
        A guard, as soon as the model is awake and takes requests.  Cancel it
        when the client leaves.

        @param arrived: when the request first arrived, on the switcher's
            clock; now if not given.  Its time limit counts from there.
        @param retry: it has had a guard before, and its backend failed it.

        @return: fails with a L{SwitchError}.
        """
        queue = self._queues.get(model)
        if queue is None:
            return fail(ModelNotFound(model))
        if queue.open:
            guard = self.acquire_now(model)
            assert guard is not None
            return succeed(guard)
        transitions = self._transitions
        if transitions.stopping:
            return fail(NotReady(model, "llmux is shutting down"))
        now = self._clock.seconds()
        self._requests = request = self._requests + 1
        waiter = Waiter(queue, request, now if arrived is None else arrived, self._cancelled)
        limit = self._settings.request_timeout
        if limit is not None and waiter.arrived + limit <= now:
            return fail(self._timed_out(waiter, limit))
        if not retry:
            self.tell(Arrived(now, model, request))
        if (
            transitions.state is SlotState.DRAINING
            and queue is transitions.awake
            and self._policy.admit(self._look(now, SlotPhase.DRAINING), waiter)
        ):
            waiter.deferred.callback(self._guard(waiter, now))
            self.consider()
            return waiter.deferred
        if limit is not None:
            waiter.timer = self._clock.callLater(
                waiter.arrived + limit - now, self._expired, waiter, limit
            )
        queue.enqueue(waiter)
        self._wanted.setdefault(model, queue)
        self._quiet_until = 0.0
        if transitions.state is SlotState.NEW:
            transitions.slot.start()
        else:
            self.consider()
        return waiter.deferred

    def backend_failed(self, guard: InFlightGuard) -> Deferred[bool]:
        """
        The backend refused the connection, or closed it before the first byte
        of its reply.  The guard is given back.

        @return: True if the request may wait for another turn, because the
            model is asleep or on its way there; False if it is alive, so that
            another try would not fare better.
        """
        # There is no exchange left to abort, should the verdict fall here and now.
        guard.on_abort = None
        verdict = self._transitions.backend_failed(guard.queue)
        guard.release(answered=False)
        if verdict is None:
            return succeed(not self._transitions.stopping)
        return verdict

    def others_wait(self, model: str) -> bool:
        """Somebody waits, and it is this model's turn that they wait out."""
        return bool(self._wanted)

    # ------------------------------------------------------ for the metrics

    def per_model(self) -> Iterable[tuple[str, int, int, bool]]:
        """(model, waiters, requests in flight, awake)."""
        awake = self._transitions.awake
        for name, queue in self._queues.items():
            yield name, len(queue.waiters), len(queue.guards), queue is awake

    def switch_costs(self) -> Iterable[tuple[str | None, str, float]]:
        """(from, to, seconds)."""
        return iter(self.costs)

    def estimates(self) -> Iterable[Estimate]:
        """What the policy has learnt."""
        return self._policy.estimates()

    # ----------------------------------------------------------- the waiters

    def _acquire_watched(self, queue: ModelQueue, request: int) -> InFlightGuard:
        """A guard at once, while somebody watches or waits."""
        now = self._clock.seconds()
        guard = InFlightGuard(self, queue, request, now)
        queue.guards.add(guard)
        self._in_flight += 1
        listeners = self._listeners[Forwarded]
        if listeners:
            event = Forwarded(now, queue.name, request, 0.0)
            for listen in listeners:
                listen(event)
        if self._wanted and self._quiet_until <= now:
            self.consider()
        return guard

    def _guard(self, waiter: Waiter, now: float) -> InFlightGuard:
        queue = waiter.queue
        guard = InFlightGuard(self, queue, waiter.request, now)
        queue.guards.add(guard)
        self._in_flight += 1
        waited = now - waiter.arrived
        queue.waited.observe(waited)
        self.tell(Forwarded(now, queue.name, waiter.request, waited))
        return guard

    def guard_released(self, guard: InFlightGuard, answered: bool) -> None:
        """An exchange is over."""
        queue = guard.queue
        queue.guards.discard(guard)
        self._in_flight -= 1
        if answered and not queue.answered:
            queue.answered = True
            queue.backoff.reset()
        if self._tells_of_requests:
            now = self._clock.seconds()
            service = 0.0 if guard.forwarded is None else now - guard.forwarded
            event = Completed(now, queue.name, guard.request, service, answered)
            for listen in self._listeners[Completed]:
                listen(event)
        if self._wanted:
            emptied = not queue.guards and not self._held_back
            if emptied or self._quiet_until <= self._clock.seconds():
                self.consider()
        elif self._transitions.state is not SlotState.AWAKE:
            # A drain that nobody waits for any more, or the end.
            self.consider()
            self._transitions.maybe_closed()

    def serve(self, queue: ModelQueue) -> None:
        """The model takes requests: its waiters get their guards, all in this turn."""
        now = self._clock.seconds()
        queue.open = True
        self._wanted.pop(queue.name, None)
        waiters = queue.take_waiters()
        for waiter in waiters:
            waiter.guard = self._guard(waiter, now)
        # All of them first: what they set off must not close the model before.
        asking, self._asking = self._asking, True
        try:
            for waiter in waiters:
                # One that another's callback has cancelled has given its guard back.
                guard, waiter.guard = waiter.guard, None
                if guard is not None and not waiter.deferred.called:
                    waiter.deferred.callback(guard)
        finally:
            self._asking = asking

    def refuse(self, queue: ModelQueue, error: SwitchError) -> None:
        """Its waiters go away with this error."""
        now = self._clock.seconds()
        self._quiet_until = 0.0
        self._wanted.pop(queue.name, None)
        waiters = queue.take_waiters()
        for waiter in waiters:
            self._left(waiter, LeftReason.FAILED, now)
        for waiter in waiters:
            if not waiter.deferred.called:
                waiter.deferred.errback(error)

    def _cancelled(self, waiter: Waiter) -> None:
        guard, waiter.guard = waiter.guard, None
        if guard is not None:
            guard.release(answered=False)
        elif waiter.request in waiter.queue.waiters:
            self._remove(waiter, LeftReason.DISCONNECTED)
            self.consider()

    def _expired(self, waiter: Waiter, limit: float) -> None:
        waiter.timer = None
        if waiter.queue is self._transitions.target:
            self._transitions.outwaited = True
        self._remove(waiter, LeftReason.TIMEOUT)
        waiter.deferred.errback(self._timed_out(waiter, limit))
        self.consider()

    def _timed_out(self, waiter: Waiter, limit: float) -> SwitchTimeout:
        self._log.warn(
            "a request for {model} has waited {timeout_secs:g} s",
            event="request_timeout",
            model=waiter.model,
            timeout_secs=limit,
        )
        return SwitchTimeout(waiter.model, limit)

    def _remove(self, waiter: Waiter, reason: LeftReason) -> None:
        queue = waiter.queue
        waiter.stop_timer()
        queue.dequeue(waiter)
        if not queue.waiters:
            self._wanted.pop(queue.name, None)
        self._quiet_until = 0.0
        self._left(waiter, reason, self._clock.seconds())

    def _left(self, waiter: Waiter, reason: LeftReason, now: float) -> None:
        age = now - waiter.arrived
        waiter.queue.waited.observe(age)
        self.tell(Left(now, waiter.model, waiter.request, reason, age))

    def abort_exchanges(
        self, queue: ModelQueue, why: str, reason: str, *, may_wait_again: bool = False
    ) -> None:
        """Cut short what is in flight to this model."""
        for guard in list(queue.guards):
            self.metrics.exchange_aborted(queue.name, reason)
            abort = guard.on_abort
            guard.may_wait_again = may_wait_again
            if abort is not None:
                abort(why)
            # Nobody else will, if whoever holds it does not know how to abort.
            guard.release(answered=False)

    def in_flight(self) -> int:
        """How many exchanges there are."""
        return self._in_flight

    # ------------------------------------------------------ asking the policy

    def _choose_events(self) -> None:
        observed = self._policy.observed
        self._listeners = {
            kind: ((self._policy.observe,) if kind in observed else ()) + self._observers
            for kind in _EVERY_EVENT
        }
        self._tells_of_requests = any(self._listeners[kind] for kind in _REQUEST_EVENTS)

    def tell(self, event: PolicyEvent) -> None:
        """Something happened: tell those who want to know."""
        for listen in self._listeners[type(event)]:
            listen(event)

    def _look(self, now: float, phase: SlotPhase) -> ScheduleContext:
        context = self._context
        awake, target = self._transitions.awake, self._transitions.target
        context.now = now
        context.phase = phase
        context.target = None if target is None else target.name
        if awake is None:
            context.awake = None
            context.in_flight = 0
        else:
            context.awake = awake.name
            context.woke_at = awake.woke_at
            context.in_flight = len(awake.guards)
        return context

    def consider(self) -> None:
        """Something happened: ask the policy, until it has nothing more to say."""
        self._ask_again = True
        if self._asking:
            return
        self._asking = True
        try:
            while self._ask_again:
                self._ask_again = False
                state = self._transitions.state
                if state is SlotState.DRAINING:
                    self._ask_while_draining(self._clock.seconds())
                elif self._wanted and state in (SlotState.AWAKE, SlotState.IDLE):
                    self._ask(self._clock.seconds())
        finally:
            self._asking = False

    def _ask(self, now: float) -> None:
        transitions = self._transitions
        awake = transitions.awake
        context = self._look(now, SlotPhase.IDLE if awake is None else SlotPhase.AWAKE)
        held_until = 0.0
        if not context.wanted():
            held_until = self._next_backoff_end(now)
        elif awake is not None:
            held_until = max(
                awake.woke_at + self._settings.min_active, transitions.sleep_backoff.until
            )
        if now < held_until:
            self._quiet_until = held_until
            self._held_back = True
            self._ask_at(held_until, now)
            return
        self._held_back = False
        decision = self._policy.decide(context)
        target = None if decision.target is None else self._wanted.get(decision.target)
        if target is not None and target is not awake and target.backoff.until <= now:
            self._quiet_until = 0.0
            transitions.begin_switch(target)
            return
        again = INFINITY if decision.ask_again_at is None else decision.ask_again_at
        self._quiet_until = again if decision.holds_while_busy else 0.0
        self._ask_at(min(again, self._next_backoff_end(now)), now)

    def _ask_while_draining(self, now: float) -> None:
        transitions = self._transitions
        awake = transitions.awake
        assert awake is not None
        drained = not awake.guards or not self._settings.drain_before_switch
        context = self._look(now, SlotPhase.DRAINED if drained else SlotPhase.DRAINING)
        wanted = context.wanted()
        if not wanted:
            # Those who lost patience would never be served if their loss of
            # it called off each drain that is longer than that.
            if not transitions.outwaited:
                transitions.call_off()
            elif drained:
                transitions.slot.drained()
            return
        decision = self._policy.decide(context)
        if decision.reopens:
            transitions.call_off()
            return
        target = decision.target or context.target
        if target is None or target not in wanted:
            # Whom the policy wanted is gone: who has waited longest is next.
            target = min(wanted, key=context.oldest)
        if target != context.target:
            transitions.rebind(self._queues[target])
        if drained:
            transitions.slot.drained()
        elif decision.ask_again_at is not None:
            self._ask_at(decision.ask_again_at, now)

    def _next_backoff_end(self, now: float) -> float:
        return min(
            (q.backoff.until for q in self._wanted.values() if q.backoff.until > now),
            default=INFINITY,
        )

    def _ask_at(self, at: float, now: float) -> None:
        timer = self._timer
        if timer is not None and timer.active():
            if timer.getTime() <= at:
                # It asks early, and is then set anew.
                return
            timer.cancel()
            self._timer = None
        if at < INFINITY:
            self._timer = self._clock.callLater(max(0.0, at - now), self._time_to_ask)

    def _time_to_ask(self) -> None:
        self._timer = None
        self._quiet_until = 0.0
        self.consider()

    def hush(self) -> None:
        """Nobody need be asked for now."""
        self._quiet_until = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
