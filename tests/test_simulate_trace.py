"""These tests read traces."""

from __future__ import annotations

import json
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmux.simulate.trace import RecordedSwitch, Trace, TraceError, TraceRequest, read_trace


def read(*lines: dict[str, Any] | str | bytes) -> Trace:
    texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    return read_trace(t.encode() if isinstance(t, str) else t for t in texts)


def test_a_line_is_a_request() -> None:
    trace = read({"t": 12.5, "model": "a", "service_s": 4.2})
    assert trace.requests == [TraceRequest("a", 4.2, 12.5)]
    assert trace.requests[0].patience == inf
    assert trace.models() == ["a"]


def test_blank_lines_and_further_keys_are_ignored() -> None:
    trace = read("", {"t": 0, "model": "a", "service_s": 1, "colour": 3}, "  \n")
    assert len(trace.requests) == 1


def test_a_follower_may_stand_before_its_request() -> None:
    trace = read(
        {"model": "b", "service_s": 1, "after": 7, "think_s": 3},
        {"t": 1, "model": "a", "service_s": 1, "id": 7, "patience_s": 9},
        {"model": "a", "service_s": 1, "after": 7},
    )
    assert trace.requests[0] == TraceRequest("b", 1, 0.0, 1, 3.0)
    assert trace.requests[1].patience == 9
    assert trace.followers == {1: [0, 2]}
    assert trace.models() == ["a", "b"]


def test_a_trace_in_seconds_since_1970_is_moved_to_begin_at_zero() -> None:
    """
    The trace is two logs one after the other, the second of which begins with an earlier
    request.
    """
    trace = read(
        {"t": 1763770010.5, "model": "a", "service_s": 1, "id": "x"},
        {"t": 1763770000.0, "model": "a", "service_s": 1},
        {"model": "a", "service_s": 1, "after": "x"},
    )
    assert [request.sent for request in trace.requests] == [10.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("nonsense", "not JSON"),
        (b'{"t": 1, "model": "\xff", "service_s": 1}', "not JSON"),
        ("[1]", "Expected `object`, got `array`"),
        ({"t": 1, "service_s": 1}, "missing required field `model`"),
        ({"t": 1, "model": "a"}, "missing required field `service_s`"),
        ({"t": 1, "model": "", "service_s": 1}, "`model` is empty"),
        ({"t": "1", "model": "a", "service_s": 1}, "got `str` - at `t`"),
        ({"t": -1, "model": "a", "service_s": 1}, "`t` is -1; give seconds, 0 or more"),
        ('{"t": 1, "model": "a", "service_s": 1e999}', "out of range - at `service_s`"),
        ({"model": "a", "service_s": 1}, "neither `t` nor `after`"),
        ({"model": "a", "service_s": 1, "after": 3}, "`after` names id 3, which no line has"),
        ({"model": "a", "service_s": 1, "after": "b", "id": "b"}, "is a circle"),
        ('{"x": ' + "[" * 100_000, "not JSON"),
        ({"t": 1, "model": "a", "service_s": 1, "waited_s": -1}, "`waited_s` is -1; give"),
        ({"switch": "a", "wake_s": 1}, "a switch without `t`"),
        ({"switch": "a", "t": 1, "wake_s": -1}, "`wake_s` is -1; give seconds"),
        ({"switch": "a", "t": 1, "sleep_s": {"b": -1}}, "`sleep_s` is -1; give seconds"),
        ({"switch": 5, "t": 1}, "got `int` - at `switch`"),
        ({"model": "switch", "t": 1}, "missing required field `service_s`"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(
    line: dict[str, Any] | str | bytes, complaint: str
) -> None:
    with pytest.raises(TraceError) as caught:
        read({"t": 1, "model": "a", "service_s": 1}, "", line)
    assert str(caught.value).startswith("line 3: ")
    assert complaint in str(caught.value)


def test_a_line_may_be_a_switch_that_was_recorded() -> None:
    trace = read(
        {"t": 1763770010, "switch": "b", "wake_s": 8.5, "sleep_s": {"a": 1.5}},
        {"t": 1763770000, "model": "switch", "service_s": 1, "waited_s": 2, "answered": False},
        {"t": 1763770020, "switch": None, "sleep_s": {"b": 1}},
    )
    assert [request.model for request in trace.requests] == ["switch"]
    assert (trace.requests[0].waited, trace.requests[0].answered) == (2, False)
    assert trace.switches == [
        RecordedSwitch(10.0, "b", 8.5, {"a": 1.5}),
        RecordedSwitch(20.0, None, None, {"b": 1.0}),
    ]


def test_an_id_that_occurs_twice_is_refused() -> None:
    line = {"t": 1, "model": "a", "service_s": 1, "id": "x"}
    with pytest.raises(TraceError, match="line 2: id 'x' is also that of line 1"):
        read(line, line)


def test_a_circle_of_several_requests_is_refused() -> None:
    with pytest.raises(TraceError, match="circle"):
        read(
            {"model": "a", "service_s": 1, "id": 1, "after": 2},
            {"model": "a", "service_s": 1, "id": 2, "after": 1},
        )


def test_a_chain_of_thousands_of_requests_is_read() -> None:
    lines = [{"t": 0, "model": "a", "service_s": 1, "id": 0}]
    lines += [{"model": "a", "service_s": 1, "id": n, "after": n - 1} for n in range(1, 5000)]
    trace = read(*reversed(lines))
    assert len(trace.followers) == 4999


def test_a_trace_without_requests_is_refused() -> None:
    with pytest.raises(TraceError, match="no requests"):
        read("", "\n")


@given(st.lists(st.binary(max_size=40)))
@settings(deadline=None)
def test_any_bytes_give_a_trace_or_a_trace_error(lines: list[bytes]) -> None:
    try:
        read_trace(lines)
    except TraceError:
        pass
