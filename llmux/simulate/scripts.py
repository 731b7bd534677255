"""This module has hooks for simulations, which run no script and only take time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook

__all__ = ["HookTimes", "NumberHooks"]


@dataclass(frozen=True)
class HookTimes:
    """
    L{HookTimes} are how many seconds sleep and wake hooks take.

    @ivar default: the seconds of a switch if nothing else is known of it: half of them are for
        the sleep hook and half for the wake hook.  A wake that puts no model to sleep takes the
        wake hook's half.
    @ivar pairs: the seconds of switches from one model to another, in two halves; for a
        pair whose first element is None, the seconds of a wake that puts no model to
        sleep.
    @ivar jitter: each hook takes up to this fraction more or less, at random.
    @ivar sleeps: the seconds of models' sleep hooks, if C{pairs} does not say them.
    @ivar wakes: the seconds of models' wake hooks, if C{pairs} does not say them.
    """

    default: float
    pairs: Mapping[tuple[str | None, str], float] = field(default_factory=dict)
    jitter: float = 0.0
    sleeps: Mapping[str, float] = field(default_factory=dict)
    wakes: Mapping[str, float] = field(default_factory=dict)

    def sleep(self, source: str, target: str | None) -> float:
        """Return the seconds of the sleep hook of C{source}, for a switch to C{target}."""
        cost = None if target is None else self.pairs.get((source, target))
        if cost is not None:
            return cost / 2
        return self.sleeps.get(source, self.default / 2)

    def wake(self, source: str | None, target: str) -> float:
        """
        Return the seconds of the wake hook of C{target}, after C{source} was put to sleep.
        """
        cost = self.pairs.get((source, target))
        if cost is not None:
            return cost if source is None else cost / 2
        return self.wakes.get(target, self.default / 2)


@implementer(IRunningHook)
class _NumberHook:
    """This run of a hook succeeds after some time, unless it is killed before."""

    def __init__(self, clock: IReactorTime) -> None:
        self.exited: Deferred[HookResult] = Deferred()
        self.end: IDelayedCall | None = None
        self._clock = clock
        self._began = clock.seconds()

    def kill(self) -> None:
        """See L{IRunningHook.kill}."""
        if self.end is not None and self.end.active():
            self.end.cancel()
            self.end = self._clock.callLater(0, self._killed)

    def _killed(self) -> None:
        seconds = self._clock.seconds() - self._began
        self.exited.callback(HookResult(None, False, seconds, "killed by signal 15"))


@implementer(IHookRunner)
class NumberHooks:
    """
    This hook runner has sleep and wake hooks that succeed after the seconds of L{HookTimes},
    and C{alive} hooks that give the right answer at once.

    @ivar awake: the models that are awake.
    @ivar woken: (time, model) for each wake, in order.
    """

    def __init__(
        self,
        clock: IReactorTime,
        costs: HookTimes,
        random: Random,
        partner: Callable[[str], str | None],
    ) -> None:
        """
        @param partner: a function that is called with the model whose hook starts.  For a sleep
            hook it returns the model for which room is made, or None; for a wake hook, the
            model that made room, or None if there was none or more than one.
        """
        self._clock = clock
        self._costs = costs
        self._random = random
        self._partner = partner
        self.awake: set[str] = set()
        self.woken: list[tuple[float, str]] = []

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        running = _NumberHook(self._clock)
        if hook is HookKind.ALIVE:
            running.exited.callback(_result(0 if model in self.awake else 1, 0.0))
            return running
        costs = self._costs
        partner = self._partner(model) if costs.pairs else None
        if hook is HookKind.SLEEP:
            seconds = costs.sleep(model, partner)
        else:
            seconds = costs.wake(partner, model)
        if costs.jitter:
            seconds *= 1 + costs.jitter * self._random.uniform(-1, 1)
        running.end = self._clock.callLater(seconds, self._exit, running, model, hook, seconds)
        return running

    def _exit(self, running: _NumberHook, model: str, hook: HookKind, seconds: float) -> None:
        if hook is HookKind.SLEEP:
            self.awake.discard(model)
        else:
            self.awake.add(model)
            self.woken.append((self._clock.seconds(), model))
        running.exited.callback(_result(0, seconds))


def _result(code: int, seconds: float) -> HookResult:
    return HookResult(code, False, seconds, f"exit status {code}")
