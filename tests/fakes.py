"""
This module has stand-ins for the parts of llmux that do I/O.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from llmux.hooks.runs.hook_process import exit_reason
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook

__all__ = ["FakeHook", "FakeHookRunner", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """
    An outcome is what a fake hook does.

    @ivar delay: seconds until it exits, None for never.
    @ivar exit_code: its status; None if signal 9 ends it.
    @ivar ignores_term: a kill ends it only when the runner's grace is over.
    """

    delay: float | None = 0.0
    exit_code: int | None = 0
    stderr: str = ""
    ignores_term: bool = False


@implementer(IRunningHook)
class FakeHook:
    """
    This run of a hook is nothing but a delay on the clock.  Even a delay
    of 0 takes a C{clock.advance(0)}: no process ends before it was started.
    """

    def __init__(
        self, runner: FakeHookRunner, model: str, hook: HookKind, outcome: Outcome
    ) -> None:
        self.model = model
        self.hook = hook
        self.outcome = outcome
        self.killed = False
        self.exited: Deferred[HookResult] = Deferred()
        self._runner = runner
        self._clock = runner.clock
        self._started = self._clock.seconds()
        self._timed_out = False
        self._calls: list[IDelayedCall] = []
        if outcome.delay is not None:
            self._calls.append(self._clock.callLater(outcome.delay, self._exit))
        self._limit = runner.limits.get(hook)
        if self._limit is not None:
            self._calls.append(self._clock.callLater(self._limit, self._time_out))

    def __repr__(self) -> str:
        return f"<FakeHook {self.model} {self.hook.value}>"

    def kill(self) -> None:
        if not self.killed and self in self._runner.running:
            self.killed = True
            self._cancel()
            grace = self._runner.grace if self.outcome.ignores_term else 0.0
            self._calls.append(self._clock.callLater(grace, self._finish, None, "stopped"))

    def _cancel(self) -> None:
        for call in self._calls:
            if call.active():
                call.cancel()
        self._calls.clear()

    def _time_out(self) -> None:
        self.kill()
        self._timed_out = True

    def _exit(self) -> None:
        code = self.outcome.exit_code
        self._finish(code, "killed by signal 9" if code is None else exit_reason(code))

    def _finish(self, exit_code: int | None, reason: str) -> None:
        self._cancel()
        if self._timed_out:
            reason = f"time limit of {self._limit:g} s"
        result = HookResult(
            exit_code,
            self._timed_out,
            self._clock.seconds() - self._started,
            reason,
            self.outcome.stderr,
        )
        self._runner._ended(self, result)
        self.exited.callback(result)


@implementer(IHookRunner)
class FakeHookRunner:
    """
    This runner has hooks made of numbers: every hook takes no time and exits with 0 until
    told otherwise, and C{alive} tells the truth: yes from the exit of a
    successful C{wake} to that of a successful C{sleep}.

    @ivar started: every hook that was started, in order.
    @ivar running: those that have not exited.
    @ivar awake: the models whose last successful wake or sleep was a wake.
        Add a name to have its C{alive} say yes at start; remove it to kill
        its backend.
    """

    def __init__(
        self,
        clock: IReactorTime,
        limits: Mapping[HookKind, float] | None = None,
        grace: float = 5.0,
    ) -> None:
        """
        @param grace: seconds from TERM to KILL.
        @param limits: the time limit in seconds for each kind of hook; none
            for those left out.
        """
        self.clock = clock
        self.grace = grace
        self.limits: Mapping[HookKind, float] = limits or {}
        self.started: list[tuple[str, HookKind]] = []
        self.running: list[FakeHook] = []
        self.awake: set[str] = set()
        self._standing: dict[tuple[str, HookKind], Outcome] = {}
        self._queued: defaultdict[tuple[str, HookKind], deque[Outcome]] = defaultdict(deque)

    def script(
        self,
        model: str,
        hook: HookKind,
        delay: float | None = 0.0,
        exit_code: int | None = 0,
        *,
        stderr: str = "",
        ignores_term: bool = False,
    ) -> None:
        """Say what this hook does from now on."""
        self._standing[model, hook] = Outcome(delay, exit_code, stderr, ignores_term)

    def once(
        self,
        model: str,
        hook: HookKind,
        delay: float | None = 0.0,
        exit_code: int | None = 0,
        *,
        stderr: str = "",
        ignores_term: bool = False,
    ) -> None:
        """
        Say what this hook does the next time only, or the time after those
        already queued; then it does what L{script} said.
        """
        self._queued[model, hook].append(Outcome(delay, exit_code, stderr, ignores_term))

    def never(self, model: str, hook: HookKind) -> None:
        """Let this hook run until it is killed or its time limit ends it."""
        self.script(model, hook, None)

    def start(self, model: str, hook: HookKind) -> FakeHook:
        self.started.append((model, hook))
        running = FakeHook(self, model, hook, self._outcome(model, hook))
        self.running.append(running)
        return running

    def _outcome(self, model: str, hook: HookKind) -> Outcome:
        queued = self._queued[model, hook]
        if queued:
            return queued.popleft()
        standing = self._standing.get((model, hook))
        if standing is not None:
            return standing
        if hook is HookKind.ALIVE:
            return Outcome(exit_code=0 if model in self.awake else 1)
        return Outcome()

    def _ended(self, run: FakeHook, result: HookResult) -> None:
        self.running.remove(run)
        if result.ok and run.hook is HookKind.WAKE:
            self.awake.add(run.model)
        elif result.ok and run.hook is HookKind.SLEEP:
            self.awake.discard(run.model)
