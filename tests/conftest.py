"""
These fixtures let no test pass that leaves something behind: a failure in the log, a Deferred
whose failure nobody saw, a timer or a socket in the reactor.  A test also fails if one turn of
the reactor took more than 100 ms of CPU.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from llmux.config import Config, load_config
from tests.daemon import Backend, backend, write_config
from tests.turns import LIMIT, TurnMeter, watch_stacks

_PATIENCE_TURNS = 200

COVERAGE_IS_MEASURED = sys.gettrace() is not None
"""Everything then takes several times as long."""

measures_time = pytest.mark.skipif(
    COVERAGE_IS_MEASURED, reason="where coverage is measured all takes longer"
)
"""A test with this mark holds how long something takes."""


@pytest.fixture(autouse=True, scope="session")
def state_home() -> Iterator[None]:
    """Keep llmux from writing its state into the home of the user who runs the tests."""
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        # pytest's directories cannot be read by other users, and a daemon becomes another user.
        os.chmod(directory, 0o755)
        patch.delenv("STATE_DIRECTORY", raising=False)
        patch.setenv("XDG_STATE_HOME", directory)
        patch.delenv("RUNTIME_DIRECTORY", raising=False)
        patch.setenv("XDG_RUNTIME_DIR", os.path.join(directory, "run"))
        os.mkdir(os.path.join(directory, "run"), 0o700)
        yield


class LoggedFailures(list[Failure]):
    """
    This list has the failures that were logged during a test.  A test that expects some takes
    them with L{flush}.
    """

    def flush(self, *types: type[BaseException]) -> list[Failure]:
        """
        Take the failures of these types (all, if none is named) out of the list, and return
        them.
        """
        taken = [f for f in self if not types or f.check(*types)]
        self[:] = [f for f in self if f not in taken]
        return taken


@pytest.fixture(autouse=True)
def logged_failures() -> Iterator[LoggedFailures]:
    """Collect the failures that are logged; the test fails if any is left at its end."""
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


class LoggedEvents:
    """
    This object has all events that were logged during a test.

    @ivar events: the events, in the order of time.
    """

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def of(self, event: str) -> list[str]:
        """Return the messages of the events whose C{event} is this one."""
        return [formatEvent(e) for e in self.events if e.get("event") == event]


@pytest.fixture
def logged() -> Iterator[LoggedEvents]:
    """Collect what is logged from here to the end of the test."""
    logged = LoggedEvents()
    observer = cast(ILogObserver, logged.events.append)
    globalLogPublisher.addObserver(observer)
    try:
        yield logged
    finally:
        globalLogPublisher.removeObserver(observer)


def _turn(reactor: Any) -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(0.005, done.callback, None)
    return done


def _work(reactor: Any) -> set[Any]:
    work = {*reactor.getDelayedCalls(), *reactor.getReaders(), *reactor.getWriters()}
    # The reactor itself has the sockets by which signals wake it.
    return {w for w in work if type(w).__module__ != "twisted.internet._signals"}


@pytest.fixture(autouse=True)
def clean_reactor() -> Iterator[None]:
    """Check after each test that the reactor holds nothing that was not there before."""
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


def pytest_configure(config: pytest.Config) -> None:
    """
    Make the marker C{own_cpu} known to pytest, and let SIGINT end what the tests start.

    A shell has a job in the background ignore SIGINT, and so would every process of its tests.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        "own_cpu(reason): the test itself keeps the reactor's thread busy, so that its turns "
        "are not measured",
    )


@pytest.fixture(scope="session")
def turn_meter() -> TurnMeter | None:
    """Measure the turns of the reactor; the value is None if the reactor does not use epoll."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    poller = getattr(reactor, "_poller", None)
    if poller is None:
        return None
    meter = reactor._poller = TurnMeter(poller)
    watch_stacks(meter, lambda turn: None)
    return meter


@pytest.fixture(autouse=True)
def short_turns(
    request: pytest.FixtureRequest, turn_meter: TurnMeter | None, clean_reactor: None
) -> Iterator[None]:
    """
    Check that no turn of the reactor takes more than L{LIMIT} seconds of CPU in a test that
    polls.

    In the tests' process the test itself is part of a turn: a test that works hard between two
    polls bears the mark C{own_cpu}, which says why.
    """
    if turn_meter is None or COVERAGE_IS_MEASURED:
        yield
        return
    turn_meter.start_anew()
    yield
    polled = turn_meter.count > 0
    turn_meter.close_turn()
    worst = turn_meter.worst
    if polled and worst.cpu > LIMIT and request.node.get_closest_marker("own_cpu") is None:
        pytest.fail(f"a turn of the reactor took {worst.cpu:.3f} s of CPU:\n{worst.stack}")


@pytest.fixture
def behind() -> Iterator[Backend]:
    """Run a model server that answers at once."""
    with backend() as one:
        yield one


@pytest.fixture
def configure(tmp_path: Path, behind: Backend) -> Callable[..., Config]:
    """
    Return a function that makes a configuration of two models at the model server, with further
    keys.
    """

    def configure(**keys: Any) -> Config:
        write_config(tmp_path, behind.port, **keys)
        return load_config(str(tmp_path / "config.json"))

    return configure
