"""
This module reads the first keys of a GGUF file, which say what the file holds.

The format is that of llama.cpp: a magic number, a version, counts, and then keys with typed
values, little-endian.  The keys that llmux uses come before the vocabulary.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

__all__ = ["NotGguf", "read_header"]

MAX_BYTES = 1 << 16
"""The first bytes of a file are read, this many; keys that begin later are not found."""

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9


class NotGguf(Exception):
    """A file is not a GGUF file.  The error's message says what was found."""


def read_header(path: Path) -> dict[str, Any]:
    """
    Return the scalar values at the beginning of a file, by their keys, as far as
    the first 64 KiB go; arrays are passed over.

    @raise NotGguf: the file does not begin as a GGUF does.
    @raise OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES)
    if not data:
        raise NotGguf("it is empty")
    if data[:4] != b"GGUF":
        raise NotGguf("it does not begin as a GGUF file does")
    found: dict[str, Any] = {}
    reader = _HeaderReader(data)
    try:
        version = reader.scalar("I")
        if not 2 <= version <= 99:
            raise NotGguf(f"it has version {version} of the format")
        reader.scalar("Q")
        for _ in range(reader.scalar("Q")):
            key = reader.text()
            kind = reader.scalar("I")
            value = reader.value(kind)
            if kind != _ARRAY:
                found[key] = value
    except (struct.error, KeyError, UnicodeDecodeError):
        # What was read ends here, or holds a kind of value that is newer than this program.
        pass
    return found


class _HeaderReader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 4

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        length = self.scalar("Q")
        end = self._at + length
        if end > len(self._data):
            raise struct.error
        text = self._data[self._at : end].decode()
        self._at = end
        return text

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        inner, count = self.scalar("I"), self.scalar("Q")
        if inner == _STRING:
            for _ in range(count):
                self.text()
        else:
            # An array of arrays ends the reading, as an unknown kind does.
            self._at += count * struct.calcsize(f"<{_SCALARS[inner]}")
            if self._at > len(self._data):
                raise struct.error
        return None
