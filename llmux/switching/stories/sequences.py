"""
This module has the steps that wake a model and put it to sleep: hooks in their order, and what
their results mean together.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook
from llmux.switching.facts.settings import ModelSettings

__all__ = ["Answer", "HookSequence", "SleepOutcome", "WakeOutcome", "answer_of"]

_POLL_GROWTH = 1.5
_ALIVE_AT_ONCE = 16

KILLED = "killed"
"""A sequence that was ended by L{HookSequence.kill} has this failure."""


class Answer(Enum):
    """An answer is what C{alive} can say."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


def answer_of(result: HookResult) -> Answer:
    """Return the answer that the result of an C{alive} hook stands for."""
    if result.ok:
        return Answer.YES
    return Answer.NO if result.says_no else Answer.UNKNOWN


class SleepOutcome(Struct, frozen=True):
    """
    A L{SleepOutcome} is the result of an attempt to put a model to sleep.

    @ivar failure: why the sleep hook failed, in a few words; None if it
        succeeded, and then the model sleeps.
    @ivar alive: the answer of C{alive} after the failure.
    """

    failure: str | None = None
    alive: Answer = Answer.UNKNOWN

    @property
    def sleeps(self) -> bool:
        """Tell whether the model sleeps, because its hook has succeeded or C{alive} says no."""
        return self.failure is None or self.alive is Answer.NO


class WakeOutcome(Struct, frozen=True):
    """
    A L{WakeOutcome} is the result of an attempt to wake a model.

    @ivar failure: why the model is not awake, in a few words; None if it is.
    """

    failure: str | None = None


class HookSequence:
    """
    A L{HookSequence} runs the hooks of one story.

    The coroutine methods never raise, whatever the hooks do.  After L{kill} each of them ends
    soon, and runs no further hook.

    @ivar killed: whether L{kill} has been called.
    @ivar last_alive: the last result of C{alive} during L{wake}; None before that.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, hooks: IHookRunner) -> None:
        self._clock = clock
        self._hooks = hooks
        self._running: set[IRunningHook] = set()
        self._pauses: set[Deferred[None]] = set()
        self.killed = False
        self.last_alive: HookResult | None = None

    def kill(self) -> None:
        """End the hooks that run and the pauses between them."""
        self.killed = True
        for hook in list(self._running):
            hook.kill()
        self.wake_up()

    def wake_up(self) -> None:
        """End the pauses between hooks at once."""
        for pause in list(self._pauses):
            pause.cancel()

    async def pause(self, seconds: float) -> None:
        """Wait for this many seconds, unless the sequence has been killed or is woken up."""
        if self.killed:
            return
        waiting: Deferred[None] = deferLater(self._clock, seconds)
        self._pauses.add(waiting)
        try:
            await waiting
        except CancelledError:
            pass
        finally:
            self._pauses.discard(waiting)

    async def ask(self, model: str) -> HookResult:
        """Ask the model whether it is awake and able to serve."""
        return await self._run(model, HookKind.ALIVE)

    async def ask_all(self, models: Iterable[str]) -> list[tuple[str, HookResult]]:
        """Ask all of these models, at most sixteen at a time."""
        some = DeferredSemaphore(_ALIVE_AT_ONCE)

        def ask(model: str) -> Deferred[HookResult]:
            return Deferred.fromCoroutine(self.ask(model))

        names = list(models)
        answers = await DeferredList(
            [some.run(ask, model) for model in names], fireOnOneErrback=True
        )
        return [(model, result) for model, (_, result) in zip(names, answers, strict=True)]

    async def put_to_sleep(self, model: str, settings: ModelSettings) -> SleepOutcome:
        """Run the sleep hook, and ask C{alive} if it fails."""
        result = await self._run(model, HookKind.SLEEP)
        if result.ok:
            if settings.confirm_sleep:
                return await self._confirmed(model, settings)
            return SleepOutcome()
        if self.killed:
            return SleepOutcome(KILLED)
        alive = await self._run(model, HookKind.ALIVE)
        return SleepOutcome(f"sleep hook: {result.reason}", answer_of(alive))

    async def _confirmed(self, model: str, settings: ModelSettings) -> SleepOutcome:
        """Ask until C{alive} says no, because before that the model's memory is not free."""
        limit = settings.sleep_timeout
        deadline = self._clock.seconds() + limit
        poll, longest = settings.polls
        while not self.killed:
            answer = answer_of(await self._run(model, HookKind.ALIVE))
            if answer is Answer.NO:
                return SleepOutcome()
            left = deadline - self._clock.seconds()
            if left <= 0:
                return SleepOutcome(
                    f"{limit:g} s after its sleep hook, alive does not say no", answer
                )
            await self.pause(min(poll, left))
            poll = min(poll * _POLL_GROWTH, longest)
        return SleepOutcome(KILLED)

    async def wake(self, model: str, settings: ModelSettings) -> WakeOutcome:
        """Run the wake hook, then ask C{alive} until it says yes, within C{wake_timeout}."""
        limit = settings.wake_timeout
        deadline = self._clock.seconds() + limit
        result = await self._run(model, HookKind.WAKE)
        if self.killed:
            return WakeOutcome(KILLED)
        if not result.ok:
            return WakeOutcome(f"wake hook: {result.reason}")
        poll, longest = settings.polls
        while not self.killed:
            self.last_alive = alive = await self._run(model, HookKind.ALIVE)
            if alive.ok:
                return WakeOutcome()
            left = deadline - self._clock.seconds()
            if left <= 0:
                return WakeOutcome(f"not alive within its time limit of {limit:g} s")
            await self.pause(min(poll, left))
            poll = min(poll * _POLL_GROWTH, longest)
        return WakeOutcome(KILLED)

    async def _run(self, model: str, kind: HookKind) -> HookResult:
        if self.killed:
            return HookResult(None, False, 0.0, KILLED)
        try:
            running = self._hooks.start(model, kind)
        except Exception:
            self._log.failure(
                "a defect in the hook runner: {hook} hook of {model}",
                hook=kind.value,
                model=model,
            )
            return HookResult(None, False, 0.0, "internal error")
        self._running.add(running)
        try:
            return await running.exited
        finally:
            self._running.discard(running)
