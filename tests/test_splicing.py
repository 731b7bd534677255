"""These tests compare bodies with cuts, in memory and in files, with slices of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmux.web.body import IN_MEMORY, BodyStorage, IncomingBody, RequestBody
from llmux.web.splicing import Cut, splice


def in_file(data: bytes, storage: BodyStorage | None = None) -> RequestBody:
    return RequestBody.from_file((storage or BodyStorage()).spool(data), len(data))


@st.composite
def cuts(draw: st.DrawFn) -> tuple[bytes, list[Cut]]:
    data = draw(st.binary(max_size=60))
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    pairs = zip(places[::2], places[1::2], strict=False)
    return data, [Cut(start, end, draw(st.binary(max_size=5))) for start, end in pairs]


def cut_out(data: bytes, cuts: list[Cut]) -> bytes:
    for cut in reversed(cuts):
        data = data[: cut.start] + cut.put + data[cut.end :]
    return data


@given(cuts(), st.integers(0, 70), st.integers(0, 70))
@settings(deadline=None)
def test_a_spliced_body_reads_like_its_bytes(
    example: tuple[bytes, list[Cut]], at: int, size: int
) -> None:
    data, made = example
    expected = cut_out(data, made)
    for body in (RequestBody.of(data), in_file(data)):
        spliced = splice(body, made)
        assert spliced.length == len(expected)
        assert spliced.piece(at, size) == expected[at : at + size]
        with spliced.open() as reader:
            assert reader.read() == expected
            reader.seek(min(at, len(expected)))
            assert reader.read(size) == expected[at : at + size]
        spliced.close()


def test_a_reader_outlives_a_spliced_body() -> None:
    spliced = splice(in_file(b"abcdef"), [Cut(1, 2, b"XYZ")])
    reader = spliced.open()
    spliced.close()
    with reader:
        assert reader.read() == b"aXYZcdef"
    with pytest.raises(ValueError, match="closed"):
        spliced.piece(0, 1)


@pytest.mark.parametrize("size", [1000, IN_MEMORY + 1])
def test_a_spliced_body_gives_back_what_its_original_held(size: int) -> None:
    storage = BodyStorage()
    coming = IncomingBody(2 * size, None, storage)
    for _ in range(0, size, 1000):
        coming.write(b"x" * 1000)
    original = coming.finish()
    assert (original.in_memory() is None) == (size > IN_MEMORY)
    spliced = splice(original, [Cut(0, 1, b"y")])
    # The new body does not change when the old one is closed.
    original.close()
    assert spliced.piece(0, 2) == b"yx"
    assert storage.in_memory + storage.spooled >= size
    spliced.close()
    assert (storage.in_memory, storage.spooled) == (0, 0)


def test_a_spliced_body_that_waits_is_moved_to_disk() -> None:
    storage = BodyStorage()
    coming = IncomingBody(1000, None, storage)
    coming.write(b"abc")
    spliced = splice(coming.finish(), [Cut(3, 3, b"d")])
    spliced.spill()
    assert (spliced.in_memory(), spliced.piece(0, 9)) == (None, b"abcd")
    assert (storage.in_memory, storage.spooled) == (0, 4)
    spliced.close()
    assert (storage.in_memory, storage.spooled) == (0, 0)
