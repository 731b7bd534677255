"""
No test passes that leaves something behind: a failure in the log, a Deferred
whose failure nobody saw, a timer or a socket in the reactor.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

_PATIENCE_TURNS = 200


@pytest.fixture(autouse=True, scope="session")
def state_home() -> Iterator[None]:
    """What llmux keeps from one start to the next does not get into anybody's home."""
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        # pytest's directories are closed to others, and a daemon becomes another user.
        os.chmod(directory, 0o755)
        patch.delenv("STATE_DIRECTORY", raising=False)
        patch.setenv("XDG_STATE_HOME", directory)
        yield


class LoggedFailures(list[Failure]):
    """
    The failures that were logged during a test.  A test that expects some
    takes them with L{flush}.
    """

    def flush(self, *types: type[BaseException]) -> list[Failure]:
        """Take those of these types (all, if none is named) away and return them."""
        taken = [f for f in self if not types or f.check(*types)]
        self[:] = [f for f in self if f not in taken]
        return taken


@pytest.fixture(autouse=True)
def logged_failures() -> Iterator[LoggedFailures]:
    """What was logged as a failure; the test fails if any is left at its end."""
    failures = LoggedFailures()

    def observe(event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None:
            failures.append(failure)
        elif event.get("log_level") is LogLevel.critical:
            failures.append(Failure(AssertionError(formatEvent(event))))

    observer = cast(ILogObserver, observe)
    globalLogPublisher.addObserver(observer)
    # What there is already need not be searched at the end.
    gc.freeze()
    try:
        yield failures
        # A Deferred says that its failure was never seen when it goes away.
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(observer)
    if failures:
        pytest.fail("logged:\n" + "\n".join(f.getTraceback() for f in failures))


def _turn(reactor: Any) -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(0.005, done.callback, None)
    return done


def _work(reactor: Any) -> set[Any]:
    work = {*reactor.getDelayedCalls(), *reactor.getReaders(), *reactor.getWriters()}
    # The reactor's own: what signals wake it by.
    return {w for w in work if type(w).__module__ != "twisted.internet._signals"}


@pytest.fixture(autouse=True)
def clean_reactor() -> Iterator[None]:
    """Nothing is in the reactor after a test that was not there before."""
    from twisted.internet import reactor

    before = _work(reactor)
    yield
    for _ in range(_PATIENCE_TURNS):
        left = _work(reactor) - before
        if not left:
            return
        # Sockets that were closed go away in a turn or two.
        pytest_twisted.blockon(_turn(reactor))
    pytest.fail(f"left in the reactor: {sorted(map(repr, left))}")
