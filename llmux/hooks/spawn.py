"""
One C{sh -c} process: how it is started, and how its output and its exit reach
the reactor.

C{reactor.spawnProcess} is not used.  It can give a child a session and a
directory only by running another program first, and it lists every open
descriptor each time: 3.0 ms for C{true} where this takes 1.2 ms, and 25 ms
where this takes 2.2 ms when 8000 sockets are open.  L{subprocess.Popen} does
all of it in C, between C{vfork} and C{exec}.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any

from twisted.internet import process
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["OutputPipe", "Shell", "watch_by_pidfd", "watch_by_signal", "watch_exit"]

SHELL = "/bin/sh"

_log = Logger()

_reaper: Any = process
"""It has no types."""

_PIECE = 8 * 1024
_DRAIN = 64 * 1024
"""Bytes: what a pipe holds, unless somebody made it larger."""

_HEEDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Signals that C{nohup} and shells have programs ignore; Popen sees to SIGPIPE."""

Ended = Callable[[int | None], None]
"""Told the exit status, or minus a signal's number; None if somebody else has taken it."""

Watch = Callable[[IReactorFDSet, int, Ended], None]


class Shell:
    """
    A C{sh -c} process, the leader of a session (and so of a process group) of
    its own: it has no terminal to stop at or to be interrupted from.  Its
    input is empty, it has no other descriptor of ours, and every signal does
    what it does by default.

    @ivar stdout: what it writes, and what those write who inherit it.
    @ivar stderr: likewise.
    """

    def __init__(
        self,
        script: str,
        directory: str,
        environment: Mapping[bytes, bytes],
        reactor: IReactorFDSet,
    ) -> None:
        """
        @raise OSError: it cannot be started: no such directory, no more
            processes, too long a script.
        @raise ValueError: the script or the environment holds a NUL.
        """
        with _default_signals():
            self._process = subprocess.Popen(
                [SHELL, "-c", "--", script],
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=directory,
                env=environment,
                start_new_session=True,
                # Costs a fork in place of a vfork, where somebody blocks signals.
                preexec_fn=_unblock_signals if signal.pthread_sigmask(0, ()) else None,
            )
        assert self._process.stdout is not None and self._process.stderr is not None
        self.stdout = OutputPipe(reactor, self._process.stdout)
        self.stderr = OutputPipe(reactor, self._process.stderr)
        self._reactor = reactor

    @property
    def pid(self) -> int:
        """The shell's process id, which is that of its process group too."""
        return self._process.pid

    def start(self, ended: Ended, watch: Watch | None = None) -> None:
        """
        Begin to read its output and to wait for its exit.

        @param ended: called once, when the shell has exited, whoever else
            still writes to its pipes.  May be called at once.
        """
        self._reactor.addReader(self.stdout)
        self._reactor.addReader(self.stderr)
        (watch or watch_exit)(self._reactor, self._process.pid, self._reaped(ended))

    def signal_group(self, number: int) -> bool:
        """
        Send a signal to all of its process group.

        @return: there is such a group.
        @raise PermissionError: it has become another user's altogether.
        """
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _reaped(self, ended: Ended) -> Ended:
        def reaped(status: int | None) -> None:
            # Or Popen would try to wait for it when it is collected.
            self._process.returncode = -1 if status is None else status
            ended(status)

        return reaped


