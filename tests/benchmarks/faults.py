"""
This program makes random faults on random machines, with the production switcher under a clock
that jumps::

    python -m tests.benchmarks.faults [--events 1000000] [--seed 1] [--processes 2]

Each episode has a machine of its own (resources, models, needs, places), settings, traffic and
a policy.  Hooks fail, hang and die, C{alive} does not answer, backends die, clients leave, and
an operator gives commands.  After each event the invariants of the design must hold; then the
faults end, and everybody must be served.  An episode that fails can be run again by its seed::

    python -m tests.benchmarks.faults --episode 4711
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from functools import partial
from multiprocessing import Pool
from random import Random
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from llmux.control import CommandError
from llmux.errors import SwitchError
from llmux.interfaces import HookKind, ISwitchPolicy, Phase, PolicyContext
from llmux.policy.catalog import find_policy
from llmux.simulate.clock import HeapClock
from llmux.switching.facts.settings import ModelSettings, SwitchSettings
from llmux.switching.switcher import InFlightGuard, ModelSwitcher
from tests.benchmarks.random_machine import Machine
from tests.fakes import FakeHook, FakeHookRunner, Outcome
from tests.invariants import check_invariants

__all__ = ["Episode", "main"]

POLICIES = ("fifo", "lru", "cost_aware")
LONGEST_SERVICE = 40.0
MAY_HAVE_GUARDS = {Phase.AWAKE, Phase.DRAINING, Phase.CHECKING}


class _FaultyHooks(FakeHookRunner):
    """These hooks fail, hang, die and do not answer, until the episode is calm."""

    def __init__(self, episode: Episode, random: Random) -> None:
        limits = {HookKind.WAKE: 30.0, HookKind.SLEEP: 20.0, HookKind.ALIVE: 2.0}
        super().__init__(episode.clock, limits)
        self.badness = random.choice((0.0, 0.02, 0.1, 0.3))
        self._episode = episode
        self._random = random

    def start(self, model: str, hook: HookKind) -> FakeHook:
        # An error that is raised here would only reach the switcher's log.
        self._episode.problems += self._episode.problems_with(model, hook)
        self.started.clear()
        return super().start(model, hook)

    def _outcome(self, model: str, hook: HookKind) -> Outcome:
        random = self._random
        delay: float | None
        if hook is HookKind.ALIVE:
            delay = random.choice((0.0, 0.0, 0.1))
            if random.random() < self.badness:
                return random.choice(
                    (
                        Outcome(None),
                        Outcome(delay, 75),
                        Outcome(delay, None),
                        Outcome(delay, 127),
                    )
                )
            return Outcome(delay, 0 if model in self.awake else 1)
        delay = random.choice((0.0, 0.2, 1.0, 5.0, 12.0))
        if random.random() < self.badness:
            return random.choice(
                (
                    Outcome(delay, 1),
                    Outcome(None),
                    Outcome(None, ignores_term=True),
                    Outcome(delay, None),
                )
            )
        return Outcome(delay, 0)


class _Request:
    """This is a client's request, from its sending to its answer."""

    def __init__(self, episode: Episode, model: str) -> None:
        self.episode = episode
        self.model = model
        self.sent = episode.clock.seconds()
        self.tries = 0
        self.answers = 0
        self.guard: InFlightGuard | None = None
        self.deferred: Deferred[InFlightGuard] | None = None
        self.end: IDelayedCall | None = None
        self.impatience: IDelayedCall | None = None
        episode.open.add(self)
        if episode.random.random() < 0.1 and not episode.is_calm:
            patience = episode.random.expovariate(1 / 20)
            self.impatience = episode.clock.callLater(patience, self._leave)
        self._ask()

    def _ask(self) -> None:
        switcher = self.episode.switcher
        self.tries += 1
        guard = switcher.acquire_now(self.model)
        if guard is not None:
            self._forward(guard)
            return
        self.deferred = switcher.acquire(self.model, arrived=self.sent, retry=self.tries > 1)
        self.deferred.addCallbacks(self._forward, self._refused)

    def _forward(self, guard: InFlightGuard) -> None:
        episode = self.episode
        self.deferred = None
        assert guard.model == self.model
        phase = episode.switcher.models[self.model].phase
        assert phase in MAY_HAVE_GUARDS, f"{self.model} got a guard while {phase.value}"
        assert self.guard is None, "a second guard"
        self.guard = guard
        guard.on_abort = lambda why: self._aborted()
        if self.model in episode.hooks.awake:
            service = min(episode.random.expovariate(1 / 4), LONGEST_SERVICE)
            self.end = episode.clock.callLater(service, self._served)
        else:
            self.end = episode.clock.callLater(0, self._refused_by_backend)

    def _served(self) -> None:
        assert self.guard is not None
        self.end = None
        if self.model not in self.episode.hooks.awake:
            self._refused_by_backend()
            return
        self.guard.release()
        self._over("served")

    def _refused_by_backend(self) -> None:
        assert self.guard is not None
        guard, self.guard, self.end = self.guard, None, None
        self.episode.switcher.backend_failed(guard).addCallback(self._answered)

    def _answered(self, may_wait_again: bool) -> None:
        if self in self.episode.open:
            if may_wait_again and self.tries < 2:
                self._ask()
            else:
                self._over("502")

    def _aborted(self) -> None:
        assert self.guard is not None
        guard, self.guard = self.guard, None
        if self.end is not None:
            self.end.cancel()
            self.end = None
        may_wait_again = guard.may_wait_again
        guard.release(answered=False)
        self._answered(may_wait_again)

    def _leave(self) -> None:
        self.impatience = None
        if self.deferred is not None:
            self.deferred.cancel()
        elif self.guard is not None:
            guard, self.guard = self.guard, None
            assert self.end is not None
            self.end.cancel()
            guard.release(answered=False)
            self._over("left")
        else:
            self._over("left")

    def _refused(self, failure: Failure) -> None:
        self.deferred = None
        failure.trap(SwitchError, CancelledError)
        self._over("left" if failure.check(CancelledError) else "refused")

    def _over(self, outcome: str) -> None:
        self.answers += 1
        assert self.answers == 1, "a request was answered twice"
        self.episode.open.remove(self)
        self.episode.counts[outcome] += 1
        if self.impatience is not None:
            self.impatience.cancel()
            self.impatience = None


