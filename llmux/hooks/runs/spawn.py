"""
This module starts the processes of hooks.

A spawner is called like L{IReactorProcess.spawnProcess}.  The transport that it returns, and
that the protocol gets as its C{transport}, promises more than Twisted's: the process leads a
session and a process group of its own, and C{signalProcess} signals the whole group, for as
long as the group exists.

L{spawn_session} is the quick spawner; L{spawn_with_setsid} needs nothing but what every Twisted
reactor has.  C{reactor.spawnProcess} can give a child a session and a directory only with the
help of another program and a fork of this process, and lists every open descriptor each time.
It takes 4.6 ms for C{true}, or 40 ms with 8000 sockets open; the quick spawner takes 1 ms and 2
ms.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from twisted.internet import process
from twisted.internet.error import ConnectionLost, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import (
    IProcessProtocol,
    IProcessTransport,
    IReactorFDSet,
    IReactorProcess,
    IReactorTime,
    IReadDescriptor,
)
from twisted.internet.process import Process, ProcessReader
from twisted.logger import Logger
from twisted.python.components import proxyForInterface
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = [
    "SHELL",
    "ISessionReactor",
    "SessionProcess",
    "Spawner",
    "spawn_session",
    "spawn_with_setsid",
]

Spawner = Callable[..., IProcessTransport]
"""A spawner is called like L{IReactorProcess.spawnProcess}."""

SETSID = "setsid"
"""This program, of util-linux or busybox, starts another program in a session of its own."""

_log = Logger()

_process: Any = process
"""Twisted's module has no types for what is used here."""

SHELL = "/bin/sh"
"""Hooks and servers are run by this shell."""

_DRAIN = 64 * 1024
"""A pipe holds this many bytes, unless somebody has made it larger."""

_HEEDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""
These signals are reset to their default action, because C{nohup} and shells have programs
ignore them; Popen resets SIGPIPE.
"""


class ISessionReactor(IReactorFDSet, IReactorTime):
    """A reactor that a L{SessionProcess} can be given has these interfaces."""


def spawn_session(reactor: ISessionReactor) -> Spawner:
    """Make a spawner of L{SessionProcess} objects."""
    dispositions = _Dispositions(reactor)

    def spawn(
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
        if uid is not None or gid is not None or usePTY:
            raise ValueError("a session is started as the same user, and without a terminal")
        return SessionProcess(
            dispositions,
            reactor,
            executable,
            args,
            env,
            path,
            processProtocol,
            childFDs=childFDs,
        )

    return spawn


def spawn_with_setsid(reactor: IReactorProcess) -> Spawner:
    """
    Make a spawner that calls C{reactor.spawnProcess} with the program C{setsid}
    before the command.

    If the directory does not exist, no error is raised, and the child exits with status 1.
    """

    def spawn(
        processProtocol: Any, executable: str, args: Sequence[str] = (), *more: Any, **most: Any
    ) -> IProcessTransport:
        command = [SETSID, executable, *args[1:]]
        group = _Group(reactor.spawnProcess(processProtocol, SETSID, command, *more, **most))
        processProtocol.transport = group
        return group

    return spawn


class _Group(proxyForInterface(IProcessTransport, "process")):  # type: ignore[misc]  # Any
    """This transport belongs to a process that leads a process group, or is about to."""

    process: Any

    def __init__(self, process: Any) -> None:
        super().__init__(process)
        # Twisted sets its C{pid} to None when it takes the exit status.
        self._leader: int | None = process.pid

    def signalProcess(self, signalID: int | str) -> None:
        """Signal the whole group, or the process while it has no group yet."""
        try:
            _signal_group(self._leader, signalID)
        except ProcessExitedAlready:
            self.process.signalProcess(signalID)


class _Output(ProcessReader):
    """
    This reader has a pipe that a process, and those that inherit it, write to.

    Twisted's methods that are called here have no types, which mypy reports in a subclass.
    """

    def drain(self) -> None:
        """Receive what is in the pipe, at most 64 KiB, without waiting."""
        try:
            data = os.read(self.fd, _DRAIN)
        except BlockingIOError:
            return
        if data:
            self.dataReceived(data)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:
        """Close the pipe, because its last writer has gone, or the reactor stops."""
        if isinstance(reason.value, ConnectionLost):
            self._leave_to_cat()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def _leave_to_cat(self) -> None:
        """
        Give the pipe to a C{cat} process.  The reactor stops, while a process may still write:
        a model's server that is left awake for the next start of llmux.  Without a reader of
        the pipe that server would end at its next line.
        """
        try:
            os.set_blocking(self.fd, True)
            subprocess.Popen(
                ["/bin/cat"],
                stdin=self.fd,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            ).returncode = 0
        except OSError as error:
            _log.warn("a hook's output has no reader any more: {error}", error=error)


class SessionProcess(Process):
    """
    This is a process of Twisted's which L{subprocess.Popen} starts: in C, between C{vfork} and
    C{exec}, in a session of its own, with no descriptor of ours except those that it is given,
    and with the default action for every signal.

    The protocol receives what the process has written before its exit, up to 64 KiB from each
    pipe, before it is told of the exit.

    The exit is noticed by SIGCHLD, as for every process of Twisted's; if SIGCHLD has no handler
    (C{reactor.run(installSignalHandlers=False)}), by a process descriptor (pidfd_open(2)).
    """

    processReaderFactory = _Output
    group: int
    _exit: _Exit | None = None

    def __init__(
        self, dispositions: _Dispositions, reactor: Any, *args: Any, **kwargs: Any
    ) -> None:
        self._dispositions = dispositions
        super().__init__(reactor, *args, **kwargs)  # type: ignore[no-untyped-call]  # Process'
        if self.pid is not None and not dispositions.tell_of_exits():
            self._exit = _Exit.of(self, reactor)

    def _trySpawnInsteadOfFork(
        self,
        path: str | None,
        uid: object,
        gid: object,
        executable: str,
        args: Sequence[str],
        environment: Mapping[bytes, bytes] | None,
        kwargs: Mapping[str, Any],
    ) -> bool:
        descriptors = kwargs["fdmap"]
        ignored = self._dispositions.ignored()
        for number in ignored:
            signal.signal(number, _nothing)
        try:
            child = subprocess.Popen(
                list(args),
                executable=executable,
                bufsize=0,
                stdin=descriptors[0],
                stdout=descriptors[1],
                stderr=descriptors[2],
                cwd=path,
                env=environment,
                start_new_session=True,
                # If signals are blocked, this costs a fork in place of a vfork.
                preexec_fn=_unblock_signals if signal.pthread_sigmask(0, ()) else None,
            )
        finally:
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)
        # Twisted waits for the process, so Popen must not.
        child.returncode = 0
        self.pid = self.group = child.pid
        self.status = -1
        return True

    def signalProcess(self, signalID: int | str) -> None:
        """
        Signal the whole process group.

        @raise ProcessExitedAlready: no process of the group is left.
        @raise PermissionError: all processes of the group belong to another user now.
        """
        _signal_group(self.group, signalID)

    def reapProcess(self) -> None:
        """Take the exit status, if there is one to take."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)  # type: ignore[arg-type]  # not None
        except ChildProcessError:
            # Something else in this process, which waits for all children, has taken the exit
            # status.
            _process.unregisterReapProcessHandler(self.pid, self)
            self._status_is_unknown = True
            self.processEnded(0)
        else:
            if pid:
                _process.unregisterReapProcessHandler(pid, self)
                self.processEnded(status)

    _status_is_unknown = False

    def _getReason(self, status: int) -> BaseException:
        if self._status_is_unknown:
            return ProcessTerminated()
        return super()._getReason(status)

    def processEnded(self, status: int) -> None:
        """Receive what the process has written, then tell the protocol of its exit."""
        if self._exit is not None:
            self._exit.close()
        outputs: list[Any] = list(self.pipes.values())
        for output in outputs:
            output.drain()
        super().processEnded(status)