@implementer(IReadDescriptor)
class OutputPipe:
    """
    The reading end of a pipe that a shell, or whoever has inherited it,
    writes to.  Read until its last writer has closed it.

    @ivar received: called with each piece; 8 KiB at most, so that a torrent
        does not hold up the reactor, except by L{drain}.
    @ivar closed: called once, after the last piece.
    """

    received: Callable[[bytes], None]
    closed: Callable[[], None]

    def __init__(self, reactor: IReactorFDSet, file: IO[bytes]) -> None:
        os.set_blocking(file.fileno(), False)
        self._reactor = reactor
        self._file = file

    def fileno(self) -> int:
        return -1 if self._file.closed else self._file.fileno()

    def logPrefix(self) -> str:
        return "hook output"

    def doRead(self) -> None:
        try:
            data = os.read(self._file.fileno(), _PIECE)
        except BlockingIOError:
            return
        if data:
            self.received(data)
        else:
            self._reactor.removeReader(self)
            self._close()

    def drain(self) -> None:
        """Receive now what is in the pipe: at most 64 KiB, and without waiting."""
        if self._file.closed:
            return
        try:
            data = os.read(self._file.fileno(), _DRAIN)
        except BlockingIOError:
            return
        if data:
            self.received(data)

    def connectionLost(self, reason: Failure) -> None:
        if isinstance(reason.value, ConnectionLost):
            self._leave_to_cat()
        self._close()

    def _close(self) -> None:
        self._file.close()
        self.closed()

    def _leave_to_cat(self) -> None:
        """
        The reactor stops, and somebody can still write: a model's server,
        left awake for the next start.  A pipe without a reader would end it
        at its next line.
        """
        try:
            os.set_blocking(self._file.fileno(), True)
            subprocess.Popen(
                ["/bin/cat"],
                stdin=self._file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            ).returncode = 0
        except OSError as error:
            _log.warn("a hook's output has no reader any more: {error}", error=error)


@implementer(IReadDescriptor)
class _Pidfd:
    """Becomes readable when a process has exited."""

    def __init__(self, reactor: IReactorFDSet, pid: int, ended: Ended) -> None:
        self._reactor = reactor
        self._pid = pid
        self._fd = os.pidfd_open(pid)
        self._ended = ended

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return "hook exit"

    def doRead(self) -> None:
        try:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            self._finish(None)
        else:
            if pid:
                self._finish(os.waitstatus_to_exitcode(status))

    def _finish(self, status: int | None) -> None:
        self._reactor.removeReader(self)
        self._close()
        self._ended(status)

    def connectionLost(self, reason: Failure) -> None:
        self._close()

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1


def watch_by_pidfd(reactor: IReactorFDSet, pid: int, ended: Ended) -> None:
    """
    Wait for a child's exit by Linux' process descriptors, which want nothing
    of SIGCHLD.

    @raise OSError: this kernel has none, or no descriptor is left.
    """
    reactor.addReader(_Pidfd(reactor, pid, ended))


class _Reaped:
    """What Twisted's own reaper, which runs at each SIGCHLD, wants to see of a process."""

    def __init__(self, pid: int, ended: Ended) -> None:
        self._pid = pid
        self._ended = ended

    def reapProcess(self) -> None:
        try:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            _reaper.unregisterReapProcessHandler(self._pid, self)
            self._ended(None)
        else:
            if pid:
                _reaper.unregisterReapProcessHandler(self._pid, self)
                self.processEnded(status)

    def processEnded(self, status: int) -> None:
        self._ended(os.waitstatus_to_exitcode(status))


def watch_by_signal(reactor: IReactorFDSet, pid: int, ended: Ended) -> None:
    """Wait for a child's exit by SIGCHLD, which the running reactor handles."""
    _reaper.registerReapProcessHandler(pid, _Reaped(pid, ended))


def watch_exit(reactor: IReactorFDSet, pid: int, ended: Ended) -> None:
    """Wait for a child's exit in the best way that there is."""
    try:
        watch_by_pidfd(reactor, pid, ended)
    except (AttributeError, OSError):
        watch_by_signal(reactor, pid, ended)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


@contextmanager
def _default_signals() -> Iterator[None]:
    """
    Have processes that are started meanwhile begin with no signal ignored,
    though we were told to ignore some (SIGINT by C{llmux &} in a script,
    SIGHUP by C{nohup}): a server that inherited this could not be stopped by
    C{kill -INT}.  A signal with a handler goes back to its default at exec.
    (Only a main thread may set handlers.)
    """
    ignored = [number for number in _HEEDED if signal.getsignal(number) is signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        ignored.clear()
    for number in ignored:
        signal.signal(number, _nothing)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