class Episode:
    """
    An episode is one machine, its traffic and its faults.

    @ivar counts: by kind of event, how often it happened.
    @ivar open: the requests that have not been answered.
    @ivar problems: sentences about what was wrong when a hook started.
    @ivar is_calm: True as soon as no more faults are made.
    """

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.clock = HeapClock()
        self.machine = Machine.drawn(random)
        self.hooks = _FaultyHooks(self, Random(seed + 1))
        self.hooks.awake.update(n for n in self.machine.places if random.random() < 0.3)
        self.counts: Counter[str] = Counter()
        self.open: set[_Request] = set()
        self.problems: list[str] = []
        self.is_calm = False
        self.drains = random.random() < 0.8
        timeout = random.choice((None, None, 30.0, 300.0))
        settings = SwitchSettings(
            request_timeout=timeout,
            drain_before_switch=self.drains,
            min_active=random.choice((0.0, 0.0, 5.0)),
            drain_timeout=random.choice((None, None, 10.0)),
            abandon_wake=random.choice((None, 1.0, 30.0)),
            look_after_sleep=random.choice((None, 2.0)),
        )
        self.policy = random.choice(POLICIES)
        self.switcher = ModelSwitcher(
            self.clock,
            self.hooks,
            self._build_policy(settings),
            {
                name: ModelSettings(
                    30.0,
                    20.0,
                    confirm_sleep=random.random() < 0.2,
                    check=random.choice((None, 7.0, 60.0)),
                    places=places,
                    always=name == self.machine.always,
                    idle_sleep=None if name == self.machine.always else self._idle_sleep(),
                )
                for name, places in self.machine.places.items()
            },
            settings,
            resources=self.machine.resources,
        )
        # Until those that were found awake fit, more may be held than there is.
        self._is_overdrawn = True
        self._rate = random.choice((0.02, 0.1, 0.5, 2.0))
        self._deaths = random.choice((0.0, 0.0, 0.005, 0.05))
        self._names = sorted(self.machine.places)
        self._commands = random.choice((0.0, 0.0, 0.01, 0.1))
        # These are the commands whose result is not known yet.
        self._ordered: set[Deferred[None]] = set()

    def _idle_sleep(self) -> float | None:
        return self.random.choice((None, None, None, 0.5, 20.0))

    def _build_policy(self, settings: SwitchSettings) -> ISwitchPolicy:
        context = PolicyContext(
            weights=dict.fromkeys(self.machine.places, 1.0),
            resources=self.machine.resources,
            places=self.machine.places,
            always=frozenset([self.machine.always] if self.machine.always else []),
            request_timeout=settings.request_timeout,
            min_active=settings.min_active,
            drain_before_switch=settings.drain_before_switch,
            parallel_wakes=self.random.choice((None, None, 1, 2)),
        )
        factory = find_policy(self.policy)
        own = None if factory.settings is None else factory.settings()
        policy: ISwitchPolicy = factory.build(context, own)
        return policy

    # ------------------------------------------------------------------ the run

    def run(self, events: int) -> None:
        """
        Run that many events, then end all faults, and check that everybody is served.

        @raise AssertionError: an invariant is broken.
        """
        self.switcher.start()
        self._send()
        self._strike()
        for _ in range(events):
            assert self.clock.step(), "nothing will ever happen again"
            self.check()
        self.counts["events"] += events
        self._clear_up()

    def _clear_up(self) -> None:
        """End all faults: whoever waits must be served, and llmux must stop."""
        self.is_calm = True
        self.hooks.badness = 0.0
        for freed in (
            self.switcher.steering.resume,
            partial(self.switcher.steering.unpin, None),
        ):
            freed("storm").addErrback(lambda failure: failure.trap(CommandError))
        limit = self.clock.seconds() + 7200
        while self.open and self.clock.step(limit):
            self.check()
            self.counts["events"] += 1
        assert not self.open, f"{len(self.open)} wait for ever"
        done: list[None] = []
        self.switcher.stop().addCallback(done.append)
        limit = self.clock.seconds() + 600
        while not done and self.clock.step(limit):
            self.counts["events"] += 1
        assert done, "llmux does not stop"
        assert not self._ordered, f"{len(self._ordered)} commands were never answered"
        assert not self.switcher.stories, "a story goes on after the end"
        assert not any(model.guards for model in self.switcher.models.values())

    def _send(self) -> None:
        if not self.is_calm:
            _Request(self, self.random.choice(self._names))
            self.clock.callLater(self.random.expovariate(self._rate), self._send)

    def _strike(self) -> None:
        """Let a backend die now and then, or let somebody else start it."""
        if self.is_calm:
            return
        if self.hooks.awake and self.random.random() < self._deaths:
            self.counts["deaths"] += 1
            self.hooks.awake.discard(self.random.choice(sorted(self.hooks.awake)))
        if self.random.random() < self._deaths:
            self.switcher.backend_in_doubt(self.random.choice(self._names))
        if self.random.random() < self._commands:
            self._command()
        self.clock.callLater(self.random.expovariate(1.0), self._strike)

    def _command(self) -> None:
        """Give a random command, as an operator does."""
        random, steering = self.random, self.switcher.steering
        model = random.choice(self._names)
        flag = random.random() < 0.5
        secs = random.choice((None, 5.0, 60.0))
        verb = random.choice(("wake", "switch", "sleep", "pin", "unpin", "pause", "resume"))
        self.counts[f"{verb} commands"] += 1
        if verb == "wake":
            done = steering.wake(model, "storm")
        elif verb == "switch":
            done = steering.switch(model, flag, "storm")
        elif verb == "sleep":
            models = None if random.random() < 0.2 else [model]
            done = steering.sleep(models, flag, False, "storm")
        elif verb == "pin":
            done = steering.pin(model, secs, flag, "storm")
        elif verb == "unpin":
            done = steering.unpin(None if flag else model, "storm")
        elif verb == "pause":
            done = steering.pause_switching(secs, flag, random.random() < 0.3, "storm")
        else:
            done = steering.resume("storm")
        self._ordered.add(done)
        done.addBoth(self._command_over, done)

    def _command_over(self, result: Failure | None, done: Deferred[None]) -> None:
        self._ordered.discard(done)
        if isinstance(result, Failure):
            result.trap(CommandError, SwitchError)
            self.counts["refused commands"] += 1

    # ------------------------------------------------------------ the invariants

    def problems_with(self, model: str, hook: HookKind) -> Iterator[str]:
        """Say what is wrong when a hook starts."""
        self.counts[f"{hook.value} hooks"] += 1
        if hook is HookKind.ALIVE:
            return
        if model in {r.model for r in self.hooks.running if r.hook is not HookKind.ALIVE}:
            yield f"two hooks of {model} at once"
        found = self.switcher.models[model]
        if hook is HookKind.WAKE:
            if found.phase is not Phase.WAKING:
                yield f"{model} is woken while {found.phase.value}"
            held = dict(self.switcher.capacity.held(model))
            if held not in [dict(place) for place in self.machine.places[model]]:
                yield f"{model} holds what is no place of it"
            for resource in held:
                if self._held(resource) > self.machine.resources[resource]:
                    yield f"{model} woke without {resource}"
            return
        pause = self.switcher.steering.pause
        may_sleep = found.phase is Phase.UNCERTAIN or (pause is not None and pause.sleeps)
        if model == self.machine.always and not may_sleep:
            yield f"{model} is put to sleep, and is to be awake always"
        if self.drains and found.phase is not Phase.UNCERTAIN and found.guards:
            yield f"{model} is put to sleep with requests in flight"

    def _held(self, resource: str) -> Any:
        capacity = self.switcher.capacity
        return sum(capacity.held(name).get(resource, 0) for name in self._names)

    def check(self) -> None:
        """
        Check the invariants, which must hold after each event.

        @raise AssertionError: an invariant is broken.
        """
        assert not self.problems, "; ".join(self.problems)
        switcher = self.switcher
        check_invariants(switcher)
        capacity = switcher.capacity
        overdrawn = any(
            self._held(resource) > there_is
            for resource, there_is in self.machine.resources.items()
        )
        if overdrawn:
            assert self._is_overdrawn, "more is held than there is"
        else:
            self._is_overdrawn = False
        for name, model in switcher.models.items():
            assert name not in self.hooks.awake or model.phase is not Phase.ASLEEP, (
                f"{name} counts as asleep, and is awake"
            )
            if model.phase is not Phase.ASLEEP:
                assert capacity.held(name) or {} in self.machine.places[name], (
                    f"{name} is {model.phase.value} and holds nothing"
                )


