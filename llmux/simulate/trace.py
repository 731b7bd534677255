"""
This module reads the recorded or invented requests that a simulation runs: JSON, one request a
line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite

import msgspec

__all__ = ["RecordedSwitch", "Trace", "TraceError", "TraceRequest", "read_trace"]

EPOCH_TIMES = 1e8
"""
If all times of a trace are greater than this number of seconds, they are seconds since 1970,
and the trace is moved so that it begins at 0.
"""


class TraceError(Exception):
    """A trace cannot be run; the error's message names the line and says what is wrong."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """
    A L{TraceRequest} is one request of a trace.

    @ivar model: the model that the request names.
    @ivar service: how many seconds the backend takes to answer the request.
    @ivar sent: when the request is sent, in seconds from the beginning; 0 with
        C{after}.
    @ivar after: the position in the trace of the request whose reply this one follows, or None.
    @ivar think: how many seconds pass between that reply and this request.
    @ivar patience: how many seconds the client waits for the service to begin before it gives
        up.
    @ivar waited: how many seconds the request waited when it was recorded; None if the trace
        does not say.
    @ivar answered: whether the request was answered when it was recorded.
    @ivar left: whether the request left without having been forwarded.
    """

    model: str
    service: float
    sent: float = 0.0
    after: int | None = None
    think: float = 0.0
    patience: float = inf
    waited: float | None = None
    answered: bool = True
    left: bool = False


@dataclass(frozen=True, slots=True)
class RecordedSwitch:
    """
    A L{RecordedSwitch} is one switch that was recorded in a trace.

    @ivar time: when the model was awake, in seconds from the beginning.
    @ivar model: the model that woke; None if others were only put to sleep.
    @ivar wake: the seconds that the wake took, with C{alive}'s yes; None if not recorded.
    @ivar sleeps: for each model that was put to sleep for this one, how many seconds that took.
    """

    time: float
    model: str | None
    wake: float | None
    sleeps: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trace:
    """
    A trace has the requests that a simulation runs, in the order of their file.

    @ivar followers: by the position of a request, the positions of the requests that
        are sent after its reply.
    @ivar switches: the switches that were made when the trace was recorded.
    """

    requests: Sequence[TraceRequest]
    followers: dict[int, list[int]]
    switches: Sequence[RecordedSwitch] = ()

    @classmethod
    def of(
        cls, requests: Sequence[TraceRequest], switches: Sequence[RecordedSwitch] = ()
    ) -> Trace:
        """Make a trace of requests whose C{after} are positions in this list."""
        followers: dict[int, list[int]] = {}
        for position, request in enumerate(requests):
            if request.after is not None:
                followers.setdefault(request.after, []).append(position)
        return cls(requests, followers, switches)

    def models(self) -> list[str]:
        """Return the names of the models in the trace, sorted."""
        return sorted({request.model for request in self.requests})


class _Line(msgspec.Struct):
    """A line may have these keys; further keys are ignored."""

    model: str
    service_s: float
    t: float | None = None
    id: str | int | None = None
    after: str | int | None = None
    think_s: float = 0.0
    patience_s: float | None = None
    waited_s: float | None = None
    answered: bool = True
    left: str | None = None


class _SwitchLine(msgspec.Struct):
    """The line of a switch may have these keys; a line without C{switch} is a request."""

    switch: str | msgspec.UnsetType | None = msgspec.UNSET
    t: float | None = None
    wake_s: float | None = None
    sleep_s: dict[str, float] = {}


def read_trace(lines: Iterable[bytes]) -> Trace:
    """
    Read a trace.  Blank lines are ignored, and the lines may be in any order.

    @raise TraceError: a line is neither a request nor a switch, or C{after} names a
        request that no line has.
    """
    decoder = msgspec.json.Decoder(_Line)
    switch_decoder = msgspec.json.Decoder(_SwitchLine)
    read: list[tuple[int, _Line]] = []
    switches: list[_SwitchLine] = []
    positions: dict[str | int, int] = {}
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            if b'"switch"' in text:
                switch = switch_decoder.decode(text)
                if switch.switch is not msgspec.UNSET:
                    _check_switch(number, switch)
                    switches.append(switch)
                    continue
            line = decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise TraceError(f"line {number}: {_plain(error)}") from None
        _check(number, line)
        if line.id is not None:
            if line.id in positions:
                raise TraceError(
                    f"line {number}: id {line.id!r} is also that of line "
                    f"{read[positions[line.id]][0]}"
                )
            positions[line.id] = len(read)
        read.append((number, line))
    if not read:
        raise TraceError("no requests in it")
    return _assemble(read, positions, switches)


def _plain(error: Exception) -> str:
    """Return the message about a wrong line, without the names of llmux's own types."""
    text = str(error)
    if isinstance(error, msgspec.ValidationError):
        return text.replace("Object missing", "missing").replace("`$.", "`")
    return f"not JSON ({text})"


