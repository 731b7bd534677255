"""Hooks made of numbers: what a switch costs in a simulation."""

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
    Seconds of sleep and wake hooks.

    @ivar default: of a switch that C{pairs} does not name; half of it for the
        sleep hook and half for the wake hook.  A wake when nothing was awake
        takes its half.
    @ivar pairs: of the switches from one model to another; from None, the
        whole cost of waking when nothing was awake.
    @ivar jitter: every hook takes up to this fraction more or less, by chance.
    """

    default: float
    pairs: Mapping[tuple[str | None, str], float] = field(default_factory=dict)
    jitter: float = 0.0

    def sleep(self, source: str, target: str | None) -> float:
        """The sleep hook of C{source}, when the switch leads to C{target}."""
        cost = (
            self.default if target is None else self.pairs.get((source, target), self.default)
        )
        return cost / 2

    def wake(self, source: str | None, target: str) -> float:
        """The wake hook of C{target}, when C{source} was put to sleep for it."""
        cost = self.pairs.get((source, target))
        if cost is not None and source is None:
            return cost
        return (self.default if cost is None else cost) / 2


@implementer(IRunningHook)
class _NumberHook:
    """A hook that takes its time and succeeds."""

    def __init__(self) -> None:
        self.exited: Deferred[HookResult] = Deferred()

    def kill(self) -> None:
        """A simulation ends; it does not shut down."""


@implementer(IHookRunner)
class NumberHooks:
    """
    Every sleep and wake succeeds after what the switch costs, and C{alive}
    tells the truth at once.

    @ivar awake: the model that is awake, or None.
    @ivar changing: a sleep or a wake hook runs.
    @ivar woken: (when, model) for every wake, in order.
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
