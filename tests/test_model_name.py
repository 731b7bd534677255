"""
These tests compare the model that llmux finds in a body with what json.loads finds, in whatever
pieces, and in forms however they are written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Cooperator
from twisted.trial.unittest import SynchronousTestCase

from llmux.proxy.model_name.find import find_model
from llmux.proxy.model_name.form import BodyScan
from llmux.proxy.model_name.json_scan import ModelScan
from llmux.web.body import IN_MEMORY, IncomingBody, RequestBody
from llmux.web.limits import SCAN_ABOVE

case = SynchronousTestCase()


def test_a_scan_gives_up_what_takes_too_long_and_a_search_in_turns_finds_it() -> None:
    """A document of forty thousand keys named model delays no other client."""
    depth = SCAN_ABOVE // 10
    document = b'{"model":' * depth + b"1" + b"}" * depth
    document = document[:-1] + b',"model":"a"}'
    coming = IncomingBody(len(document), BodyScan(None, gives_up=True))
    for at in range(0, len(document), 65536):
        coming.write(document[at : at + 65536])
    body = coming.finish()
    assert body.scan is None
    turns: list[Callable[[], None]] = []
    later: Any = turns.append
    result = find_model(body, None, Cooperator(lambda: lambda: True, later))
    assert isinstance(result, Deferred)
    while turns:
        turns.pop()()
    assert case.successResultOf(result) == "a"


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (b"utf-8", "\xe4"),
        (b"ISO-8859-1", "\xc3\xa4"),
        (b"windows-1252", "\xc3\xa4"),
        (b"punycode", "\xe4"),
    ],
)
def test_few_charsets_of_a_field_are_heeded(charset: bytes, name: str) -> None:
    """A charset that is not known to be quick is read as UTF-8: some take 0.5 s for 64 KiB."""
    form = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n'
        b"Content-Type: text/plain; charset=" + charset + b"\r\n\r\n\xc3\xa4\r\n--b--\r\n"
    )
    assert found(form, b"multipart/form-data; boundary=b") == name


def by_json(document: bytes) -> str | None:
    """Return the model that Python's own parser finds."""
    try:
        value = json.loads(document)
    except ValueError:
        return None
    model = value.get("model") if isinstance(value, dict) else None
    if not isinstance(model, str):
        return None
    return model.encode("utf-8", "replace").decode()


def scanned(pieces: list[bytes]) -> str | None:
    scan = ModelScan()
    for piece in pieces:
        scan.feed(piece)
    return scan.finish()


def found(data: bytes, content_type: bytes | None = None) -> str | None:
    turns: list[Callable[[], None]] = []
    later: Any = turns.append
    cooperator = Cooperator(scheduler=later)
    result = find_model(RequestBody.of(data), content_type, cooperator)
    if not isinstance(result, Deferred):
        return result
    while turns:
        turns.pop()()
    return case.successResultOf(result)


# --------------------------------------------------------------------- JSON

KEYS = [
    '"model"',
    r'"mod\u0065l"',
    r'"\u006D\u006F\u0064\u0065\u006C"',
    r'"\u006d\u006f\u0064\u0065\u006c"',
    r'"model\u0000"',
    '"mode"',
    '"models"',
    '"Model"',
    r'"m\u00f6del"',
    r'"\"model\""',
    r'"a\\"',
    '""',
    '"' + "x" * 50 + '"',
]
TEXTS = [
    '"a"',
    '"model"',
    '""',
    r'"\ud83d\ude00"',
    r'"\ud800"',
    '"é"',
    r'"\\"',
    r'"a\"b\\\"c"',
    r'"a\\\\"',
    '"{[}]:,"',
    r'"\"model\":\"x\""',
    '"' + "y" * 70 + '"',
    r'"\u0061/\/\n"',
]
blank = st.sampled_from(["", "", "", " ", "\n\t ", "\r\n"])
key = st.sampled_from(KEYS)
scalar = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(["0", "-1.5e+3", "1E9", "true", "false", "null", "NaN", "-Infinity"]),
)


