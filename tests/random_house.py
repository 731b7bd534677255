"""
This module simulates llmux on a machine of random size with random faults: resources, models
and their needs, clients that come and leave, hooks that fail and hang, backends that die, a
policy that answers what it likes, and llmux itself, which stops, is killed, and starts again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from random import Random
from typing import Any

from twisted.internet.defer import Deferred

from llmux.control import CommandError
from llmux.errors import SwitchError
from llmux.interfaces import (
    ONE_SLOT,
    Amount,
    Decision,
    IScheduleView,
    ISwitchPolicy,
    Needs,
    Phase,
    PolicyContext,
    Rebind,
    Reopen,
    Stay,
    Switch,
    WaitingRequest,
)
from llmux.policy.cost_aware import CostAwarePolicyFactory
from llmux.policy.fifo import FifoPolicy
from tests.invariants import check_a_wake, check_invariants
from tests.world import ALIVE, SLEEP, WAKE, Client, World

__all__ = ["House", "MakePolicy", "erratic", "plain_cost_aware", "plain_fifo"]

MakePolicy = Callable[[PolicyContext, Random], ISwitchPolicy]


class ErraticPolicy(FifoPolicy):
    """This policy is FIFO, but now and then it answers something at random, or raises."""

    def __init__(self, context: PolicyContext, random: Random) -> None:
        super().__init__(context)
        self.random = random
        self.calm = False

    def decide(self, view: IScheduleView) -> Decision:
        random = self.random
        if self.calm or random.random() < 0.4:
            return super().decide(view)
        models = sorted(view.wanted()) or ["nobody"]
        holders = sorted(view.holders())
        target = random.choice(models)
        place = random.randrange(3)
        victims = random.sample(holders, random.randrange(len(holders) + 1))
        numbers = [switch.number for switch in view.switches] or [1]
        choice = random.random()
        if choice < 0.3:
            return Switch(target, place, victims)
        if choice < 0.5:
            return Rebind(random.choice(numbers), target, place, victims)
        if choice < 0.6:
            return Reopen(random.choice(numbers))
        if choice < 0.65:
            raise ZeroDivisionError
        return Stay(view.now + random.choice([0.0, 1.0, 5.0]))

    def admit(self, view: IScheduleView, request: WaitingRequest) -> bool:
        return not self.calm and self.random.random() < 0.5


def plain_fifo(context: PolicyContext, random: Random) -> ISwitchPolicy:
    """Make the policy C{fifo}."""
    return FifoPolicy(context)


def plain_cost_aware(context: PolicyContext, random: Random) -> ISwitchPolicy:
    """Make the policy C{cost_aware}, which leaves a model soon."""
    factory = CostAwarePolicyFactory()
    assert factory.settings is not None
    return factory.build(context, factory.settings(quantum=0.5, initial_switch_cost_secs=1.0))


def erratic(context: PolicyContext, random: Random) -> ISwitchPolicy:
    """Make a policy whose answers are random now and then."""
    return ErraticPolicy(context, random)


def random_room(
    random: Random,
) -> tuple[dict[str, Amount], dict[str, Sequence[Needs]], set[str]]:
    """Choose resources, places of models, and models that are kept awake; each place fits."""
    names = [f"gpu{n}" for n in range(random.randint(1, 3))]
    if random.random() < 0.2:
        return dict(ONE_SLOT), dict.fromkeys("abc", (ONE_SLOT,)), set()
    units: list[Amount] = [1, 1, Fraction(1, 10), Fraction(1, 3)]
    unit = random.choice(units)
    total: dict[str, Amount] = {name: random.randint(4, 24) * unit for name in names}
    left = dict(total)
    places: dict[str, Sequence[Needs]] = {}
    always: set[str] = set()
    if random.random() < 0.3:
        places["kept"] = ({names[0]: unit},)
        left[names[0]] -= unit
        always.add("kept")

    def place() -> Needs:
        used = random.sample(
            names, random.randint(0 if random.random() < 0.1 else 1, len(names))
        )
        return {name: random.randint(1, int(left[name] / unit)) * unit for name in used}

    for name in "abcde"[: random.randint(2, 5)]:
        some = [place() for _ in range(random.choice([1, 1, 2, 3]))]
        places[name] = tuple({repr(each): each for each in some}.values())
    return total, places, always


class House:
    """
    A house is one run of this simulation.

    @ivar events: how many events and hooks there have been since the first start of llmux.
    """

    def __init__(self, seed: int, policy: MakePolicy) -> None:
        self.random = random = Random(seed)
        self.resources, self.places, self.always = random_room(random)
        self.models = sorted(self.places)
        self._make_policy = policy
        self._settings: dict[str, Any] = {
            "wake_limit": 20.0,
            "request_timeout": random.choice([None, 5.0, 60.0]),
            "min_active": random.choice([0.0, 0.0, 3.0]),
            "drain_before_switch": random.random() < 0.7,
            "drain_timeout": random.choice([None, None, 4.0]),
            "sleep_on_exit": random.random() < 0.3,
            "abandon_wake": random.choice([None, 3.0]),
        }
        self.events = 0
        self.clients: list[Client] = []
        awake = [model for model in self.models if random.random() < 0.3]
        self._begin(awake, {model: 0 for model in awake if random.random() < 0.7}, ())

    def _begin(
        self, awake: Sequence[str], remembered: dict[str, int], interrupted: Sequence[str]
    ) -> None:
        """Start llmux."""
        context = PolicyContext(
            weights=dict.fromkeys(self.models, 1.0),
            resources=self.resources,
            places=self.places,
            always=frozenset(self.always),
            parallel_wakes=self.random.choice([None, None, 1]),
        )
        self.policy = self._make_policy(context, self.random)
        self.clients = []
        self.world = World(
            lambda: self.policy,
            models=self.models,
            awake=awake,
            start=False,
            interrupted=interrupted,
            resources=self.resources,
            places=self.places,
            always=self.always,
            remembered=remembered,
            **self._settings,
        )
        self.hooks = self.world.hooks
        self.hooks.limits = {WAKE: 15.0, SLEEP: 10.0, ALIVE: 2.0}
        self._start = self.hooks.start
        self.hooks.start = self._check_and_start  # type: ignore[method-assign]  # watches
        self.roll()
        self.world.switcher.start()

    def _check_and_start(self, model: str, hook: Any) -> Any:
        switcher = self.world.switcher
        if hook is SLEEP and self._settings["drain_before_switch"]:
            found = switcher.models[model]
            assert not found.guards or found.phase is Phase.UNCERTAIN, f"{model} is busy"
        if hook is WAKE:
            check_a_wake(switcher, model)
        if hook in (WAKE, SLEEP):
            others = [run for run in self.hooks.running if run.hook in (WAKE, SLEEP)]
            assert all(run.model != model for run in others), f"two hooks of {model}"
        return self._start(model, hook)

    def roll(self) -> None:
        """Choose other faults at random."""
        random = self.random
        for model in self.models:
            for hook, failing in ((WAKE, 0.15), (SLEEP, 0.15)):
                code = 1 if random.random() < failing else 0
                delay = None if random.random() < 0.03 else random.choice([0.0, 0.3, 2.0])
                self.hooks.script(model, hook, delay, code)
            # The answer is unknown now and then.
            if random.random() < 0.05:
                self.hooks.once(model, ALIVE, 0.0, 75)

    def act(self) -> None:
        """Let one event happen, chosen at random."""
        random = self.random
        deed = random.random()
        flying = [c for c in self.clients if c.guard is not None and not c.guard.released]
        waiting = [c for c in self.clients if c.waits]
        if deed < 0.4:
            self.clients.append(self.world.ask(random.choice(self.models)))
        elif deed < 0.68 and flying:
            random.choice(flying).finish()
        elif deed < 0.76 and waiting + flying:
            random.choice(waiting + flying).leave()
        elif deed < 0.82 and flying:
            victim = random.choice(flying)
            if random.random() < 0.7:
                self.hooks.awake.discard(victim.model)
            victim.report_dead()
        elif deed < 0.87:
            self.roll()
        elif deed < 0.9:
            self.command()
        else:
            self.world.advance(random.choice([0.1, 0.5, 3.0]))

    def command(self) -> None:
        """Give a command of an operator, which may be refused."""
        random, steering = self.random, self.world.switcher.steering
        model = random.choice(self.models)
        flip, secs = random.random() < 0.5, random.choice([None, 2.0])
        commands: list[Callable[[], Deferred[None]]] = [
            lambda: steering.wake(model, "test"),
            lambda: steering.switch(model, flip, "test"),
            lambda: steering.sleep(random.choice([None, [model]]), flip, False, "test"),
            lambda: steering.sleep([self.freed(model)], flip, True, "test"),
            lambda: steering.pin(model, secs, flip, "test"),
            lambda: steering.unpin(random.choice([None, model]), "test"),
            lambda: steering.pause_switching(secs, flip, random.random() < 0.5, "test"),
            lambda: steering.resume("test"),
        ]
        random.choice(commands)().addErrback(
            lambda failure: failure.trap(CommandError, SwitchError)
        )

    def freed(self, model: str) -> str:
        """
        Note that the operator has ended what may be left of a model that nobody is certain of.
        """
        if self.world.phase(model) is Phase.UNCERTAIN:
            self.hooks.awake.discard(model)
        return model

    def check(self) -> None:
        """Check the invariants of the switcher and of the clients."""
        check_invariants(self.world.switcher)
        for client in self.clients:
            # Each client gets one answer: a guard or an error, never both.
            assert client.guard is None or client.error is None
        for name, model in self.world.switcher.models.items():
            if model.phase is Phase.ASLEEP:
                assert name not in self.hooks.awake, f"{name} is awake, and holds nothing"
        self.clients = [
            client
            for client in self.clients
            if client.waits or (client.guard is not None and not client.guard.released)
        ]

    def live(self, steps: int) -> None:
        """Let so many events happen, and then end llmux in one way or another."""
        for _ in range(steps):
            self.act()
            self.check()
        self._count()

    def _count(self) -> None:
        self.events += len(self.world.events) + len(self.hooks.started)
        self.world.events.clear()
        self.hooks.started.clear()

    def calm_down(self) -> None:
        """End all faults: everybody is served, and each model can be woken."""
        if isinstance(self.policy, ErraticPolicy):
            self.policy.calm = True
        self.world.switcher.steering.unpin(None, "test")
        self.world.switcher.steering.resume("test")
        for model in self.models:
            for hook in (WAKE, SLEEP):
                self.hooks.script(model, hook, 0.2)
        self.clients += [self.world.ask(model) for model in self.models]
        for _ in range(1000):
            for client in self.clients:
                if client.guard is not None:
                    client.guard.release()
            self.world.advance(0.5)
            self.check()
            kept = all(self.world.phase(model) is Phase.AWAKE for model in self.always)
            if kept and not any(client.waits for client in self.clients):
                break
        assert not any(client.waits for client in self.clients), "somebody waits for ever"
        assert kept, "a model is not kept awake"
        self._count()

    def stop(self) -> None:
        """Tell llmux to stop; what is in flight ends in time or is cut off."""
        for client in self.clients:
            if client.guard is not None and self.random.random() < 0.5:
                client.guard.release()
        done = self.world.stop()
        self.world.advance(100)
        assert done == [None]
        self.world.nothing_left()
        assert not any(client.waits for client in self.clients)
        self._count()

    def restart(self) -> None:
        """Start llmux again, on what the last llmux has left."""
        self._begin(sorted(self.hooks.awake), self._places_of(self.hooks.awake), ())

    def kill(self) -> None:
        """
        Kill llmux as C{kill -9} does, and start it again: a wake is cut short, a sleep hook
        runs on.
        """
        awake = set(self.hooks.awake)
        for run in self.hooks.running:
            if run.hook is SLEEP and self.random.random() < 0.5:
                awake.discard(run.model)
        interrupted = [
            name
            for name, model in self.world.switcher.models.items()
            if model.phase in (Phase.WAKING, Phase.UNCERTAIN)
        ]
        self._count()
        self._begin(sorted(awake), self._places_of([*awake, *interrupted]), interrupted)

    def _places_of(self, models: Any) -> dict[str, int]:
        places = self.world.places.places
        return {name: places[name] for name in models if name in places}