@implementer(IReadDescriptor)
class _Exit:
    """This descriptor becomes readable when a process has exited, without SIGCHLD."""

    def __init__(self, process: SessionProcess, reactor: IReactorFDSet, fd: int) -> None:
        self._process = process
        self._reactor = reactor
        self._fd = fd
        reactor.addReader(self)

    @classmethod
    def of(cls, process: SessionProcess, reactor: IReactorFDSet) -> _Exit | None:
        """
        Make a descriptor; None if this system has none for processes, or no descriptor is left.
        """
        try:
            return cls(process, reactor, os.pidfd_open(process.group))
        except (AttributeError, OSError):
            return None

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return "hook exit"

    def doRead(self) -> None:
        self._process.reapProcess()

    def connectionLost(self, reason: Failure) -> None:
        self.close()

    def close(self) -> None:
        if self._fd != -1:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1


def _signal_group(group: int | None, signalID: int | str) -> None:
    if group is None:
        raise ProcessExitedAlready
    number = signal.Signals[f"SIG{signalID}"] if isinstance(signalID, str) else signalID
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        raise ProcessExitedAlready from None


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


class _Dispositions:
    """
    These are the actions that this process has set for signals, as far as they matter to the
    processes that it starts.

    Python takes 3 us to tell the handler of one signal.  So, once the reactor runs, a signal
    that has a handler, or the default action, is not looked at again; one that is ignored is.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._to_look_at: Sequence[signal.Signals] = _HEEDED
        self._child_handler: bool | None = None

    def _is_settled(self) -> bool:
        return bool(getattr(self._reactor, "running", False))

    def ignored(self) -> Sequence[signal.Signals]:
        """
        Return the signals of L{_HEEDED} that this process ignores: SIGINT if a script has run
        C{llmux &}, SIGHUP under C{nohup}.  A process must not inherit this, because a server
        that ignores SIGINT could not be stopped by C{kill -INT}.  A signal with a handler is
        reset to its default at exec.  (Only a main thread may set handlers.)
        """
        if not self._to_look_at:
            return ()
        found = [n for n in self._to_look_at if signal.getsignal(n) is signal.SIG_IGN]
        if self._is_settled():
            self._to_look_at = found
        if found and threading.current_thread() is not threading.main_thread():
            return ()
        return found

    def tell_of_exits(self) -> bool:
        """Tell whether SIGCHLD has a handler, which is the reactor's."""
        if self._child_handler is not None:
            return self._child_handler
        handled = callable(signal.getsignal(signal.SIGCHLD))
        if self._is_settled():
            self._child_handler = handled
        return handled
