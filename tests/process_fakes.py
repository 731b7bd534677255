"""
This module has processes made of numbers, for tests under a L{Clock}.

They have the same interfaces as real processes, and the tests of both are the same
(tests/test_hooks_contract.py), as treq's testing module does it for requests.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessProtocol, IProcessTransport
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["MemoryProcess", "MemoryProcesses", "Plan"]


@dataclass(frozen=True)
class Plan:
    """
    A plan is what a process does.

    @ivar delay: seconds until the process exits, None for never.
    @ivar exit_code: its status; None if signal 9 ends it.
    @ivar ignores_term: True if TERM does not end the process.
    @ivar leaves: seconds for which a background child outlives the process in its group; that
        child ignores TERM.
    @ivar writes: by the number of a descriptor, what the process writes there before the exit.
    """

    delay: float | None = None
    exit_code: int | None = 0
    ignores_term: bool = False
    leaves: float = 0.0
    writes: Mapping[int, bytes] | None = None


class MemoryProcesses(MemoryReactorClock):
    """
    This is a reactor whose processes are L{MemoryProcess}es.  C{spawnProcess} gives
    them groups of their own, as L{llmux.hooks.runs.spawn} has it.

    @ivar processes: all processes that were started.
    @ivar plans: the plans of the next processes; a process without a plan never ends.
    @ivar error: an error that is raised in place of starting a process; None to start it.
    @ivar at_shutdown: the triggers that are to be called when the reactor stops.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.processes: list[MemoryProcess] = []
        self.plans: deque[Plan] = deque()
        self.error: Exception | None = None
        self.at_shutdown: list[tuple[str, str, Callable[..., Any], tuple[Any, ...]]] = []

    def addSystemEventTrigger(
        self, phase: str, eventType: str, callable: Callable[..., Any], *args: Any, **kw: Any
    ) -> Any:
        """See L{IReactorCore.addSystemEventTrigger}."""
        trigger = (phase, eventType, callable, args)
        self.at_shutdown.append(trigger)
        return trigger

    def removeSystemEventTrigger(self, triggerID: Any) -> None:
        """See L{IReactorCore.removeSystemEventTrigger}."""
        self.at_shutdown.remove(triggerID)

    def spawnProcess(
        self,
        processProtocol: IProcessProtocol,
        executable: str,
        args: Sequence[str] = (),
        env: Mapping[bytes, bytes] | None = None,
        path: str | None = None,
        uid: int | None = None,
        gid: int | None = None,
        usePTY: bool = False,
        childFDs: Mapping[int, str | int] | None = None,
    ) -> IProcessTransport:
        """See L{IReactorProcess.spawnProcess}."""
        if self.error is not None:
            raise self.error
        plan = self.plans.popleft() if self.plans else Plan()
        process = MemoryProcess(self, processProtocol, 1000 + len(self.processes), plan)
        process.args = list(args)
        process.environment = dict(env or {})
        process.directory = path
        self.processes.append(process)
        processProtocol.makeConnection(process)
        return process


@implementer(IProcessTransport)
class MemoryProcess(StringTransport):
    """
    This process leads a group.

    @ivar signals: the signals that its group was sent, 0 left out.
    """

    args: list[str]
    environment: dict[bytes, bytes]
    directory: str | None

    def __init__(
        self, reactor: MemoryProcesses, protocol: IProcessProtocol, pid: int, plan: Plan
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pid: int | None = pid
        self.signals: list[int] = []
        self.refuses_signals = False
        self._reactor = reactor
        self._protocol = protocol
        self._plan = plan
        self._exited = False
        self._group_is_gone = False
        if plan.delay is not None:
            reactor.callLater(plan.delay, self.exit, plan.exit_code)

    def write_out(self, descriptor: int, data: bytes) -> None:
        """Let the process write this."""
        self._protocol.childDataReceived(descriptor, data)

    def close_pipe(self, descriptor: int) -> None:
        """Let go of a pipe: nobody holds it any more."""
        self._protocol.childConnectionLost(descriptor)

    def exit(self, code: int | None, signal_number: int = signal.SIGKILL) -> None:
        """Let the process exit with this status, or by a signal."""
        if self._exited:
            return
        for descriptor, data in (self._plan.writes or {}).items():
            self.write_out(descriptor, data)
        self._exited = True
        self._reactor.callLater(self._plan.leaves, self._group_ends)
        if not self._plan.leaves:
            self._group_is_gone = True
        reason = (
            ProcessDone(0)
            if code == 0
            else ProcessTerminated(code, None if code is not None else signal_number)
        )
        self._protocol.processExited(Failure(reason))

    def _group_ends(self) -> None:
        self._group_is_gone = True

    def signalProcess(self, signalID: int | str) -> None:
        """Signal the group."""
        if self.refuses_signals:
            raise PermissionError
        if self._group_is_gone:
            raise ProcessExitedAlready
        assert isinstance(signalID, int)
        if not signalID:
            return
        self.signals.append(signalID)
        if signalID == signal.SIGKILL:
            self._reactor.callLater(0, self._group_ends)
        if signalID == signal.SIGKILL or not self._plan.ignores_term:
            self._reactor.callLater(0, self.exit, None, signalID)

    # Nobody needs these methods here.

    def closeStdin(self) -> None:
        """See L{IProcessTransport}."""

    def closeStdout(self) -> None:
        """See L{IProcessTransport}."""

    def closeStderr(self) -> None:
        """See L{IProcessTransport}."""

    def closeChildFD(self, descriptor: int) -> None:
        """See L{IProcessTransport}."""

    def writeToChild(self, childFD: int, data: bytes) -> None:
        """See L{IProcessTransport}."""
