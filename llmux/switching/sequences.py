"""
The steps that put a model to sleep and wake it: hooks in their order, and what
their outcomes mean together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook

__all__ = ["Lifecycle", "SleepOutcome", "WakeOutcome"]

_FIRST_POLL = 0.1
_LONGEST_POLL = 1.0
_POLL_GROWTH = 1.5
_ALIVE_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class SleepOutcome:
    """
    @ivar asleep: the model is known to be asleep.
    @ivar failure: why the hook failed, in a few words; None if it succeeded.
        Both at once: the hook failed, but C{alive} said no.
    """

    asleep: bool
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class WakeOutcome:
    """
    @ivar failure: why the model is not awake, in a few words; None if it is.
    """

    failure: str | None = None


class Lifecycle:
    """
    Runs hooks in sequence.  One sequence at a time changes a model; each can
    be cut short by L{kill}, after which it ends by itself, soon.

    @param wake_limits: per model, the seconds within which its wake hook and
        the C{alive} that follows must both have succeeded.
    """

    def __init__(
        self, clock: IReactorTime, hooks: IHookRunner, wake_limits: Mapping[str, float]
    ) -> None:
        self._clock = clock
        self._hooks = hooks
        self._wake_limits = wake_limits
        self._running: set[IRunningHook] = set()
        self._pause: tuple[IDelayedCall, Deferred[None]] | None = None
        self._killed = False

    def kill(self) -> None:
        """End the hooks that run, and start no more of the sequences under way."""
        self._killed = True
        for hook in list(self._running):
            hook.kill()
        if self._pause is not None:
            call, waiter = self._pause
            self._pause = None
            call.cancel()
            waiter.callback(None)

    def alive(self, model: str) -> Deferred[HookResult]:
        """Ask whether the model is awake and able to serve."""
        return Deferred.fromCoroutine(self._run(model, HookKind.ALIVE))

    def who_is_alive(self, models: Iterable[str]) -> Deferred[list[tuple[str, HookResult]]]:
        """Ask all of these, a few at a time."""
        return Deferred.fromCoroutine(self._ask_all(list(models)))

    def put_to_sleep(self, model: str) -> Deferred[SleepOutcome]:
        """Run the sleep hook; where it fails, C{alive} has the last word."""
        return Deferred.fromCoroutine(self._put_to_sleep(model))

    def wake(self, model: str) -> Deferred[WakeOutcome]:
        """Run the wake hook, then C{alive} until it says yes."""
        return Deferred.fromCoroutine(self._wake(model))

    async def _run(self, model: str, kind: HookKind) -> HookResult:
        running = self._hooks.start(model, kind)
        self._running.add(running)
        try:
            return await running.exited
        finally:
            self._running.discard(running)

    async def _ask_all(self, models: list[str]) -> list[tuple[str, HookResult]]:
        some = DeferredSemaphore(_ALIVE_AT_ONCE)
        answers = await DeferredList(
            [some.run(self.alive, model) for model in models], fireOnOneErrback=True
        )
        return [(model, result) for model, (_, result) in zip(models, answers, strict=True)]

    async def _put_to_sleep(self, model: str) -> SleepOutcome:
        self._killed = False
        result = await self._run(model, HookKind.SLEEP)
        if result.ok:
            return SleepOutcome(asleep=True)
        if self._killed:
            return SleepOutcome(asleep=False, failure="killed")
        alive = await self._run(model, HookKind.ALIVE)
        return SleepOutcome(asleep=alive.says_no, failure=f"sleep hook: {result.reason}")

    async def _wake(self, model: str) -> WakeOutcome:
        self._killed = False
        deadline = self._clock.seconds() + self._wake_limits[model]
        result = await self._run(model, HookKind.WAKE)
        if not result.ok:
            return WakeOutcome(f"wake hook: {result.reason}")
        poll = _FIRST_POLL
        while not self._killed:
            alive = await self._run(model, HookKind.ALIVE)
            if alive.ok:
                return WakeOutcome()
            left = deadline - self._clock.seconds()
            if left <= 0:
                limit = self._wake_limits[model]
                return WakeOutcome(f"not alive within its time limit of {limit:g} s")
            await self._wait(min(poll, left))
            poll = min(poll * _POLL_GROWTH, _LONGEST_POLL)
        return WakeOutcome("killed")

    def _wait(self, seconds: float) -> Deferred[None]:
        waiter: Deferred[None] = Deferred()

        def done() -> None:
            self._pause = None
            waiter.callback(None)

        self._pause = self._clock.callLater(seconds, done), waiter
        return waiter