def spaced(text: str) -> st.SearchStrategy[str]:
    return st.tuples(blank, blank).map(lambda around: around[0] + text + around[1])


def joined(parts: list[str], brackets: str) -> str:
    return brackets[0] + ",".join(parts) + brackets[1]


def containers(value: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    spaced_value = value.flatmap(spaced)
    member = st.tuples(key.flatmap(spaced), spaced_value).map(":".join)
    return st.one_of(
        st.lists(spaced_value, max_size=4).map(lambda parts: joined(parts, "[]")),
        st.lists(member, max_size=4).map(lambda parts: joined(parts, "{}")),
    )


value = st.recursive(scalar, containers, max_leaves=12)
top = st.lists(
    st.tuples(key.flatmap(spaced), value.flatmap(spaced)).map(":".join), max_size=5
).map(lambda parts: joined(parts, "{}"))
document = st.one_of(top, top, top, value).flatmap(spaced).map(str.encode)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    if draw(st.booleans()):
        return [data[i : i + 1] for i in range(len(data))]
    at = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


@settings(max_examples=200, deadline=None)
@given(st.data(), document)
def test_the_scan_finds_what_json_loads_finds(data: st.DataObject, document: bytes) -> None:
    expected = by_json(document)
    assert scanned([document]) == expected
    assert scanned(data.draw(cut(document))) == expected
    assert found(document) == expected


@pytest.mark.parametrize(
    "document", [b'{"model":"model"}', b'{"a": "model", "model" : "model" }']
)
def test_a_model_may_be_called_model(document: bytes) -> None:
    """The name is no key, even where a piece ends with it."""
    assert scanned([document[i : i + 1] for i in range(len(document))]) == "model"


@settings(max_examples=120, deadline=None)
@given(st.data(), top.map(str.encode))
def test_what_is_no_json_has_no_model(data: st.DataObject, document: bytes) -> None:
    """
    A document that is cut short, or goes on, has no model, in whatever pieces it
    comes.
    """
    short = document[: data.draw(st.integers(0, len(document) - 1))]
    assert scanned([short]) is None
    assert found(short) is None
    more = document + data.draw(st.sampled_from([b"x", b"{}", b"]", b"}", b'"', b' "a"', b"1"]))
    assert scanned([more]) is None
    assert scanned(data.draw(cut(more))) is None
    assert found(more) is None


@settings(max_examples=120, deadline=None)
@given(st.data(), top.map(str.encode))
def test_the_scan_of_a_spoilt_document_agrees_with_json_loads(
    data: st.DataObject, document: bytes
) -> None:
    """The scan sees the same as json.loads wherever json.loads still takes the document."""
    at = data.draw(st.integers(0, len(document)))
    gone = data.draw(st.integers(0, 2))
    new = data.draw(
        st.sampled_from([b"", b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"x"])
    )
    document = document[:at] + new + document[at + gone :]
    expected = by_json(document)
    whole = scanned([document])
    assert scanned(data.draw(cut(document))) == whole
    if expected is not None:
        assert whole == expected
    assert found(document) == expected


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.data())
def test_the_scan_takes_any_bytes(noise: bytes, data: st.DataObject) -> None:
    scanned(data.draw(cut(noise)))
    assert found(noise) == by_json(noise)


@pytest.mark.parametrize(
    ("document", "model"),
    [
        (b'{"model": "a"}', "a"),
        (b'\xef\xbb\xbf {"model": "a"}', "a"),
        (b'\xef\xbb\xbf\xef\xbb\xbf{"model": "a"}', None),
        (b'{"model": "a", "x": NaN}', "a"),
        (b'{"model": "a", "model": "b"}', "b"),
        (b'{"model": "a", "model": 1}', None),
        (b'{"model": 1, "model": "b"}', "b"),
        (b'{"x": {"model": "a"}}', None),
        (b'[{"model": "a"}]', None),
        (b'"model"', None),
        (b"", None),
        (b" ", None),
        (b"model=a", None),
        (b'{"model": ["a"]}', None),
        (b'{"model": null}', None),
        (b'{"model": "a"}\n', "a"),
        (b'{"model": "a"}{}', None),
        (b'{"x":' + b"[" * 3000 + b"]" * 3000 + b', "model": "a"}', "a"),
    ],
)
def test_the_model_of_a_document_is_found_however_it_is_cut(
    document: bytes, model: str | None
) -> None:
    assert found(document) == model
    assert found(document, b"application/x-www-form-urlencoded") == model
    assert scanned([document]) == model
    assert scanned([document[i : i + 1] for i in range(len(document))]) == model


