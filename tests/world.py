"""
This module has a switcher under a clock, with hooks made of numbers and clients made of
Deferreds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from llmux.interfaces import (
    ONE_SLOT,
    HookKind,
    IPlaceNotes,
    ISwitchPolicy,
    IWakeNotes,
    Needs,
    PolicyContext,
    PolicyEvent,
    Slept,
    Woke,
)
from llmux.policy.cost_aware import CostAwarePolicyFactory
from llmux.policy.fifo import FifoPolicy
from llmux.switching.facts.phases import Phase
from llmux.switching.facts.settings import ModelSettings, SwitchSettings
from llmux.switching.switcher import InFlightGuard, ModelSwitcher
from llmux.switching.wishes.idleness import DefaultModel
from llmux.switching.wishes.lasting import ICommandNotes, LastingCommands
from tests.fakes import FakeHookRunner

WAKE, SLEEP, ALIVE = HookKind.WAKE, HookKind.SLEEP, HookKind.ALIVE


@dataclass(frozen=True)
class Idle:
    """This state says that nothing is awake."""


@dataclass(frozen=True)
class Active:
    """This state says that a model serves, and nothing else happens."""

    model: str


@dataclass(frozen=True)
class Switching:
    """
    This state says that a switch is under way, or that models are put to sleep (target None).
    """

    source: str | None
    target: str | None


@implementer(IWakeNotes)
class Notes:
    """These notes say what a former llmux has left."""

    def __init__(self, interrupted: frozenset[str]) -> None:
        self.interrupted = interrupted
        self.ended = 0

    def end_interrupted(self) -> Deferred[None]:
        self.ended += 1
        return succeed(None)


@implementer(IPlaceNotes)
class RememberedPlaces:
    """This class keeps the places of models, without a disk."""

    def __init__(self, places: Mapping[str, int]) -> None:
        self.places = dict(places)

    def place_of(self, model: str) -> int | None:
        return self.places.get(model)

    def choose_place(self, model: str, place: int) -> None:
        self.places[model] = place


class Client:
    """A client has one request, and notes what became of it."""

    def __init__(self, world: World, model: str, deferred: Deferred[InFlightGuard]) -> None:
        self.world = world
        self.model = model
        self.guard: InFlightGuard | None = None
        self.error: BaseException | None = None
        self.aborted: list[str] = []
        self._deferred = deferred
        deferred.addCallbacks(self._got, self._failed)

    def _got(self, guard: InFlightGuard) -> None:
        phase = self.world.switcher.models[self.model].phase
        assert phase in (Phase.AWAKE, Phase.DRAINING), f"{self.model} is not awake"
        assert guard.model == self.model
        self.guard = guard
        guard.on_abort = self.aborted.append

    def _failed(self, failure: Failure) -> None:
        self.error = failure.value

    @property
    def waits(self) -> bool:
        return self.guard is None and self.error is None

    @property
    def served(self) -> bool:
        return self.guard is not None

    def finish(self) -> None:
        """End the request, whose reply has arrived whole."""
        assert self.guard is not None
        self.guard.release()

    def leave(self) -> None:
        """Let the client go away."""
        if self.guard is not None:
            self.guard.release(answered=False)
        else:
            self._deferred.cancel()
            assert isinstance(self.error, CancelledError)

    def report_dead(self) -> list[bool]:
        """Report that the backend refused the request; the list gets the answer."""
        assert self.guard is not None
        answers: list[bool] = []
        self.world.switcher.backend_failed(self.guard).addCallback(answers.append)
        return answers

    def retry(self, arrived: float) -> Client:
        return Client(
            self.world,
            self.model,
            self.world.switcher.acquire(self.model, arrived=arrived, retry=True),
        )


class World:
    """
    This world has three models a, b and c, all asleep; hooks take a second each unless scripted
    otherwise.

    @param places: by model, the places of the model, for several models awake at a time.
    @param remembered: by model, the place at which a former llmux woke it.
    """

    def __init__(
        self,
        policy: Callable[[], ISwitchPolicy] = FifoPolicy,
        models: Sequence[str] = "abc",
        awake: Iterable[str] = (),
        start: bool = True,
        wake_limit: float = 100.0,
        interrupted: Iterable[str] = (),
        own: dict[str, Any] | None = None,
        resources: Needs = ONE_SLOT,
        places: Mapping[str, Sequence[Needs]] | None = None,
        always: Iterable[str] = (),
        remembered: Mapping[str, int] | None = None,
        commands: ICommandNotes | None = None,
        preload: Sequence[str] = (),
        default: DefaultModel | None = None,
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.hooks = FakeHookRunner(self.clock)
        self.hooks.awake.update(awake)
        for model in models:
            self.hooks.script(model, WAKE, 1.0)
            self.hooks.script(model, SLEEP, 1.0)
        self.places = RememberedPlaces(remembered or {})
        self.events: list[PolicyEvent] = []
        self.switcher = ModelSwitcher(
            self.clock,
            self.hooks,
            policy(),
            {
                model: ModelSettings(
                    wake_limit,
                    places=(places or {}).get(model, (ONE_SLOT,)),
                    always=model in always,
                    **(own or {}),
                )
                for model in models
            },
            SwitchSettings(**settings),
            observers=[self.events.append],
            resources=resources,
            place_notes=self.places,
            wake_notes=Notes(frozenset(interrupted)) if interrupted else None,
            lasting=LastingCommands(self.clock, commands, lambda: self.clock.seconds() + 5000),
            preload=preload,
            default=default,
        )
        if start:
            self.switcher.start()
            self.settle()

    def ask(self, model: str) -> Client:
        return Client(self, model, self.switcher.acquire(model))

    def settle(self) -> None:
        """Let everything happen that takes no time."""
        for _ in range(20):
            self.clock.advance(0)

    def advance(self, seconds: float) -> None:
        """
        Let so many seconds pass, in steps, so that each call that is due in between is made at
        its time.
        """
        end = self.clock.seconds() + seconds
        while True:
            self.settle()
            due = min((c.getTime() for c in self.clock.getDelayedCalls()), default=end)
            if due >= end:
                break
            self.clock.advance(max(0.0, due - self.clock.seconds()))
        self.clock.advance(max(0.0, end - self.clock.seconds()))
        self.settle()

    def wake(self, model: str) -> Client:
        """Wake this model, and leave one request in flight."""
        client = self.ask(model)
        self.advance(5)
        assert client.served
        return client

    def ran(self, *kinds: HookKind) -> list[str]:
        """
        Return the hooks that were started, as "a wake"; only those of these kinds, if any are
        named.
        """
        return [f"{m} {k.value}" for m, k in self.hooks.started if k in (kinds or HookKind)]

    def switches(self) -> list[str]:
        """Return the models that woke and slept, as "+a" and "-a"."""
        return [
            ("+" if isinstance(event, Woke) else "-") + event.model
            for event in self.events
            if isinstance(event, Woke | Slept)
        ]

    def stop(self) -> list[None]:
        """Tell the switcher to stop; the list gets an item when that is done."""
        done: list[None] = []
        self.switcher.stop().addCallback(done.append)
        return done

    def phase(self, model: str) -> Phase:
        """Return the phase of the model."""
        return self.switcher.status()[model].phase

    def state(self) -> Idle | Active | Switching:
        """Return what the switcher says of its one slot."""
        for switch in self.switcher.switches():
            return Switching(next(iter(switch.victims), None), switch.target)
        status = self.switcher.status()
        for model, what in status.items():
            if what.phase is Phase.UNCERTAIN:
                return Switching(model, None)
        for model, what in status.items():
            if what.phase not in (Phase.ASLEEP, Phase.UNKNOWN):
                return Active(model)
        return Idle()

    def clients_in_flight(self) -> list[InFlightGuard]:
        """Return all guards that have not been released."""
        return [guard for model in self.switcher.models.values() for guard in model.guards]

    def nothing_left(self) -> None:
        """Check that no hook, timer, guard or waiter is left."""
        assert self.hooks.running == []
        assert self.clock.getDelayedCalls() == []
        for model, waiting, in_flight, _ in self.switcher.readings.per_model():
            assert (waiting, in_flight) == (0, 0), model


def eager_cost_aware() -> ISwitchPolicy:
    """
    Make the policy C{cost_aware} with settings by which it leaves as soon as somebody waits for
    another model.
    """
    factory = CostAwarePolicyFactory()
    assert factory.settings is not None
    return factory.build(
        PolicyContext(weights=dict.fromkeys("abc", 1.0)),
        factory.settings(quantum=0.0, floor=0.0, linger=0.0),
    )


@pytest.fixture(params=[FifoPolicy, eager_cost_aware], ids=["fifo", "cost_aware"])
def under_each_policy(request: pytest.FixtureRequest) -> Callable[..., World]:
    def make_world(**settings: Any) -> World:
        return World(request.param, **settings)

    return make_world
