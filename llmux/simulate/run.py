"""This module runs a trace under one policy, and records the run."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from math import inf, nan
from random import Random

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from llmux.errors import SwitchError
from llmux.interfaces import ONE_SLOT, ISwitchPolicy, Needs, Phase
from llmux.simulate.clock import HeapClock
from llmux.simulate.scripts import HookTimes, NumberHooks
from llmux.simulate.simulated_backend import SimulatedBackend
from llmux.simulate.trace import Trace
from llmux.switching.facts.settings import ModelSettings, SwitchSettings
from llmux.switching.switcher import InFlightGuard, ModelSwitcher
from llmux.switching.wishes.idleness import DefaultModel

__all__ = ["Mode", "Record", "Run"]


class Mode(Enum):
    """A mode is what a model, and with it what the model holds of the machine, is busy with."""

    SERVING = "serving"
    """The model is awake and has requests in flight."""
    DRAINING = "draining"
    """The model finishes what it has in flight, to make room for another model."""
    SWITCHING = "switching"
    """The model's sleep or wake hook runs."""
    IDLE = "idle"
    """The model is awake, and no request is in flight."""


Change = tuple[float, str, Mode | None, Mapping[str, float]]


class Record:
    """
    A record is what happened in a run.  Times are in seconds; those of requests are found by
    the request's position in the trace, and are NaN if the event did not happen.

    @ivar resources: the capacity of each resource of the machine.
    @ivar sent: the time at which each request was sent.
    @ivar began: the time at which each request's service began.
    @ivar answered: the time at which each request had been served.
    @ivar left: the time at which each request ended without an answer, because its
        client gave up or its time limit passed.
    @ivar changes: (time, model, what the model is busy with from then on, what the model
        holds) for each change, in order; None for a model that is asleep.
    @ivar woken: (time, model) for each wake, in order.
    @ivar ended: the time at which the run ended.
    """

    def __init__(self, requests: int, resources: Mapping[str, float] | None = None) -> None:
        self.resources = {"gpu": 1.0} if resources is None else dict(resources)
        self.sent = array("d", [nan]) * requests
        self.began = array("d", [nan]) * requests
        self.answered = array("d", [nan]) * requests
        self.left = array("d", [nan]) * requests
        self.changes: list[Change] = []
        self.woken: list[tuple[float, str]] = []
        self.ended = 0.0


