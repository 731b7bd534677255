"""
The scripts that wake a model, put it to sleep and ask whether it is awake.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorCore,
    IReactorFDSet,
    IReactorTime,
)
from twisted.logger import Logger, LogLevel
from zope.interface import implementer

from llmux.config import ModelConfig
from llmux.hooks.spawn import OutputPipe, Shell, Watch, watch_exit
from llmux.hooks.state import StateDirectory, WakeNote, end_group
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook, IWakeNotes

__all__ = ["HookMetrics", "HookRunner", "IHookReactor", "Lines", "exit_reason"]

GRACE = 5.0
"""Seconds from TERM to KILL, and from there until a hook is given up."""

_LOOK = 0.05
"""Seconds between two looks at a process group that was sent TERM."""

_LINE = 8 * 1024
_TAIL = 4 * 1024

_log = Logger()


class IHookReactor(IReactorCore, IReactorFDSet, IReactorTime):
    """What hooks want of a reactor."""


class HookMetrics(Protocol):
    """Where the outcomes are counted."""

    def hook_finished(self, model: str, hook: str, seconds: float, ok: bool) -> None:
        """
        A hook has ended.

        @param ok: it did what it is for.  An C{alive} that says no has, too.
        """


@implementer(IHookRunner, IWakeNotes)
class HookRunner:
    """
    Runs hooks as C{sh -c SCRIPT}.

    A hook has ended when its shell has exited.  What it has left running in
    the background lives on, and its output goes on to the log; but a hook
    that is killed, or runs past its time limit, takes its whole process group
    with it, and has ended when they are all gone, or have been sent KILL.
    """

    def __init__(
        self,
        reactor: IHookReactor,
        models: Mapping[str, ModelConfig],
        directory: str,
        *,
        state: StateDirectory | None = None,
        metrics: HookMetrics | None = None,
        grace: float = GRACE,
        watch: Watch = watch_exit,
    ) -> None:
        """
        @param directory: where hooks run.
        @param state: where each model has a directory of its own; without
            one there is no C{LLMUX_STATE}, and no note of wakes.
        @param grace: seconds from TERM to KILL.
        @param watch: how to wait for the exit of a process.
        """
        self._reactor = reactor
        self._models = models
        self._directory = directory
        self._state = state
        self._metrics = metrics
        self._grace = grace
        self._watch = watch
        self._environment = dict(os.environb)
        self._noted: set[str] = set()
        self._notes_of_others: dict[str, WakeNote] | None = None
        self._ended: Deferred[None] | None = None

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        """
        Start a hook under its time limit.

        @raise KeyError: there is no such model.
        """
        config = self._models[model]
        script, limit = {
            HookKind.WAKE: (config.wake, config.wake_timeout_secs),
            HookKind.SLEEP: (config.sleep, config.sleep_timeout_secs),
            HookKind.ALIVE: (config.alive, config.alive_timeout_secs),
        }[hook]
        run = _Run(self._reactor, model, hook, limit, self._grace, self._metrics)
        try:
            environment = {
                **self._environment,
                b"LLMUX_MODEL": model.encode(),
                b"LLMUX_HOOK": hook.value.encode(),
                b"LLMUX_HOST": config.host.encode(),
                b"LLMUX_PORT": b"%d" % config.port,
                b"LLMUX_TIMEOUT_SECS": _seconds(limit).encode(),
            }
            if self._state is not None:
                if self._ended is None:
                    self.end_interrupted()
                path = self._state.model_directory(model)
                environment[b"LLMUX_STATE"] = os.fsencode(path)
            shell = Shell(script, self._directory, environment, self._reactor)
        except (OSError, ValueError) as error:
            run.not_started(error)
        else:
            run.started(shell, self._watch)
            if self._state is not None:
                self._keep_note(self._state, model, hook, run, shell.pid)
        return run

    # IWakeNotes

    @property
    def interrupted(self) -> frozenset[str]:
        """See L{IWakeNotes}."""
        return frozenset(self._interrupted())

    def end_interrupted(self) -> Deferred[None]:
        """See L{IWakeNotes.end_interrupted}."""
        if self._ended is None:
            self._ended = Deferred.fromCoroutine(self._end_interrupted())
        waiter: Deferred[None] = Deferred()
        self._ended.addCallback(lambda _: waiter.callback(None))
        return waiter

    def _interrupted(self) -> dict[str, WakeNote]:
        if self._notes_of_others is None:
            self._notes_of_others = {}
            if self._state is not None:
                self._notes_of_others = self._state.interrupted_wakes(self._models)
            self._noted.update(self._notes_of_others)
        return self._notes_of_others

    async def _end_interrupted(self) -> None:
        notes = self._interrupted()
        for model, note in notes.items():
            _log.warn(
                "llmux ended before it was known whether {model} had woken"
                + ("" if note.hook_is_gone else "; its wake hook still runs and is ended now"),
                event="wake_interrupted",
                model=model,
            )
        await DeferredList(
            [
                Deferred.fromCoroutine(end_group(note, self._reactor, self._grace))
                for note in notes.values()
            ]
        )

    def _keep_note(
        self, state: StateDirectory, model: str, hook: HookKind, run: _Run, group: int
    ) -> None:
        """
        A note is there from a wake hook's start until it is known whether the
        model is awake: until alive has said yes, or a sleep hook has succeeded.
        """
        if hook is HookKind.WAKE:
            state.note_wake(model, group)
            self._noted.add(model)
        elif model in self._noted:

            def ended(result: HookResult) -> HookResult:
                if result.ok and model in self._noted:
                    self._noted.discard(model)
                    state.forget_wake(model)
                return result

            run.exited.addCallback(ended)


def _seconds(limit: float) -> str:
    """A time limit as scripts read it: C{900}, C{0.5}."""
    return f"{limit:.3f}".rstrip("0").rstrip(".")


@implementer(IRunningHook)
class _Run:
    """One run of a hook."""

    _shell: Shell

    def __init__(
        self,
        reactor: IHookReactor,
        model: str,
        hook: HookKind,
        limit: float,
        grace: float,
        metrics: HookMetrics | None,
    ) -> None:
        self.exited: Deferred[HookResult] = Deferred()
        self._reactor = reactor
        self._model = model
        self._hook = hook
        self._limit = limit
        self._grace = grace
        self._metrics = metrics
        self._began = reactor.seconds()
        self._timed_out = False
        self._done = False
        self._killed_for: str | None = None
        self._shell_is_gone = False
        self._deadline: IDelayedCall | None = None
        self._look: IDelayedCall | None = None
        self._at_shutdown: object | None = None
        self._tail = b""

    def __repr__(self) -> str:
        return f"<{self._hook.value} hook of {self._model}>"

    def started(self, shell: Shell, watch: Watch) -> None:
        self._shell = shell
        self._log_lines(shell.stdout, "stdout", lambda data: None)
        self._log_lines(shell.stderr, "stderr", self._keep)
        self._set_deadline(self._limit, self._time_out)
        shell.start(self._exited, watch)

    def not_started(self, error: Exception) -> None:
        self._tail = str(error).encode()
        self._finish(None, "could not be started")

    def kill(self) -> None:
        if not self._done:
            self._terminate("stopped")

    # The end, by itself or by force.

    def _exited(self, status: int | None) -> None:
        self._shell.stdout.drain()
        self._shell.stderr.drain()
        self._shell_is_gone = True
        if self._killed_for is not None:
            self._await_group()
        elif status is None:
            self._finish(None, "exit status unknown")
        elif status < 0:
            self._finish(None, f"killed by signal {-status}")
        else:
            self._finish(status, exit_reason(status))

    def _time_out(self) -> None:
        self._timed_out = True
        self._terminate(f"time limit of {self._limit:g} s")

    def _terminate(self, reason: str) -> None:
        if self._killed_for is None:
            self._killed_for = reason
            self._signal(signal.SIGTERM)
            self._set_deadline(self._grace, self._kill_group)
            self._at_shutdown = self._reactor.addSystemEventTrigger(
                "after", "shutdown", self._signal, signal.SIGKILL
            )

    def _await_group(self) -> None:
        """
        The shell is gone; the rest of its group may still be tidying up, or be
        zombies that nobody reaps, as in a container without an init.  Once KILL
        was sent there is nothing to wait for.
        """
        if self._done or self._killed_for is None:
            return
        if self._at_shutdown is None or not self._signal(0):
            self._finish(None, self._killed_for)
        else:
            self._look = self._reactor.callLater(_LOOK, self._await_group)

    def _kill_group(self) -> None:
        self._forget_shutdown()
        self._signal(signal.SIGKILL)
        if self._shell_is_gone:
            self._await_group()
        else:
            self._set_deadline(self._grace, self._give_up)

    def _give_up(self) -> None:
        _log.error("{run} cannot be killed and is left to itself", run=self)
        assert self._killed_for is not None
        self._finish(None, self._killed_for)

    def _forget_shutdown(self) -> None:
        if self._at_shutdown is not None:
            self._reactor.removeSystemEventTrigger(self._at_shutdown)
            self._at_shutdown = None

    def _set_deadline(self, seconds: float, then: Callable[[], None]) -> None:
        _cancel(self._deadline)
        self._deadline = self._reactor.callLater(seconds, then)

    def _signal(self, number: int) -> bool:
        """Signal the group; true if it is, or may be, still there."""
        try:
            return self._shell.signal_group(number)
        except PermissionError:
            _log.warn("{run} now belongs to another user: no signal sent", run=self)
            return True

    def _finish(self, exit_code: int | None, reason: str) -> None:
        self._done = True
        _cancel(self._deadline)
        _cancel(self._look)
        self._forget_shutdown()
        duration = self._reactor.seconds() - self._began
        stderr = self._tail.decode("utf-8", "replace")
        result = HookResult(exit_code, self._timed_out, duration, reason, stderr)
        alive = self._hook is HookKind.ALIVE
        if result.ok:
            _log.emit(
                LogLevel.debug if alive else LogLevel.info,
                "{hook} hook of {model} completed in {duration_secs:.3f} s",
                event="hook_completed",
                model=self._model,
                hook=self._hook.value,
                duration_secs=duration,
            )
        else:
            _log.emit(
                LogLevel.debug if alive else LogLevel.warn,
                "{hook} hook of {model} failed: {reason}, after {duration_secs:.3f} s"
                + ("; stderr: {stderr}" if stderr else ""),
                event="hook_failed",
                model=self._model,
                hook=self._hook.value,
                exit_code=exit_code,
                reason=reason,
                duration_secs=duration,
                stderr=stderr,
            )
        if self._metrics is not None:
            ok = result.ok or (alive and result.says_no)
            self._metrics.hook_finished(self._model, self._hook.value, duration, ok)
        self.exited.callback(result)

    # Output.

    def _keep(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-_TAIL:]

    def _log_lines(self, pipe: OutputPipe, stream: str, also: Callable[[bytes], None]) -> None:
        level = LogLevel.debug if self._hook is HookKind.ALIVE else LogLevel.info

        def log(lines: list[bytes]) -> None:
            for line in lines:
                _log.emit(
                    level,
                    "{model} {hook} {stream}: {line}",
                    model=self._model,
                    hook=self._hook.value,
                    stream=stream,
                    line=line.decode("utf-8", "replace"),
                )

        def received(data: bytes) -> None:
            also(data)
            log(lines.feed(data))

        lines = Lines()
        pipe.received = received
        pipe.closed = lambda: log(lines.end())


_MEANINGS = {
    os.EX_TEMPFAIL: "temporary failure",
    126: "command cannot be executed",
    127: "command not found",
}
"""What a shell, or sysexits.h, means by an exit status."""


def exit_reason(status: int) -> str:
    """An exit status in words: C{exit status 127 (command not found)}."""
    meaning = _MEANINGS.get(status)
    return f"exit status {status} ({meaning})" if meaning else f"exit status {status}"


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()


class Lines:
    """
    Cuts output into lines, without their ends: a line feed, with or without a
    carriage return, or a carriage return alone (progress bars).  A line that
    grows beyond 8 KiB is cut there.
    """

    _END = re.compile(rb"\r?\n|\r(?!\n|\Z)")

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that C{data} completes."""
        *whole, rest = self._END.split(self._rest + data)
        lines = [piece for line in whole for piece in _pieces(line)]
        *cut, self._rest = _pieces(rest)
        return lines + cut

    def end(self) -> list[bytes]:
        """What is left when nothing more will come: one line, or none."""
        rest, self._rest = self._rest, b""
        return [rest.removesuffix(b"\r")] if rest else []


def _pieces(line: bytes) -> list[bytes]:
    return [line[at : at + _LINE] for at in range(0, len(line), _LINE)] or [line]
