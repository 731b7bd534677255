"""
These tests check that the fuzzer does the same again with the same seed, and that it sees what
is wrong.
"""

from __future__ import annotations

import pytest

from tests.fuzz.case import Case, Leaving, departures, make_case
from tests.fuzz.parsing import Found, Unparsable, head_problem, replies_in, requests_in
from tests.fuzz.parties import Registry

POST = b"POST /x HTTP/1.1\r\nHost: h\r\nX-Nonce: s1n2x0x\r\nContent-Length: 3\r\n\r\nabc"


def parsed(data: bytes) -> Found:
    (found,), _ = requests_in(data)
    return found


def test_a_seed_and_a_number_give_the_same_input_each_time() -> None:
    for number in range(200):
        first, again = make_case(7, number), make_case(7, number)
        assert first == again
        assert first.reply_to(1, "key", b"POST") == again.reply_to(1, "key", b"POST")
    assert make_case(7, 1).data != make_case(8, 1).data


def test_pieces_put_together_are_what_is_sent_before_the_client_leaves() -> None:
    for number in range(200):
        case = make_case(3, number)
        assert b"".join(case.pieces) == case.data[: case.leaves_at]


@pytest.mark.parametrize(
    ("data", "count", "ending"),
    [
        (POST * 3, 3, "whole"),
        (POST + POST[:-1], 1, "partial"),
        (POST + b"nonsense\r\n\r\n", 1, "bad"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + POST, 1, "last"),
        (b"GET / HTTP/1.0\r\n\r\n" + POST, 1, "last"),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + POST, 2, "whole"),
        (b"\r\n\r\n" + POST, 1, "whole"),
    ],
)
def test_requests_are_found_up_to_where_the_stream_ends(
    data: bytes, count: int, ending: str
) -> None:
    found, how = requests_in(data)
    assert (len(found), how) == (count, ending)


def test_what_concerns_one_connection_does_not_count_but_all_else_does() -> None:
    key = parsed(POST).key
    same = POST.replace(b"Host: h", b"Host: other\r\nConnection: x-y\r\nX-Y: 1\r\nTE: trailers")
    assert parsed(same).key == key
    for other in (
        POST.replace(b"/x", b"/y"),
        POST.replace(b"abc", b"abd"),
        POST.replace(b"POST", b"PUT"),
        POST.replace(b"Host: h", b"Host: h\r\nX-Y: 1"),
    ):
        assert parsed(other).key != key


def test_a_head_that_should_not_be_passed_on_is_seen() -> None:
    assert head_problem(parsed(POST)) == ""
    for field in (b"TE: trailers", b"Expect: 100-continue", b"Connection: close"):
        assert head_problem(parsed(POST.replace(b"Host: h", b"Host: h\r\n" + field)))


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"


def test_replies_are_found_with_their_ends() -> None:
    both = replies_in(OK + OK[:-1], [b"GET", b"GET"], closed=True)
    assert [(r.status, r.body, r.whole) for r in both] == [
        (200, b"ab", True),
        (200, b"a", False),
    ]
    (head,) = replies_in(OK[:-2], [b"HEAD"], closed=False)
    assert head.whole


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        OK + b"x" * 9 + b"\r\n",
        OK[:-2].replace(b"2", b"-2"),
        b"HTTP/2 200\r\n\r\n",
    ],
)
def test_what_is_no_reply_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(Unparsable):
        replies_in(data, [b"GET", b"GET"], closed=True)


class Findings(list[str]):
    def __call__(self, kind: str, detail: str, case: Case | None) -> None:
        self.append(kind)


def test_a_request_that_nobody_sent_is_a_finding() -> None:
    findings = Findings()
    registry = Registry(findings)
    registry.begin(Case(1, 2, POST, (), 0.0, Leaving.STAYS, len(POST)))
    assert registry.passed_on(parsed(POST)) is not None
    assert not findings
    registry.passed_on(parsed(POST.replace(b"abc", b"abd")))
    assert findings == ["passed on what h11 does not find"]


def test_a_request_may_be_begun_anew_once_and_no_more() -> None:
    findings = Findings()
    registry = Registry(findings)
    expected = registry.begin(Case(1, 2, POST, (), 0.0, Leaving.STAYS, len(POST)))
    for _ in range(2):
        registry.passed_on(parsed(POST))
    assert not findings
    registry.passed_on(parsed(POST))
    assert findings == ["passed on too often"]
    registry.end(expected)
    assert registry.passed_on(parsed(POST)) is None


def test_a_request_that_its_client_did_not_finish_is_not_expected() -> None:
    findings = Findings()
    registry = Registry(findings)
    registry.begin(Case(1, 2, POST, (), 0.0, Leaving.CLOSES, len(POST) - 1))
    registry.passed_on(parsed(POST))
    assert findings == ["passed on what h11 does not find"]


def test_a_client_leaves_once_at_each_byte() -> None:
    cases = departures(3, 40)
    sizes = [len(b"".join(case.pieces)) for case in cases]
    assert sizes == list(range(1, len(cases[0].data) + 1))
    assert len({case.data for case in cases}) == len(cases)
