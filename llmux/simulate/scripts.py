"""Hooks that run no script in a simulation, and only take time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook

__all__ = ["HookTimes", "NumberHooks"]


@dataclass(frozen=True)
class HookTimes:
    """
    The seconds that sleep and wake hooks take.

    @ivar default: the seconds of a switch that C{pairs} does not name: half of them
        are for the sleep hook and half for the wake hook.  A wake when no model was
        awake takes the wake hook's half.
    @ivar pairs: the seconds of switches from one model to another; for a pair whose
        first element is None, the seconds of a wake when no model was awake.
    @ivar jitter: each hook takes up to this fraction more or less, at random.
    """

    default: float
    pairs: Mapping[tuple[str | None, str], float] = field(default_factory=dict)
    jitter: float = 0.0

    def sleep(self, source: str, target: str | None) -> float:
        """The seconds of the sleep hook of C{source}, for a switch to C{target}."""
        cost = (
            self.default if target is None else self.pairs.get((source, target), self.default)
        )
        return cost / 2

    def wake(self, source: str | None, target: str) -> float:
        """The seconds of the wake hook of C{target}, after C{source} was put to sleep."""
        cost = self.pairs.get((source, target))
        if cost is not None and source is None:
            return cost
        return (self.default if cost is None else cost) / 2


@implementer(IRunningHook)
class _NumberHook:
    """A run of a hook that succeeds after some time."""

    def __init__(self) -> None:
        self.exited: Deferred[HookResult] = Deferred()

    def kill(self) -> None:
        """Do nothing: the switcher of a simulation is never stopped."""


@implementer(IHookRunner)
class NumberHooks:
    """
    A hook runner whose sleep and wake hooks succeed after the seconds of
    L{HookTimes}, and whose C{alive} hooks tell the truth at once.

    @ivar awake: the model that is awake, or None.
    @ivar changing: True from the start of a sleep hook, or of a wake hook without one,
        to the end of the wake hook.
    @ivar woken: (time, model) for each wake, in order.
    """

    def __init__(
        self,
        clock: IReactorTime,
        costs: HookTimes,
        random: Random,
        target: Callable[[], str | None],
    ) -> None:
        """
        @param target: called as a sleep hook starts; returns the model for
            which it makes room, or None.
        """
        self._clock = clock
        self._costs = costs
        self._random = random
        self._target = target
        self.awake: str | None = None
        self._slept: str | None = None
        self.changing = False
        self.woken: list[tuple[float, str]] = []

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        running = _NumberHook()
        if hook is HookKind.ALIVE:
            running.exited.callback(_result(0 if model == self.awake else 1, 0.0))
            return running
        if hook is HookKind.SLEEP:
            seconds = self._costs.sleep(model, self._target())
        else:
            seconds = self._costs.wake(self._slept, model)
        if self._costs.jitter:
            seconds *= 1 + self._costs.jitter * self._random.uniform(-1, 1)
        self.changing = True
        self._clock.callLater(seconds, self._exit, running, model, hook, seconds)
        return running

    def _exit(self, running: _NumberHook, model: str, hook: HookKind, seconds: float) -> None:
        if hook is HookKind.SLEEP:
            self.awake, self._slept = None, model
        else:
            self.awake, self._slept = model, None
            self.changing = False
            self.woken.append((self._clock.seconds(), model))
        running.exited.callback(_result(0, seconds))


def _result(code: int, seconds: float) -> HookResult:
    return HookResult(code, False, seconds, f"exit status {code}")