def _one(job: tuple[int, int]) -> tuple[int, str, Counter[str], str]:
    seed, events = job
    episode = Episode(seed)
    defects: list[str] = []

    def observe(event: LogEvent) -> None:
        if "log_failure" in event or event.get("event") == "policy_failed":
            defects.append(f"at {episode.clock.seconds():.3f} s: {formatEvent(event)}")
            if "log_failure" in event:
                defects.append(event["log_failure"].getTraceback())

    observer = cast(ILogObserver, observe)
    globalLogPublisher.addObserver(observer)
    try:
        episode.run(events)
    except Exception:
        defects.append(traceback.format_exc())
    finally:
        globalLogPublisher.removeObserver(observer)
    return seed, episode.policy, episode.counts, "\n".join(defects)


def main() -> int:
    """Run the program; the exit status is 1 if an invariant was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.faults")
    parser.add_argument("--events", type=int, default=1_000_000, help="in all (default: 10^6)")
    parser.add_argument("--per-episode", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--episode", type=int, help="run this episode alone, by its seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    seeds = [
        options.seed * 1_000_003 + 2 * n for n in range(options.events // options.per_episode)
    ]
    if options.episode is not None:
        seeds = [options.episode]
    jobs = [(seed, options.per_episode) for seed in seeds]
    total: Counter[str] = Counter()
    failed = 0
    with Pool(options.processes, initializer=os.nice, initargs=(10,)) as pool:
        for seed, policy, counts, problem in pool.imap_unordered(_one, jobs):
            total += counts
            total[f"episodes of {policy}"] += 1
            if problem:
                failed += 1
                print(f"episode {seed} ({policy}):\n{problem}", file=sys.stderr)
    print(", ".join(f"{count} {what}" for what, count in sorted(total.items())))
    print(f"{failed} of {len(jobs)} episodes broke an invariant" if failed else "nothing broke")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
