"""These tests check what the owner of the process does: signals, files, the collector."""

from __future__ import annotations

import gc
import os
import resource
import signal
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from twisted.logger import ILogObserver, globalLogPublisher

from llmux.daemon.signals import ProcessOwner, raise_file_limit

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Reactor:
    """
    This reactor runs when told to, and puts its own signal handlers in place as Twisted's does.
    """

    def __init__(self) -> None:
        self.when_running: list[Callable[[], object]] = []
        self.stops: list[int] = []
        self.stopped = 0

    def callWhenRunning(self, function: Callable[[], object]) -> None:
        self.when_running.append(function)

    def callFromThread(self, function: Callable[..., object], *arguments: object) -> None:
        function(*arguments)

    def stop(self) -> None:
        self.stopped += 1

    def run(self) -> None:
        for number in signal.SIGTERM, signal.SIGINT:
            signal.signal(number, lambda number, frame: self.stops.append(number))
        for function in self.when_running:
            function()


class Service:
    """This class has those methods of LlmuxService that are called."""

    def __init__(self) -> None:
        self.aborts = 0
        self.reopens = 0

    def abort(self) -> None:
        self.aborts += 1

    def reopen_logs(self) -> None:
        self.reopens += 1


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    """Undo all that a test changes in the process that runs the tests."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    gc.unfreeze()


@pytest.fixture
def events() -> Iterator[list[str]]:
    seen: list[str] = []

    def observe(event: Any) -> None:
        seen.append(str(event.get("event", event.get("log_format"))))

    observer = cast(ILogObserver, observe)
    globalLogPublisher.addObserver(observer)
    yield seen
    globalLogPublisher.removeObserver(observer)


def start(reactor: Reactor, service: Service, **more: Any) -> ProcessOwner:
    owner = ProcessOwner(reactor, service, **more)  # type: ignore[arg-type]  # what it calls of it
    owner.privilegedStartService()
    owner.startService()
    return owner


def tell(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_aborts_what_the_first_has_stopped(
    first: signal.Signals, second: signal.Signals, events: list[str]
) -> None:
    reactor, service = Reactor(), Service()
    owner = start(reactor, service)
    reactor.run()
    tell(first)
    assert (reactor.stops, service.aborts, owner.aborted_by) == ([first], 0, None)
    tell(second)
    assert (reactor.stops, service.aborts, owner.aborted_by) == ([first], 1, second)
    assert [e for e in events if e != "few_files"] == ["stopping", "aborting"]


def test_third_signal_ends_it_on_the_spot(monkeypatch: pytest.MonkeyPatch) -> None:
    reactor = Reactor()
    start(reactor, Service())
    reactor.run()
    tell(signal.SIGTERM)
    tell(signal.SIGTERM)
    kills: list[tuple[int, int]] = []
    own = os.getpid()
    with monkeypatch.context() as patched:
        patched.setattr("llmux.daemon.signals.os.kill", lambda *call: kills.append(call))
        signal.raise_signal(signal.SIGTERM)
    assert kills == [(own, signal.SIGTERM)]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_told_to_stop_before_the_reactor_runs() -> None:
    reactor = Reactor()
    start(reactor, Service())
    tell(signal.SIGTERM)
    assert reactor.stops == []
    reactor.run()
    assert reactor.stops == [signal.SIGTERM]


def test_logs_are_opened_anew(events: list[str]) -> None:
    reactor, service = Reactor(), Service()
    theirs: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: theirs.append(number))
    others: list[str] = []

    def broken() -> None:
        raise OSError(2, "no such directory")

    start(reactor, service, reopen=[broken, lambda: others.append("other")])
    # The signals are handled at once, and not only when the reactor runs: unhandled, both would
    # end the process.
    tell(signal.SIGHUP)
    assert (service.reopens, others) == (0, [])
    tell(signal.SIGUSR1)
    assert (service.reopens, others, theirs) == (1, ["other"], [signal.SIGUSR1])
    assert "a log cannot be opened anew: {error}" in events
    reactor.run()
    tell(signal.SIGUSR1)
    assert (service.reopens, reactor.stops) == (2, [])


def test_a_hangup_of_the_terminal_stops_llmux() -> None:
    reactor, service = Reactor(), Service()
    start(reactor, service, hangup_stops=True)
    reactor.run()
    tell(signal.SIGHUP)
    assert (service.reopens, reactor.stops) == (0, [signal.SIGHUP])
    tell(signal.SIGINT)
    assert service.aborts == 1


def test_what_is_there_at_the_start_is_kept_from_the_collector() -> None:
    gc.unfreeze()
    reactor = Reactor()
    start(reactor, Service())
    assert gc.get_freeze_count() == 0
    reactor.run()
    assert gc.get_freeze_count() > 1000


def test_the_limit_of_open_files_is_raised(events: list[str]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("the hard limit is low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    assert raise_file_limit() >= 4096
    soft, after = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (soft >= 4096, after) == (True, hard)
    assert raise_file_limit() == soft
    start(Reactor(), Service())
    assert events == []


def test_a_low_limit_of_open_files_is_told(
    monkeypatch: pytest.MonkeyPatch, events: list[str]
) -> None:
    monkeypatch.setattr("llmux.daemon.signals.raise_file_limit", lambda: 1024)
    start(Reactor(), Service())
    assert events == ["few_files"]