def _check(number: int, line: _Line) -> None:
    if not line.model:
        raise TraceError(f"line {number}: `model` is empty")
    for key, value in (
        ("service_s", line.service_s),
        ("t", line.t),
        ("think_s", line.think_s),
        ("patience_s", line.patience_s),
        ("waited_s", line.waited_s),
    ):
        _check_seconds(number, key, value)
    if line.t is None and line.after is None:
        raise TraceError(f"line {number}: neither `t` nor `after` says when it is sent")


def _check_switch(number: int, line: _SwitchLine) -> None:
    if line.t is None:
        raise TraceError(f"line {number}: a switch without `t`")
    _check_seconds(number, "t", line.t)
    _check_seconds(number, "wake_s", line.wake_s)
    for seconds in line.sleep_s.values():
        _check_seconds(number, "sleep_s", seconds)


def _check_seconds(number: int, key: str, value: float | None) -> None:
    if value is not None and not (isfinite(value) and value >= 0):
        raise TraceError(f"line {number}: `{key}` is {value:g}; give seconds, 0 or more")


def _assemble(
    read: list[tuple[int, _Line]],
    positions: dict[str | int, int],
    switches: list[_SwitchLine],
) -> Trace:
    first = min(
        (line.t for _, line in read if line.after is None and line.t is not None), default=inf
    )
    begin = first if EPOCH_TIMES < first < inf else 0.0
    requests = []
    names: dict[str, str] = {}
    for number, line in read:
        after = None
        if line.after is not None:
            after = positions.get(line.after)
            if after is None:
                raise TraceError(
                    f"line {number}: `after` names id {line.after!r}, which no line has"
                )
        requests.append(
            TraceRequest(
                model=names.setdefault(line.model, line.model),
                service=line.service_s,
                sent=0.0 if after is not None or line.t is None else line.t - begin,
                after=after,
                think=line.think_s,
                patience=inf if line.patience_s is None else line.patience_s,
                waited=line.waited_s,
                answered=line.answered,
                left=line.left is not None,
            )
        )
    _refuse_circles(read, requests)
    recorded = [
        RecordedSwitch(line.t - begin, line.switch, line.wake_s, line.sleep_s)
        for line in switches
        if line.t is not None and line.switch is not msgspec.UNSET
    ]
    return Trace.of(requests, recorded)


def _refuse_circles(read: list[tuple[int, _Line]], requests: list[TraceRequest]) -> None:
    """
    Check that each chain of C{after} ends at a request that has a time.

    @raise TraceError: a chain is a circle.
    """
    begins = [request.after is None for request in requests]
    for position in range(len(requests)):
        chain = []
        at: int | None = position
        on_chain = set()
        while at is not None and not begins[at]:
            if at in on_chain:
                raise TraceError(f"line {read[position][0]}: its chain of `after` is a circle")
            on_chain.add(at)
            chain.append(at)
            at = requests[at].after
        for link in chain:
            begins[link] = True