def test_depth_has_no_end_but_memory() -> None:
    deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b', "model": "a"}'
    assert scanned([deep]) == "a"
    assert found(deep) == "a"
    alternating = b'{"x":' + b'[{"":' * 100_000 + b"1" + b"}]" * 100_000 + b', "model": "a"}'
    assert scanned([alternating]) == "a"
    assert scanned([b"{" + b"[" * 3_000_000]) is None


def test_a_name_without_end_is_none() -> None:
    document = b'{"model": "' + b"a" * 300_000 + b'"}'
    assert scanned([document[i : i + 16384] for i in range(0, len(document), 16384)]) is None


PADS: dict[str, Callable[[int], bytes]] = {
    "one long string": lambda size: b'"' + b"abc/" * (size // 4) + b'"',
    "escapes": lambda size: b'"' + rb"\"\\\n" * (size // 6) + b'"',
    "brackets": lambda size: b"[" + b"[],{}," * (size // 6) + b"1]",
    "strings": lambda size: b"[" + b'"a",' * (size // 4) + b"1]",
    "models": lambda size: b"[" + b'{"model":"x"},' * (size // 14) + b"1]",
}


@pytest.mark.parametrize("name", PADS)
@pytest.mark.parametrize("size", [SCAN_ABOVE - 100, SCAN_ABOVE + 100, 900_000])
@pytest.mark.parametrize("first", [True, False])
def test_the_model_of_a_large_document_is_found(name: str, size: int, first: bool) -> None:
    pad = b'"x":' + PADS[name](size)
    model = b'"model":"a"'
    document = b"{%b,%b}" % ((model, pad) if first else (pad, model))
    for step in (1000, 65536):
        pieces = [document[i : i + step] for i in range(0, len(document), step)]
        assert scanned(pieces) == "a"


# -------------------------------------------------------------------- forms


def form(*parts: tuple[str, bytes], boundary: bytes = b"b") -> bytes:
    lines = b"".join(
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n"
        % (boundary, how.encode(), value)
        for how, value in parts
    )
    return lines + b"--%b--\r\n" % boundary


MODEL = ('name="model"', b"a")
FILE = ('name="file"; filename="x.wav"', b"\0\r\n--c\r\n{" * 1000)


@pytest.mark.parametrize(
    ("parts", "model"),
    [
        ([MODEL], "a"),
        ([FILE, MODEL], "a"),
        ([MODEL, FILE], "a"),
        ([("name=model", b"a")], "a"),
        ([('name="model"; filename="m"', b"b"), MODEL], "a"),
        ([MODEL, ('name="model"; filename="m"', b"b")], "a"),
        ([('name="model"; filename="m"', b"b")], None),
        ([MODEL, ('name="model"', b"b")], "b"),
        ([('name="model[]"', b"b"), ('name="Model"', b"c")], None),
        ([('name="model"', "é".encode())], "é"),
        ([('name="model"\r\nContent-Type: text/plain; charset=latin-1', b"\xe9")], "é"),
        ([('name="model"\r\nContent-Type: text/plain; charset=nonsense', b"a")], "a"),
        ([('name="model"', b"")], ""),
        ([('name="model"', b"x" * 70_000)], None),
        ([("name=x", b"y")] * 3, None),
        ([], None),
    ],
)
def test_the_model_of_a_form_is_found_however_it_is_cut(
    parts: list[tuple[str, bytes]], model: str | None
) -> None:
    data = form(*parts)
    kind = b"multipart/form-data; boundary=b"
    assert found(data, kind) == model
    for step in (1, 7, 1000):
        scan = BodyScan(kind)
        for at in range(0, len(data), step):
            scan.feed(data[at : at + step])
        assert scan.finish() == model


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        (b'multipart/form-data; boundary="b"', b"b"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a b:c"', b"a b:c"),
        (b"multipart/form-data;boundary=----x", b"----x"),
    ],
)
def test_the_boundary_of_a_form_is_read_in_each_way_to_write_it(
    kind: bytes, boundary: bytes
) -> None:
    assert found(form(FILE, MODEL, boundary=boundary), kind) == "a"


@pytest.mark.parametrize(
    "kind",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b'multipart/form-data; boundary="',
        b"multipart/form-data; boundary=other",
        b"multipart/mixed; boundary=b",
        b"text/plain",
    ],
)
def test_what_is_no_form_has_no_model(kind: bytes) -> None:
    assert found(form(MODEL), kind) is None


def test_json_that_is_called_a_form_is_read_as_json() -> None:
    assert found(b'{"model": "a"}', b"multipart/form-data; boundary=b") == "a"
    assert found(b' {"model": "a", "x": NaN}', b"multipart/form-data; boundary=b") == "a"


def test_a_form_of_many_parts_is_not_read_to_its_end() -> None:
    assert (
        found(form(*[("name=x", b"")] * 2000, MODEL), b"multipart/form-data; boundary=b")
        is None
    )


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.data())
def test_the_scan_takes_any_bytes_in_a_form(noise: bytes, data: st.DataObject) -> None:
    scan = BodyScan(b"multipart/form-data; boundary=b")
    for piece in data.draw(cut(form(MODEL)[:40] + noise)):
        scan.feed(piece)
    scan.finish()


# ------------------------------------------------------------- large bodies


class Turns:
    """This is a cooperator whose turns the test runs."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.cooperator = Cooperator(lambda: lambda: True, self._later)

    def _later(self, call: Callable[[], None]) -> Any:
        self.calls.append(call)

        class Later:
            cancel = staticmethod(lambda: self.calls.remove(call))

        return Later()

    def run(self) -> int:
        count = 0
        while self.calls:
            self.calls.pop(0)()
            count += 1
        return count


LARGE = b'{"x":"' + b"y" * 3_000_000 + b'","model":"a"}'


def incoming(data: bytes, scan: BodyScan | None = None) -> RequestBody:
    coming = IncomingBody(len(data), scan)
    for at in range(0, len(data), 65536):
        coming.write(data[at : at + 65536])
    return coming.finish()


@pytest.mark.parametrize("size", [IN_MEMORY // 2, 3 * IN_MEMORY])
def test_a_large_body_is_searched_in_turns(size: int) -> None:
    data = b'{"x":"' + b"y" * size + b'","model":"a"}'
    body, turns = incoming(data), Turns()
    result = find_model(body, None, turns.cooperator)
    assert isinstance(result, Deferred)
    case.assertNoResult(result)
    assert turns.run() > size // 20_000
    assert case.successResultOf(result) == "a"
    body.close()


def test_nobody_wants_to_know_any_more() -> None:
    body, turns = incoming(LARGE), Turns()
    result = find_model(body, None, turns.cooperator)
    assert isinstance(result, Deferred)
    turns.calls.pop(0)()
    result.cancel()
    case.failureResultOf(result, CancelledError)
    turns.run()
    body.close()


def test_a_body_that_was_looked_at_as_it_came() -> None:
    body = incoming(LARGE, BodyScan(None))
    assert find_model(body, None) == "a"
    body.close()


def test_a_small_body_with_a_number_that_is_not_finite_has_its_model() -> None:
    assert math.isnan(json.loads(b'{"model":"a","x":NaN}')["x"])
    assert found(b'{"model":"a","x":NaN}') == "a"
