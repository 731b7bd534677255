"""One run of a trace under one policy, and the record of that run."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from enum import Enum
from math import inf, nan
from random import Random

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from llmux.errors import SwitchError
from llmux.interfaces import ISwitchPolicy
from llmux.simulate.clock import HeapClock
from llmux.simulate.followed_policy import FollowedPolicy
from llmux.simulate.scripts import HookTimes, NumberHooks
from llmux.simulate.simulated_backend import SimulatedBackend
from llmux.simulate.trace import Trace
from llmux.switching.settings import SwitchSettings
from llmux.switching.switcher import InFlightGuard, ModelSwitcher

__all__ = ["Mode", "Record", "Run"]


class Mode(Enum):
    """What the GPU does at some moment."""

    SERVING = "serving"
    """A model is awake and has requests in flight."""
    DRAINING = "draining"
    """
    The awake model finishes what it has in flight, to make room for another model
    that somebody waits for.
    """
    SWITCHING = "switching"
    """A sleep or a wake hook runs."""
    IDLE = "idle"
    """No model is awake, or no request is in flight."""


class Record:
    """
    The record of a run.  Times are in seconds; those of requests are by the
    request's position in the trace, and NaN for what did not happen.

    @ivar sent: the time at which each request was sent.
    @ivar began: the time at which each request's service began.
    @ivar answered: the time at which each request had been served.
    @ivar left: the time at which each request ended without an answer, because its
        client gave up or its time limit passed.
    @ivar modes: (time, mode, awake model) for each change, in order.
    @ivar woken: (time, model) for each wake, in order.
    @ivar ended: the time at which the run ended.
    """

    def __init__(self, requests: int) -> None:
        self.sent = array("d", [nan]) * requests
        self.began = array("d", [nan]) * requests
        self.answered = array("d", [nan]) * requests
        self.left = array("d", [nan]) * requests
        self.modes: list[tuple[float, Mode, str | None]] = [(0.0, Mode.IDLE, None)]
        self.woken: list[tuple[float, str]] = []
        self.ended = 0.0


class _Client:
    """The client of a request that has been sent and has not been answered."""

    __slots__ = ("deferred", "guard", "impatience", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.deferred: Deferred[InFlightGuard] | None = None
        self.guard: InFlightGuard | None = None
        self.impatience: IDelayedCall | None = None


class Run:
    """
    A run of the switcher that llmux has in production, with the requests of a trace.

    @param models: the names of the models.
    @param slots: the number of requests that a backend serves at a time.
    @param until: the time at which the run ends; infinity to end with the last answer.
    @param seed: the seed of all that is random.
    @ivar record: what happened so far.
    @ivar switcher: the switcher.
    """

    def __init__(
        self,
        trace: Trace,
        policy: ISwitchPolicy,
        models: Iterable[str],
        costs: HookTimes,
        *,
        slots: int = 16,
        until: float = inf,
        seed: int = 1,
        settings: SwitchSettings | None = None,
    ) -> None:
        self.record = Record(len(trace.requests))
        self._trace = trace
        self._until = until
        self._clock = HeapClock()
        self._policy = FollowedPolicy(policy)
        self._hooks = NumberHooks(self._clock, costs, Random(seed), self._next_model)
        self.record.woken = self._hooks.woken
        self.switcher = ModelSwitcher(
            self._clock, self._hooks, self._policy, dict.fromkeys(models, inf), settings
        )
        self._backends = {
            name: SimulatedBackend(self._clock, slots, self._began, self._served)
            for name in self.switcher.models
        }
        self._clients: dict[int, _Client] = {}
        requests = trace.requests
        self._order = sorted(
            (n for n, request in enumerate(requests) if request.after is None),
            key=lambda n: requests[n].sent,
        )
        self._next = 0
        self._ended = 0
        self._in_flight = 0
        self._waiting = dict.fromkeys(self.switcher.models, 0)
        self._all_waiting = 0
        self._mode: tuple[Mode, str | None] = (Mode.IDLE, None)

    def go(self, progress: Callable[[float], object] | None = None) -> Record:
        """
        Run to the end, and return the record.

        @param progress: called now and then with the share that is done, from 0 to 1.
        """
        self.switcher.start()
        self._send_at_its_time()
        clock, until = self._clock, self._until
        steps = 0
        while clock.step(until):
            self._look()
            steps += 1
            if progress is not None and not steps % 2000:
                progress(self._done_part())
        self.record.ended = clock.seconds() if until == inf else until
        return self.record

    def _done_part(self) -> float:
        parts = [self._ended / len(self._trace.requests)]
        if self._until < inf:
            parts.append(self._clock.seconds() / self._until)
        return max(parts)

    def _next_model(self) -> str | None:
        """The model for which a sleep hook that starts now makes room."""
        return self._policy.target

    def _drains(self, awake: str) -> bool:
        """
        Whether the awake model drains: the policy has decided to wake another model,
        and a request for another model still waits.  (If all of these have left
        because of their time limit, the switcher drains on; that is recorded as
        serving.)
        """
        return (
            self._policy.target not in (None, awake)
            and self._all_waiting > self._waiting[awake]
        )

    def _look(self) -> None:
        """Record what the GPU does, if that has changed."""
        awake = None if self._hooks.changing else self._hooks.awake
        if self._hooks.changing:
            mode = Mode.SWITCHING
        elif awake is None:
            mode = Mode.IDLE
        elif self._drains(awake):
            mode = Mode.DRAINING
        else:
            mode = Mode.SERVING if self._in_flight else Mode.IDLE
        if (mode, awake) != self._mode:
            self._mode = mode, awake
            self.record.modes.append((self._clock.seconds(), mode, awake))

    # ------------------------------------------------------------ the clients

    def _send_at_its_time(self) -> None:
        """
        Schedule the next request of the trace.  A call for each of them at the outset
        would make the clock's heap large.
        """
        if self._next < len(self._order):
            due = self._trace.requests[self._order[self._next]].sent
            self._clock.callLater(max(0.0, due - self._clock.seconds()), self._send_next)

    def _send_next(self) -> None:
        number = self._order[self._next]
        self._next += 1
        self._send(number)
        self._send_at_its_time()

    def _send(self, number: int) -> None:
        request = self._trace.requests[number]
        self.record.sent[number] = self._clock.seconds()
        client = self._clients[number] = _Client(number)
        if request.patience < inf:
            client.impatience = self._clock.callLater(request.patience, self._give_up, client)
        guard = self.switcher.acquire_now(request.model)
        if guard is not None:
            self._forward(guard, client)
            return
        self._waiting[request.model] += 1
        self._all_waiting += 1
        client.deferred = self.switcher.acquire(request.model)
        client.deferred.addCallbacks(
            self._forward, self._refused, callbackArgs=(client,), errbackArgs=(client,)
        )

    def _forward(self, guard: InFlightGuard, client: _Client) -> None:
        if client.deferred is not None:
            self._waits_no_longer(client)
        client.guard = guard
        guard.on_abort = lambda _: self._abort(client)
        self._in_flight += 1
        request = self._trace.requests[client.number]
        self._backends[request.model].submit(client.number, request.service)

    def _waits_no_longer(self, client: _Client) -> None:
        self._waiting[self._trace.requests[client.number].model] -= 1
        self._all_waiting -= 1

    def _refused(self, failure: Failure, client: _Client) -> None:
        failure.trap(SwitchError, CancelledError)
        self._waits_no_longer(client)
        self._leave(client)

    def _began(self, number: int) -> None:
        self.record.began[number] = self._clock.seconds()
        self._be_patient(self._clients[number])

    def _served(self, number: int) -> None:
        now = self._clock.seconds()
        self.record.answered[number] = now
        client = self._clients.pop(number)
        self._ended += 1
        self._in_flight -= 1
        assert client.guard is not None
        client.guard.release()
        for follower in self._trace.followers.get(number, ()):
            self._clock.callLater(self._trace.requests[follower].think, self._send, follower)

    def _give_up(self, client: _Client) -> None:
        client.impatience = None
        if client.guard is not None:
            self._abort(client)
        elif client.deferred is not None:
            client.deferred.cancel()

    def _abort(self, client: _Client) -> None:
        """End the client's exchange with the backend."""
        assert client.guard is not None
        self._in_flight -= 1
        self._backends[client.guard.model].abort(client.number)
        client.guard.release(answered=False)
        self._leave(client)

    def _leave(self, client: _Client) -> None:
        """Record that the client's request ends without an answer."""
        self.record.left[client.number] = self._clock.seconds()
        self._be_patient(client)
        del self._clients[client.number]
        self._ended += 1

    def _be_patient(self, client: _Client) -> None:
        if client.impatience is not None:
            client.impatience.cancel()
            client.impatience = None
