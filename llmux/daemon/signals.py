"""
This module does what only the owner of a process may do: it handles signals, raises the limit
on open files, and sets up the garbage collector.  An llmux inside of another program's process
leaves these alone.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger

from llmux.daemon.notify import tell_init
from llmux.daemon.reload import ConfigFile, Reloader
from llmux.daemon.service import LlmuxService

__all__ = ["ProcessOwner", "raise_file_limit"]

FEW_FILES = 4096
MANY_FILES = 1 << 20
"""
The limit is raised to this at most.  If the hard limit is "infinite", programs in hooks that
close every possible descriptor one by one would otherwise take minutes.
"""

Handler = Callable[[int, FrameType | None], Any] | int | None


def raise_file_limit() -> int:
    """
    Let the process open as many files as it may.

    @return: the new limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MANY_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted


class ProcessOwner(Service):
    """
    The service that owns the process: it raises the limit on open files, and handles
    signals while the reactor runs.

    TERM and INT stop llmux; a second one, while llmux is stopping, aborts what it waits for; a
    third ends the process at once.  HUP reads the configuration anew; USR1 opens the logs anew.

    @param hangup_stops: whether HUP means that the terminal has gone, so that llmux stops.
    @param reopen: functions that open further logs anew, called on USR1.
    @param config_file: the configuration's file; None if there is none, and then HUP does
        nothing.
    @ivar aborted_by: the number of the second signal, which aborted requests; or None.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        service: LlmuxService,
        *,
        hangup_stops: bool = False,
        reopen: Sequence[Callable[[], object]] = (),
        config_file: ConfigFile | None = None,
    ) -> None:
        self._reloader = (
            None if config_file is None else Reloader(service, config_file, reactor)
        )
        self.aborted_by: int | None = None
        self._reactor = reactor
        self._service = service
        self._hangup_stops = hangup_stops
        self._reopen = reopen
        self._stop_by: dict[int, Handler] = {}
        self._previous_usr1: Handler = None
        self._signals = 0
        self._early = False

    def privilegedStartService(self) -> None:
        """Install handlers before anything else is started, so that no signal is lost."""
        self._stop_by[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._told_early)
        if not self._hangup_stops:
            signal.signal(signal.SIGHUP, self._told_to_reload)
        self._previous_usr1 = signal.signal(signal.SIGUSR1, self._told_to_reopen)
        # The reactor installs its own handlers when it starts, so ours are installed after
        # that.
        self._reactor.callWhenRunning(self._reactor_runs)

    def startService(self) -> None:
        """Let the process open as many files as it may."""
        self.running = True
        limit = raise_file_limit()
        if limit < FEW_FILES:
            self._log.warn(
                "only {limit} files may be open at once, and each request takes two: raise it "
                "with LimitNOFILE= (systemd) or ulimit -n",
                event="few_files",
                limit=limit,
            )

    def stopService(self) -> None:
        """Stop looking at the configuration's file."""
        self.running = False
        if self._reloader is not None:
            self._reloader.stop()

    def _reactor_runs(self) -> None:
        if self._reloader is not None:
            self._reloader.watch()
        tell_init("READY=1")
        for number in (signal.SIGTERM, signal.SIGINT):
            self._stop_by[number] = signal.signal(number, self._told_to_stop)
        if self._hangup_stops:
            self._stop_by[signal.SIGHUP] = self._stop_by[signal.SIGTERM]
            signal.signal(signal.SIGHUP, self._told_to_stop)
        if self._early:
            self._told_to_stop(signal.SIGTERM, None)
        # The objects that exist now stay for good.  A full collection would take some 20 ms to
        # visit them, and no stream would move in that time.
        gc.collect()
        gc.freeze()

    def _told_early(self, number: int, frame: FrameType | None) -> None:
        self._early = True

    def _told_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals == 1:
            self._reactor.callFromThread(self._log_stop, number)
            previous = self._stop_by[number]
            if callable(previous):
                previous(number, frame)
            else:
                # INT was ignored when this process was started, as by C{llmux &} in a script;
                # then the reactor installs no handler for it.
                self._reactor.callFromThread(self._reactor.stop)
        elif self._signals == 2:
            self.aborted_by = number
            self._reactor.callFromThread(self._abort, number)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _log_stop(self, number: int) -> None:
        tell_init("STOPPING=1")
        self._log.info(
            "{signal}: stopping; a second one aborts what is in flight",
            event="stopping",
            signal=signal.Signals(number).name,
        )

    def _abort(self, number: int) -> None:
        self._log.warn(
            "{signal} again: aborting", event="aborting", signal=signal.Signals(number).name
        )
        self._service.abort()

    def _told_to_reopen(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous_usr1
        if number == signal.SIGUSR1 and callable(previous):
            previous(number, frame)
        self._reactor.callFromThread(self._reopen_logs)

    def _reopen_logs(self) -> None:
        for reopen in (self._service.reopen_logs, *self._reopen):
            try:
                reopen()
            except OSError as e:
                self._log.error("a log cannot be opened anew: {error}", error=e)

    def _told_to_reload(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        if self._reloader is None:
            return
        tell_init("RELOADING=1")
        self._reloader.reload_by_signal()
        tell_init("READY=1")
