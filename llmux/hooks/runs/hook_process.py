"""
This module has one run of a hook, as a L{ProcessProtocol}.

A hook has ended when its shell has exited, which C{processExited} tells. (C{processEnded} is
called when the last writer of the pipes has gone.  That may be a model's server, hours later.)
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import (
    IDelayedCall,
    IProcessTransport,
    IReactorCore,
    IReactorTime,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from llmux.hooks.runs.lines import LineBudget, OutputLog
from llmux.interfaces import HookKind, HookResult, IRunningHook

__all__ = [
    "GRACE",
    "LOOK",
    "STOPPED",
    "HookMetrics",
    "HookProcess",
    "IRunReactor",
    "exit_reason",
    "report_result",
]

GRACE = 5.0
"""So many seconds pass between TERM and KILL, and between KILL and giving a hook up."""

STOPPED = "stopped"
"""A hook that was ended because somebody called C{kill} has this reason."""

LOOK = 0.05
"""So many seconds pass between two looks at a process group that was sent TERM."""

_TAIL = 4 * 1024
"""A result has this many bytes of stderr at most."""

_STREAMS = {1: "stdout", 2: "stderr"}

_MEANINGS = {
    os.EX_TEMPFAIL: "temporary failure",
    126: "command cannot be executed",
    127: "command not found",
}
"""These exit statuses have a meaning for a shell, or in sysexits.h."""

_log = Logger()


class IRunReactor(IReactorCore, IReactorTime):
    """A reactor that a run can be given has these interfaces."""


class HookMetrics(Protocol):
    """An object that counts the outcomes of hooks has this method."""

    def hook_finished(self, model: str, hook: str, seconds: float, ok: bool) -> None:
        """
        Count a hook that has ended.

        @param ok: whether the hook did what it is for; an C{alive} that says no did.
        """


def exit_reason(status: int) -> str:
    """Put an exit status into words, as in C{exit status 127 (command not found)}."""
    meaning = _MEANINGS.get(status)
    return f"exit status {status} ({meaning})" if meaning else f"exit status {status}"


@implementer(IRunningHook)
class HookProcess(ProcessProtocol):
    """
    This protocol is one run of a hook: its output, its time limit, its end.

    Processes that the hook has left in the background when its shell exits go on, and their
    output still goes to the log.  If the hook is killed, or its time limit passes, its whole
    process group is sent TERM, and KILL after C{grace} seconds.  Such a hook has ended when the
    group has gone, or has been sent KILL.

    The transport signals the whole group (L{llmux.hooks.runs.spawn}).

    @ivar pid: the process id of the shell, and of its process group; None if the shell could
        not be started.
    """

    transport: IProcessTransport
    pid: int | None = None

    def __init__(
        self,
        reactor: IRunReactor,
        budget: LineBudget,
        model: str,
        hook: HookKind,
        limit: float,
        *,
        grace: float = GRACE,
        metrics: HookMetrics | None = None,
    ) -> None:
        """
        @param budget: the budget of lines that may be logged.
        @param limit: seconds until the hook is ended by force.
        @param grace: seconds from TERM to KILL, and from there until the hook
            is given up.
        """
        self.exited: Deferred[HookResult] = Deferred()
        self._reactor = reactor
        self._budget = budget
        self._model = model
        self._hook = hook
        self._limit = limit
        self._grace = grace
        self._metrics = metrics
        self._began = reactor.seconds()
        self._group: IProcessTransport | None = None
        self._outputs: dict[int, OutputLog] = {}
        self._tail = b""
        self._timed_out = False
        self._done = False
        self._killed_for: str | None = None
        self._shell_is_gone = False
        self._deadline: IDelayedCall | None = None
        self._look: IDelayedCall | None = None
        self._at_shutdown: object | None = None

    def __repr__(self) -> str:
        return f"<{self._hook.value} hook of {self._model}>"

    def start(self, spawn: Callable[[HookProcess], IProcessTransport]) -> None:
        """
        Start the process under its time limit.

        @param spawn: a function that starts the process of this protocol.  If it raises an
            OSError or a ValueError, the hook has failed with this error.
        """
        try:
            group = spawn(self)
        except (OSError, ValueError) as error:
            self._tail = str(error).encode()
            self._finish(None, "could not be started")
            return
        self._group = group
        if self._shell_is_gone:
            # The process has exited already.  The caller gets C{exited} only after this, so the
            # result must wait for the next turn.
            self._look = self._reactor.callLater(0, self._find_result)
        else:
            self._set_deadline(self._limit, self._time_out)

    def kill(self) -> None:
        """See L{IRunningHook.kill}."""
        if not self._done:
            self._terminate(STOPPED)

    # ProcessProtocol

    def connectionMade(self) -> None:
        """Keep the id of the process, which has been started."""
        self.pid = self.transport.pid

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Log what the hook, or a process that it has left behind, has written."""
        if childFD == 2 and not self._done:
            self._tail = (self._tail + data)[-_TAIL:]
        output = self._outputs.get(childFD)
        if output is None:
            level = LogLevel.debug if self._hook is HookKind.ALIVE else LogLevel.info
            output = self._outputs[childFD] = OutputLog(
                self._budget, self._model, self._hook.value, _STREAMS[childFD], level
            )
        output.received(data)

    def childConnectionLost(self, childFD: int) -> None:
        """Log the last line of a pipe that no process will write to any more."""
        output = self._outputs.pop(childFD, None)
        if output is not None:
            output.ended()

    def processExited(self, reason: Failure) -> None:
        """Find the result of the hook, because its shell has exited."""
        self._shell_is_gone = True
        ended = reason.value
        assert isinstance(ended, ProcessTerminated | ProcessDone)
        self._exit_code = ended.exitCode
        self._signal_number = ended.signal
        if self._group is not None:
            self._find_result()

    # The end, by itself or by force.

    _exit_code: int | None = None
    _signal_number: int | None = None

    def _find_result(self) -> None:
        if self._killed_for is not None:
            self._await_group()
        elif self._exit_code is not None:
            self._finish(self._exit_code, exit_reason(self._exit_code))
        elif self._signal_number is not None:
            self._finish(None, f"killed by signal {self._signal_number}")
        else:
            self._finish(None, "exit status unknown")

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
        Wait until the group has gone.  The shell has exited; other processes of the group may
        still be cleaning up, or be zombies that no process reaps, as in a container without an
        init.  After KILL the wait is over.
        """
        if self._done or self._killed_for is None:
            return
        if self._at_shutdown is None or not self._signal(0):
            self._finish(None, self._killed_for)
        else:
            self._look = self._reactor.callLater(LOOK, self._await_group)

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
        """Signal the group, and tell whether it exists, or may exist."""
        assert self._group is not None
        try:
            self._group.signalProcess(number)
        except ProcessExitedAlready:
            return False
        except PermissionError:
            _log.warn("{run} now belongs to another user: no signal sent", run=self)
        return True

    def _finish(self, exit_code: int | None, reason: str) -> None:
        if self._done:
            return
        self._done = True
        _cancel(self._deadline)
        _cancel(self._look)
        self._forget_shutdown()
        duration = self._reactor.seconds() - self._began
        stderr = self._tail.decode("utf-8", "replace")
        result = HookResult(exit_code, self._timed_out, duration, reason, stderr)
        report_result(self._model, self._hook, result, self._metrics)
        self.exited.callback(result)


def report_result(
    model: str, hook: HookKind, result: HookResult, metrics: HookMetrics | None
) -> None:
    """Log how a hook ended, and count it.  Its output has been logged line by line."""
    if metrics is not None:
        ok = result.ok or (hook is HookKind.ALIVE and result.says_no)
        ok = ok or (hook is HookKind.PREPARE and result.reason == STOPPED)
        metrics.hook_finished(model, hook.value, result.duration, ok)
    alive = hook is HookKind.ALIVE
    if hook is HookKind.PREPARE and result.reason == STOPPED:
        _log.debug(
            "{hook} hook of {model} has served its turn: ended after {duration_secs:.3f} s",
            hook=hook.value,
            model=model,
            duration_secs=result.duration,
        )
    elif result.ok:
        _log.emit(
            LogLevel.debug if alive else LogLevel.info,
            "{hook} hook of {model} completed in {duration_secs:.3f} s",
            event="hook_completed",
            model=model,
            hook=hook.value,
            duration_secs=result.duration,
        )
    else:
        last_words = result.last_words
        _log.emit(
            LogLevel.debug if alive else LogLevel.warn,
            "{hook} hook of {model} failed: {reason}, after {duration_secs:.3f} s"
            + ("; its last line: {last_words}" if last_words else ""),
            event="hook_failed",
            model=model,
            hook=hook.value,
            reason=result.reason,
            exit_code=result.exit_code,
            duration_secs=result.duration,
            last_words=last_words,
            log_said=("exit_code",),
        )


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()
