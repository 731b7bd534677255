"""These tests check the file that a server writes to, and that llmux follows into the log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from llmux.hooks.serving.output_file import LATEST, MOST_READ, SOONEST, TRUNCATED_AT, OutputFile


class World:
    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.path = path
        self.read = b""
        self.left_out = 0
        self.file = OutputFile(self.clock, str(path), self.receive, self.leave_out)

    def receive(self, data: bytes) -> None:
        self.read += data

    def leave_out(self, count: int) -> None:
        self.left_out += count


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "server.log")
    yield world
    world.file.close()
    assert world.clock.getDelayedCalls() == []


def test_what_is_written_is_read_soon_and_a_silent_server_is_looked_at_rarely(
    world: World,
) -> None:
    writer = world.file.open_for_server()
    os.write(writer, b"one\n")
    world.clock.advance(SOONEST)
    assert world.read == b"one\n"
    for _ in range(10):
        world.clock.advance(LATEST)
    (call,) = world.clock.getDelayedCalls()
    assert call.getTime() - world.clock.seconds() == pytest.approx(LATEST)
    os.write(writer, b"two\n")
    world.clock.advance(LATEST)
    assert world.read == b"one\ntwo\n"
    (call,) = world.clock.getDelayedCalls()
    assert call.getTime() - world.clock.seconds() == pytest.approx(SOONEST)
    os.close(writer)


def test_a_file_of_which_a_mebibyte_was_read_begins_anew(world: World) -> None:
    writer = world.file.open_for_server()
    piece = b"x" * 99 + b"\n"
    written = b""
    for _ in range(30):
        part = piece * 1000
        os.write(writer, part)
        written += part
        world.clock.advance(SOONEST)
        assert world.path.stat().st_size <= TRUNCATED_AT + len(part)
    assert world.read == written and world.left_out == 0
    assert world.path.stat().st_size < TRUNCATED_AT
    os.close(writer)


def test_what_comes_faster_than_it_can_be_read_is_left_out_and_counted(world: World) -> None:
    writer = world.file.open_for_server()
    os.truncate(world.path, 50 * TRUNCATED_AT)
    os.write(writer, b"the end\n")
    world.clock.advance(SOONEST)
    assert world.read.endswith(b"the end\n")
    assert len(world.read) == MOST_READ
    assert world.left_out + len(world.read) == 50 * TRUNCATED_AT + len(b"the end\n")
    assert world.path.stat().st_size == 0
    os.write(writer, b"more\n")
    world.clock.advance(SOONEST)
    assert world.read.endswith(b"the end\nmore\n")
    os.close(writer)


def test_the_past_of_a_server_that_is_found_running_is_not_told_again(world: World) -> None:
    world.path.write_bytes(b"old\n")
    world.file.follow_from_here()
    with world.path.open("ab") as file:
        file.write(b"new\n")
    world.clock.advance(SOONEST)
    assert world.read == b"new\n"


def test_a_new_server_begins_a_new_file(world: World) -> None:
    world.path.write_bytes(b"old\n")
    os.close(world.file.open_for_server())
    assert world.path.read_bytes() == b""
    world.path.unlink()
    os.close(world.file.open_for_server())
    assert world.path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_somebody_else_truncates_is_read_from_its_begin(world: World) -> None:
    writer = world.file.open_for_server()
    os.write(writer, b"one\n")
    world.clock.advance(SOONEST)
    os.truncate(world.path, 0)
    os.write(writer, b"2\n")
    world.clock.advance(SOONEST)
    assert world.read == b"one\n2\n"
    os.close(writer)


def test_what_was_written_before_the_end_is_read(world: World) -> None:
    writer = world.file.open_for_server()
    os.write(writer, b"last")
    os.close(writer)
    world.file.close()
    assert world.read == b"last"


def test_the_last_line_is_the_last_that_is_not_blank(world: World, tmp_path: Path) -> None:
    assert world.file.last_line() == ""
    for content, last in (
        (b"", ""),
        (b"\n\n", ""),
        (b"a\nb \n\n", "b"),
        (b"a\r50%\r100%", "100%"),
        (b"x" * 9000 + b"\nend", "end"),
        (b"\xff\n", "\ufffd"),
    ):
        world.path.write_bytes(content)
        assert world.file.last_line() == last


def test_a_link_is_not_written_to(world: World, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    world.path.symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match=r"server\.log"):
        world.file.open_for_server()
    assert (tmp_path / "theirs").read_text() == "theirs"
