"""This module logs requests and switches as a trace that C{llmux simulate} reads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from llmux.interfaces import (
    Arrived,
    Completed,
    Failed,
    Forwarded,
    Left,
    LeftReason,
    PolicyEvent,
    Slept,
    Woke,
)
from llmux.monitoring.log_file import give_file

__all__ = ["RequestLog"]


@dataclass(frozen=True)
class _Unanswered:
    """
    An L{_Unanswered} holds the line of a request whose backend did not answer.

    @ivar arrived: when the request arrived, on the switcher's clock.
    @ivar ended: when its exchange was over.
    """

    model: str
    arrived: float
    ended: float
    line: dict[str, object]


class RequestLog:
    """
    This observer of a switcher writes one line of JSON for each request
    that is over.  The line holds nothing of prompts or replies::

        {"t": 1763770000.25, "model": "a", "service_s": 4.2, "id": "69211b50-17",
         "waited_s": 12.5, "answered": true}

    C{t} is when the request arrived, in seconds since 1970; C{service_s} is the time from
    forwarding the request to the end of the reply.  The line of a request that never had its
    turn says why in C{left}, has the mean service time of the request's model and, if the
    client left, C{patience_s}.

    A request whose backend did not answer may be forwarded once more, under another number,
    when its model has been woken again.  Such a request has one line as well, with the outcome
    of the last try: the line of a request without an answer is kept back for a minute, and for
    as long as its model is dead.

    A switch is a line as well, written when its target is awake::

        {"t": 1763770012.75, "switch": "b", "wake_s": 8.5, "sleep_s": {"a": 1.5}}

    C{wake_s} is the time of the wake hook and of C{alive} after it; C{sleep_s} has the time of
    the sleep hook of each model that was put to sleep for that one.  If a model was put to
    sleep for no other model, by a command, or for a model that did not wake, there is a line
    whose C{switch} is null, which is written when the model that sleeps wakes again, or at the
    end.

    Other lines are kept back for a second at most while requests are in flight.
    A disk that is full or broken is logged once and never breaks serving:
    lines are lost until it works again.

    @param path: the file, to which lines are appended.
    @param clock: the switcher's clock, which may begin anywhere; the offset from it to the time
        since 1970 is measured once, now.
    @param seconds: a function that returns the time since 1970, in seconds.
    @param owner: the user and the group that the file is to belong to, if this process will
        become another user's.
    @raise OSError: the file cannot be opened.
    """

    BUFFER_BYTES = 64 * 1024
    INTERVAL = 1.0
    UNANSWERED = 60.0
    MOST_UNANSWERED = 1000

    _log = Logger()

    def __init__(
        self,
        path: str,
        clock: IReactorTime,
        seconds: Callable[[], float] = time.time,
        *,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self._path = path
        self._fd: int | None = self._open()
        if owner is not None:
            give_file(path, self._fd, owner)
        # Numbers of requests begin anew with each start of llmux.
        self._prefix = f"{int(seconds()):x}-"
        self._epoch = seconds() - clock.seconds()
        self._waited: dict[int, float] = {}
        self._arrived: set[int] = set()
        self._unanswered: list[_Unanswered] = []
        self._looked = 0.0
        self._dead: set[str] = set()
        self._means: dict[str, tuple[int, float]] = {}
        self._slept: dict[str, Slept] = {}
        self._buffer = bytearray()
        self._lines = 0
        self._flushed = 0.0
        self._lost = 0

    def __call__(self, event: PolicyEvent) -> None:
        """Record an event of the switcher."""
        kind = type(event)
        if kind is Forwarded:
            assert isinstance(event, Forwarded)
            self._waited[event.request] = event.waited
            if event.waited:
                self._begins_anew(event.model, event.request, event.now - event.waited)
            else:
                self._arrived.discard(event.request)
        elif kind is Completed:
            assert isinstance(event, Completed)
            self._completed(event)
        elif kind is Arrived:
            assert isinstance(event, Arrived)
            self._arrived.add(event.request)
        elif kind is Left:
            assert isinstance(event, Left)
            self._begins_anew(event.model, event.request, event.now - event.age)
            self._left(event)
        elif kind is Failed:
            assert isinstance(event, Failed)
            if event.hook is None:
                self._dead.add(event.model)
        elif kind is Woke:
            assert isinstance(event, Woke)
            self._dead.discard(event.model)
            self._woke(event)
        elif kind is Slept:
            assert isinstance(event, Slept)
            if event.cost is not None:
                self._slept[event.model] = event

    def reopen(self) -> None:
        """
        Continue in a new file of the same name, after logrotate has moved the old one away.
        """
        if self._fd is None:
            return
        self._flush()
        try:
            new = self._open()
        except OSError as error:
            self._log.error(
                "the request log {path} cannot be opened anew, the old file is written on: "
                "{error}",
                event="request_log_not_reopened",
                path=self._path,
                error=error.strerror,
            )
            return
        os.close(self._fd)
        self._fd = new

    def close(self) -> None:
        """Write the lines that are kept back, and close the file."""
        if self._fd is not None:
            for unanswered in self._unanswered:
                self._append(unanswered.line)
            self._unanswered.clear()
            for slept in self._slept.values():
                self._append(self._slept_alone(slept))
            self._slept.clear()
            self._flush()
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        # Without O_NONBLOCK, opening a named pipe that nobody reads would wait for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(self._path, flags, 0o640)

    def _begins_anew(self, model: str, request: int, arrived: float) -> None:
        """
        Drop the line of an earlier try, because a request goes to its backend, or leaves.  The
        request has been forwarded before if there was no L{Arrived} for it.
        """
        if request in self._arrived:
            self._arrived.discard(request)
            return
        for unanswered in self._unanswered:
            if unanswered.model == model and abs(unanswered.arrived - arrived) < 0.001:
                self._unanswered.remove(unanswered)
                return

    def _completed(self, event: Completed) -> None:
        waited = self._waited.pop(event.request, 0.0)
        arrived = event.now - event.service - waited
        line: dict[str, object] = {
            "t": self._since_1970(arrived),
            "model": event.model,
            "service_s": round(event.service, 4),
            "id": f"{self._prefix}{event.request}",
            "waited_s": round(waited, 4),
            "answered": event.answered,
        }
        if event.answered:
            count, mean = self._means.get(event.model, (0, 0.0))
            self._means[event.model] = count + 1, mean + (event.service - mean) / (count + 1)
        else:
            self._unanswered.append(_Unanswered(event.model, arrived, event.now, line))
        self._write(event.now, line if event.answered else None)

    def _left(self, event: Left) -> None:
        _, mean = self._means.get(event.model, (0, 1.0))
        line: dict[str, object] = {
            "t": self._since_1970(event.now - event.age),
            "model": event.model,
            "service_s": round(mean, 4),
            "id": f"{self._prefix}{event.request}",
            "waited_s": round(event.age, 4),
            "answered": False,
            "left": event.reason.value,
        }
        if event.reason is LeftReason.DISCONNECTED:
            line["patience_s"] = round(event.age, 4)
        self._write(event.now, line)

    def _woke(self, event: Woke) -> None:
        alone = self._slept.pop(event.model, None)
        if alone is not None and self._fd is not None:
            self._append(self._slept_alone(alone))
        if event.cost is None:
            return
        slept = [self._slept.pop(victim, None) for victim in event.victims]
        line: dict[str, object] = {
            "t": self._since_1970(event.now),
            "switch": event.model,
            "wake_s": round(event.cost, 4),
            "sleep_s": {each.model: round(each.cost or 0.0, 4) for each in slept if each},
        }
        # Requests that met the dead backend are about to be forwarded once more, so their lines
        # are still kept back.
        if self._fd is not None:
            self._append(line)
            self._flush_if_due(event.now)

    def _slept_alone(self, event: Slept) -> dict[str, object]:
        return {
            "t": self._since_1970(event.now),
            "switch": None,
            "sleep_s": {event.model: round(event.cost or 0.0, 4)},
        }

    def _since_1970(self, moment: float) -> float:
        return round(moment + self._epoch, 4)

    def _write(self, now: float, line: dict[str, object] | None) -> None:
        if self._fd is None:
            return
        if self._unanswered and now - self._looked >= self.INTERVAL:
            self._looked = now
            self._write_unanswered(now)
        if line is not None:
            self._append(line)
        self._flush_if_due(now)

    def _flush_if_due(self, now: float) -> None:
        if (
            not self._waited
            or now - self._flushed >= self.INTERVAL
            or len(self._buffer) >= self.BUFFER_BYTES
        ):
            self._flushed = now
            self._flush()

    def _write_unanswered(self, now: float) -> None:
        """Write the lines of the requests that will not be forwarded once more."""
        kept = []
        spare = len(self._unanswered) - self.MOST_UNANSWERED
        for position, unanswered in enumerate(self._unanswered):
            may_begin_anew = (
                now - unanswered.ended < self.UNANSWERED or unanswered.model in self._dead
            )
            if may_begin_anew and position >= spare:
                kept.append(unanswered)
            else:
                self._append(unanswered.line)
        self._unanswered = kept

    def _append(self, line: dict[str, object]) -> None:
        self._buffer += msgspec.json.encode(line)
        self._buffer += b"\n"
        self._lines += 1

    def _flush(self) -> None:
        if not self._buffer:
            return
        assert self._fd is not None
        problem = _write_whole(self._fd, self._buffer)
        if problem is None:
            if self._lost:
                self._log.info(
                    "the request log {path} is written again; {lost} lines were lost",
                    event="request_log_recovered",
                    path=self._path,
                    lost=self._lost,
                )
                self._lost = 0
        else:
            if not self._lost:
                self._log.error(
                    "the request log {path} cannot be written, lines are lost: {error}",
                    event="request_log_failed",
                    path=self._path,
                    error=problem,
                )
            self._lost += self._lines
        self._buffer.clear()
        self._lines = 0


def _write_whole(fd: int, data: bytearray) -> str | None:
    """
    Append either all of the data or nothing, so that no line is cut.

    @return: what went wrong, in a few words, or None.
    """
    before = os.fstat(fd).st_size
    problem = None
    try:
        written = os.write(fd, data)
        if written == len(data):
            return None
        problem = "no space left on device"
    except OSError as error:
        problem = error.strerror or str(error)
    try:
        os.ftruncate(fd, before)
    except OSError:
        # The descriptor is no regular file.
        pass
    return problem