class _Client:
    """This is the client of a request that has been sent and has not been answered."""

    __slots__ = ("deferred", "guard", "impatience", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.deferred: Deferred[InFlightGuard] | None = None
        self.guard: InFlightGuard | None = None
        self.impatience: IDelayedCall | None = None


class Run:
    """
    A L{Run} runs the switcher that llmux has in production with the requests of a trace.

    @param models: the names of the models, or their settings by name.
    @param slots: the number of requests that a backend serves at a time.
    @param until: the time at which the run ends; infinity to end with the last answer.
    @param seed: the seed of all that is random.
    @param resources: the capacity of each resource of the machine.
    @param preload: the models that are woken at start.
    @param default: the model that is woken when there is nothing to do.
    @ivar record: what happened so far.
    @ivar switcher: the switcher.
    """

    def __init__(
        self,
        trace: Trace,
        policy: ISwitchPolicy,
        models: Iterable[str] | Mapping[str, ModelSettings],
        costs: HookTimes,
        *,
        slots: int = 16,
        until: float = inf,
        seed: int = 1,
        settings: SwitchSettings | None = None,
        resources: Needs = ONE_SLOT,
        preload: Iterable[str] = (),
        default: DefaultModel | None = None,
    ) -> None:
        capacities = {name: float(amount) for name, amount in resources.items()}
        self.record = Record(len(trace.requests), capacities)
        self._trace = trace
        self._until = until
        self._clock = HeapClock()
        self._hooks = NumberHooks(self._clock, costs, Random(seed), self._partner)
        self.record.woken = self._hooks.woken
        known = (
            models
            if isinstance(models, Mapping)
            else {name: ModelSettings(inf) for name in models}
        )
        self.switcher = ModelSwitcher(
            self._clock,
            self._hooks,
            policy,
            known,
            settings,
            resources=resources,
            preload=preload,
            default=default,
        )
        # What happens while llmux is idle may go on for ever.
        self._stops_with_the_last = default is not None or any(
            model.idle_sleep is not None for model in known.values()
        )
        self._thinking = 0
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
        self._modes: dict[str, Mode] = {}

    def go(self, progress: Callable[[float], object] | None = None) -> Record:
        """
        Run to the end, and return the record.

        @param progress: a function that is called from time to time with the share that is
            done, from 0 to 1.
        """
        self.switcher.start()
        self._send_at_its_time()
        clock, until = self._clock, self._until
        steps = 0
        while not self._is_over() and clock.step(until):
            self._look()
            steps += 1
            if progress is not None and not steps % 2000:
                progress(self._done_part())
        self.record.ended = clock.seconds() if until == inf else until
        return self.record

    def _is_over(self) -> bool:
        """Tell whether every request has ended, and all that could follow happens by itself."""
        return (
            self._stops_with_the_last
            and self._until == inf
            and not (self._clients or self._thinking)
            and self._next == len(self._order)
        )

    def _done_part(self) -> float:
        parts = [self._ended / len(self._trace.requests)]
        if self._until < inf:
            parts.append(self._clock.seconds() / self._until)
        return max(parts)

    def _partner(self, model: str) -> str | None:
        """Return the other model of the switch in which a hook starts; see L{NumberHooks}."""
        for switch in self.switcher.switches():
            if switch.target == model:
                return switch.victims[0] if len(switch.victims) == 1 else None
            if model in switch.victims:
                return switch.target
        return None

    def _look(self) -> None:
        """Record which models are busy with something else than before."""
        modes, models, capacity = self._modes, self.switcher.models, self.switcher.capacity
        holders = 0
        for name in capacity.holders():
            holders += 1
            model = models[name]
            if model.phase is Phase.AWAKE:
                mode = Mode.SERVING if model.guards else Mode.IDLE
            elif model.phase is Phase.DRAINING:
                mode = Mode.DRAINING
            else:
                mode = Mode.SWITCHING
            if modes.get(name) is not mode:
                modes[name] = mode
                held = {resource: float(n) for resource, n in capacity.held(name).items()}
                self.record.changes.append((self._clock.seconds(), name, mode, held))
        if holders < len(modes):
            for name in modes.keys() - set(capacity.holders()):
                del modes[name]
                self.record.changes.append((self._clock.seconds(), name, None, {}))

    # ------------------------------------------------------------ the clients

    def _send_at_its_time(self) -> None:
        """
        Schedule the next request of the trace.  If all requests were scheduled at the
        beginning, the clock's heap would be large.
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
        client.deferred = self.switcher.acquire(request.model)
        client.deferred.addCallbacks(
            self._forward, self._refused, callbackArgs=(client,), errbackArgs=(client,)
        )

    def _forward(self, guard: InFlightGuard, client: _Client) -> None:
        client.guard = guard
        guard.on_abort = lambda _: self._abort(client)
        request = self._trace.requests[client.number]
        self._backends[request.model].submit(client.number, request.service)

    def _refused(self, failure: Failure, client: _Client) -> None:
        failure.trap(SwitchError, CancelledError)
        self._leave(client)

    def _began(self, number: int) -> None:
        self.record.began[number] = self._clock.seconds()
        self._be_patient(self._clients[number])

    def _served(self, number: int) -> None:
        now = self._clock.seconds()
        self.record.answered[number] = now
        client = self._clients.pop(number)
        self._ended += 1
        assert client.guard is not None
        client.guard.release()
        for follower in self._trace.followers.get(number, ()):
            self._thinking += 1
            self._clock.callLater(self._trace.requests[follower].think, self._follow, follower)

    def _follow(self, number: int) -> None:
        self._thinking -= 1
        self._send(number)

    def _give_up(self, client: _Client) -> None:
        client.impatience = None
        if client.guard is not None:
            self._abort(client)
        elif client.deferred is not None:
            client.deferred.cancel()

    def _abort(self, client: _Client) -> None:
        """End the exchange of a client with the backend."""
        assert client.guard is not None
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
