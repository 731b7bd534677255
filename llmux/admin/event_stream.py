"""
This module sends events to readers: first a status, and then whatever changes.

Events are made only while there are readers.  A reader that connects again within L{KEEP}
seconds gets the events that it has missed, from a ring of the last events.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.server import Request

from llmux.admin.command_resource import CommandTrace
from llmux.admin.reports.moments import Moments
from llmux.admin.reports.request_rows import RequestRows
from llmux.admin.reports.status_report import StatusReport
from llmux.admin.stream_reader import StreamReader
from llmux.monitoring.output_ring import OutputLine, OutputRing
from llmux.monitoring.request_journal import Ended, RequestJournal
from llmux.switching.facts.chronicle import SwitchRecord
from llmux.switching.facts.model import Model
from llmux.switching.switcher import ModelSwitcher

__all__ = ["KINDS", "EventStream"]

KINDS = (
    "status",
    "model",
    "switch",
    "queue",
    "decision",
    "request",
    "command",
    "reload",
    "log",
)

MOST_EVENTS = 1000
MOST_BYTES = 384 * 1024
"""The events in the ring may have this many bytes in all."""

KEEP = 30.0
"""For this many seconds after the last reader has left, events are still made."""

_QUEUE_INTERVAL = 0.25
_REQUEST_INTERVAL = 0.25
_COMMENT_INTERVAL = 15.0
_MOST_ROWS = 40
"""
One event has at most this many rows of requests: nobody reads more in that time, and a row
costs some microseconds.
"""

_Encoder = msgspec.json.Encoder


class _Follower:
    """A follower is a reader, and the kinds of events that the reader wants."""

    def __init__(self, reader: StreamReader, only: frozenset[str]) -> None:
        self.reader = reader
        self.only = only


class EventStream:
    """
    An event stream sends the events of one switcher to all readers.

    @ivar is_on: whether there is a reader, or has been one in the last L{KEEP} seconds.
    """

    def __init__(
        self,
        switcher: ModelSwitcher,
        clock: IReactorTime,
        moments: Moments,
        report: StatusReport,
        status: Callable[[], Mapping[str, Any]],
        model_entries: Callable[[list[Model]], list[dict[str, Any]]],
        journal: RequestJournal,
        rows: RequestRows,
        ring: OutputRing,
        trace: CommandTrace,
    ) -> None:
        """
        @param status: a function that makes the whole status.
        @param model_entries: a function that makes the status's entries of these models.
        """
        self._switcher = switcher
        self._clock = clock
        self._moments = moments
        self._report = report
        self._status = status
        self._model_entries = model_entries
        self._journal = journal
        self._rows = rows
        self._output = ring
        self._trace = trace
        self._encode = _Encoder().encode
        self._followers: list[_Follower] = []
        self._wanted: frozenset[str] = frozenset()
        self.is_on = False
        self._life = ""
        self._number = 0
        self._events: deque[tuple[int, str, bytes]] = deque()
        self._bytes = 0
        self._timers: dict[Callable[[], None], IDelayedCall] = {}
        self._ending: IDelayedCall | None = None
        # The models and switches that have changed in this turn of the reactor.
        self._changed_models: dict[str, Model] = {}
        self._changed_switches: dict[int, SwitchRecord] = {}
        self._flush_later: IDelayedCall | None = None
        self._queues: dict[str, tuple[int, int]] = {}
        self._last_ended: Ended | None = None
        self._last_decision: object = None

    # ------------------------------------------------------------- readers

    def follow(self, request: Request, only: frozenset[str], last: str | None) -> None:
        """
        Answer this request with a stream of events.

        @param only: the kinds that the reader wants.
        @param last: the id of the last event that the reader has had, as C{Last-Event-ID} gives
            it; or None.
        """
        reader = StreamReader(request, self._clock)
        follower = _Follower(reader, only)
        missed = self._missed(last)
        self._begin()
        self._followers.append(follower)
        self._choose()
        reader.on_caught_up = lambda: self._send_status(reader)
        reader.on_gone = lambda: self._left(follower)
        reader.begin(b"text/event-stream")
        reader.write(b"retry: 1000\n\n")
        if missed is None:
            self._send_status(reader)
        else:
            for kind, data in missed:
                if kind in only:
                    reader.write(data)

    def _missed(self, last: str | None) -> list[tuple[str, bytes]] | None:
        """
        Return the events after C{last}, each with its kind; None if they are not all known.
        """
        life, _, number = (last or "").partition("-")
        if not self.is_on or life != self._life or not (number.isascii() and number.isdigit()):
            return None
        first = int(number[:18]) + 1
        oldest = self._events[0][0] if self._events else self._number + 1
        if first < oldest or first > self._number + 1:
            return None
        return [(kind, data) for at, kind, data in self._events if at >= first]

    def _send_status(self, reader: StreamReader) -> None:
        reader.write(self._framed("status", self._encode(self._status())))

    def _left(self, follower: _Follower) -> None:
        self._followers.remove(follower)
        if self._followers:
            self._choose()
        elif self.is_on and self._ending is None:
            self._ending = self._clock.callLater(KEEP, self._end)

    def _choose(self) -> None:
        self._wanted = frozenset().union(*(each.only for each in self._followers))

    def close(self) -> None:
        """End all streams, and make no more events."""
        for follower in list(self._followers):
            follower.reader.end()
        self._end()

    # -------------------------------------------------- while somebody listens

    def _begin(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        if self.is_on:
            return
        self.is_on = True
        self._life = secrets.token_hex(4)
        self._number = 0
        self._switcher.chronicle.listeners.append(self._changed)
        self._output.listeners.append(self._wrote)
        self._trace.listener = self._commanded
        self._queues = {
            name: (model.waiting, len(model.guards))
            for name, model in self._switcher.models.items()
        }
        self._last_ended = self._journal.ended[-1] if self._journal.ended else None
        self._last_decision = self._report.latest_decision()
        self._every(_QUEUE_INTERVAL, self._look_at_queues)
        self._every(_REQUEST_INTERVAL, self._look_at_requests)
        self._every(_COMMENT_INTERVAL, self._comment)

    def _end(self) -> None:
        if self._ending is not None and self._ending.active():
            self._ending.cancel()
        self._ending = None
        if not self.is_on:
            return
        self.is_on = False
        self._switcher.chronicle.listeners.remove(self._changed)
        self._output.listeners.remove(self._wrote)
        self._trace.listener = None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._flush_later is not None:
            self._flush_later.cancel()
            self._flush_later = None
        self._changed_models.clear()
        self._changed_switches.clear()
        self._events.clear()
        self._bytes = 0

    def _every(self, interval: float, look: Callable[[], None]) -> None:
        def again() -> None:
            self._timers[look] = self._clock.callLater(interval, again)
            look()

        self._timers[look] = self._clock.callLater(interval, again)

    # ------------------------------------------------------------- what happens

    def _changed(self, news: Model | SwitchRecord) -> None:
        if isinstance(news, Model):
            self._changed_models[news.name] = news
            for record in self._switcher.chronicle.under_way:
                if news.name == record.target or news.name in record.victims:
                    self._changed_switches[record.number] = record
        else:
            self._changed_switches[news.number] = news
        if self._flush_later is None:
            # Several steps may follow one another in one turn of the reactor; readers get only
            # the last state.
            self._flush_later = self._clock.callLater(0, self._flush)

    def _flush(self) -> None:
        self._flush_later = None
        models, self._changed_models = self._changed_models, {}
        switches, self._changed_switches = self._changed_switches, {}
        if "switch" in self._wanted:
            for record in switches.values():
                self._tell("switch", self._report.of_switch(record))
        if "model" in self._wanted:
            for entry in self._model_entries(list(models.values())):
                self._tell("model", entry)
        self._look_at_decision()

    def _look_at_queues(self) -> None:
        self._look_at_decision()
        if "queue" not in self._wanted:
            return
        now, known, self._queues = self._switcher.clock.seconds(), self._queues, {}
        for name, model in self._switcher.models.items():
            found = self._queues[name] = model.waiting, len(model.guards)
            if known.get(name) != found:
                waiting, in_flight = found
                oldest = round(now - model.oldest(), 3) if waiting else None
                self._tell(
                    "queue",
                    {
                        "model": name,
                        "waiters": waiting,
                        "oldest_wait_secs": oldest,
                        "in_flight": in_flight,
                    },
                )

    def _look_at_decision(self) -> None:
        latest = self._report.latest_decision()
        if latest is not self._last_decision:
            self._last_decision = latest
            decision = self._report.decision() if "decision" in self._wanted else None
            if decision is not None:
                self._tell("decision", decision)

    def _look_at_requests(self) -> None:
        journal = self._journal
        latest = journal.ended[-1] if journal.ended else None
        if latest is self._last_ended:
            return
        last, self._last_ended = self._last_ended, latest
        if "request" not in self._wanted:
            return
        ended: list[Ended] = []
        left_out = 0
        for each in journal.ended_since(last):
            if len(ended) < _MOST_ROWS:
                ended.append(each)
            else:
                left_out += 1
        ended.reverse()
        rows = self._rows.of_ended(ended)
        self._tell("request", {"requests": rows, "left_out": left_out})

    def _commanded(self, who: str, verb: str, result: str) -> None:
        if "command" in self._wanted:
            self._tell("command", {"who": who, "verb": verb, "result": result})

    def reloaded(self, outcome: Mapping[str, Any]) -> None:
        """Send the result of a reload."""
        if "reload" in self._wanted:
            self._tell("reload", outcome)

    def _wrote(self, line: OutputLine) -> None:
        if "log" in self._wanted:
            self._tell(
                "log",
                {
                    "model": line.model,
                    "at": self._moments.of(line.at),
                    "hook": line.hook,
                    "stream": line.stream,
                    "line": line.text.decode("utf-8", "replace"),
                },
            )

    # ------------------------------------------------------------------- sending

    def _tell(self, kind: str, what: Mapping[str, Any]) -> None:
        self._number += 1
        data = self._framed(kind, self._encode({"schema": 1, **what}))
        self._events.append((self._number, kind, data))
        self._bytes += len(data)
        while len(self._events) > MOST_EVENTS or self._bytes > MOST_BYTES:
            self._bytes -= len(self._events.popleft()[2])
        for follower in list(self._followers):
            if kind in follower.only:
                follower.reader.write(data)

    def _framed(self, kind: str, data: bytes) -> bytes:
        identity = f"{self._life}-{self._number}".encode()
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (identity, kind.encode(), data)

    def _comment(self) -> None:
        for follower in list(self._followers):
            # A comment that a slow reader misses does not count as a lost event.
            missed = follower.reader.missed
            follower.reader.write(b":\n\n")
            follower.reader.missed = missed


def kinds_of(text: Iterable[bytes]) -> tuple[frozenset[str], list[str]]:
    """
    Read the words of C{?only=}.

    @return: the kinds that are asked for (all, if there are no words), and the words that are
        no kinds.
    """
    words = [word for each in text for word in each.decode("utf-8", "replace").split(",")]
    words = [word.strip() for word in words if word.strip()]
    if not words:
        return frozenset(KINDS), []
    return frozenset(words) & frozenset(KINDS), [word for word in words if word not in KINDS]
