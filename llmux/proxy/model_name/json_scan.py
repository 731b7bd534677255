"""
This module finds the value of C{model} at the top of a JSON document while the document comes
in pieces, without making Python objects of the rest.

The scan is meant for large documents: every pass over the bytes is one call into C. If a JSON
parser accepts a document, the scan finds the same model.  Most documents that no parser accepts
are refused (brackets that do not match, an end that is missing or followed by more, letters
where none are allowed) but not all: commas, the spelling of numbers and the contents of strings
are not checked.

Here is an example.  The piece::

    {"a": {"model": "x"}, "model": "b\\"c", "n": [1]}

is made plain first, so that each quote that is left begins or ends a string
(C{\\"} becomes C{__}, which is as long), and then cut at its quotes::

    outside    {  |: {   |: |}, |:    |, |: [1]}
    strings     a  model  x  model b__c n

Each string C{model} that a colon follows may be the key; these are the candidates,
here strings 1 and 3.  For each the brackets outside the strings before it tell
its depth: before string 1 stands C{{{} (depth 2: not at the top), before string 3
C{{{}}} (depth 1).  The last candidate at depth 1 counts: its value is string 4, and
that is decoded from the same place of the piece as it came: C{b"c}.  A piece may
end anywhere: what cannot be understood without the next piece is kept in
C{_left}, and a string that only has to be skipped is remembered by C{_in_string}.
"""

from __future__ import annotations

import json
import re

from llmux.proxy.model_name.lenient import BLANKS, MARK, sound_text, without_mark

__all__ = ["LONGEST_NAME", "NO_BRACKETS", "ModelScan"]

_SCAN_STEP = 64 * 1024
"""This many bytes of a document are split into strings at a time."""

_MAX_DEPTH = 1_000_000
LONGEST_NAME = 64 * 1024
"""A longer name of a model is not looked for, in JSON and in forms."""

_KEY = b"model"
_ESCAPED_KEY = re.compile(
    rb"(?:m|\\u006[dD])(?:o|\\u006[fF])(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006[cC])"
)
_QUOTED_KEY = re.compile(b'"' + _ESCAPED_KEY.pattern + b'"')
_LONGEST_KEY = len(r"\u006d\u006f\u0064\u0065\u006c")
_BRACKETS = b"[]{}"
# Outside strings: brackets, commas, colons, numbers, and the letters of true, false, null,
# NaN and Infinity.
_PUNCTUATION = b"[]{},: \t\n\r+-.0123456789eEtrufalsnNIity"
NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
"""Without these bytes, only the brackets and braces are left of a text."""

_MIRRORED = bytes.maketrans(b"]}", b"[{")
_COLLAPSES = 8


class ModelScan:
    """
    A L{ModelScan} takes a document piece by piece, and knows the document's C{model} at the
    end.

    @ivar failed: whether the document is no JSON object, so that the rest need not be fed.
    @ivar given_up: whether a piece had more candidates than are allowed, so that this scan
        finds nothing.
    """

    __slots__ = (
        "_begun",
        "_escaped",
        "_in_string",
        "_left",
        "_model",
        "_most_candidates",
        "_open",
        "failed",
        "given_up",
    )

    def __init__(self, most_candidates: int | None = None) -> None:
        """
        @param most_candidates: the largest number of strings in one piece that may be the key,
            above which the scan gives up; None for no limit.
        """
        self.failed = False
        self.given_up = False
        self._most_candidates = most_candidates
        self._model: str | None = None
        self._begun = False
        # The brackets that are open.
        self._open = bytearray()
        # Whether a string is being skipped, and whether its next byte comes after a backslash.
        self._in_string = False
        self._escaped = False
        # Bytes that cannot be understood without those that come after them.
        self._left = b""

    def feed(self, piece: bytes) -> None:
        """Take the next piece, of any length."""
        if len(piece) <= _SCAN_STEP:
            self._feed(piece)
            return
        for at in range(0, len(piece), _SCAN_STEP):
            self._feed(piece[at : at + _SCAN_STEP])

    def finish(self) -> str | None:
        """
        Return the model that the document names, which is complete.

        @return: the value of C{model}; None if there is none, if it is no string, or if the
            document is no JSON object.
        """
        whole = self._begun and not (self._open or self._left or self._in_string)
        return self._model if whole and not self.failed else None

    def _feed(self, piece: bytes) -> None:
        if self._left:
            piece, self._left = self._left + piece, b""
        if not self._begun:
            piece = self._begin(piece)
        if self._in_string:
            piece = self._rest_after_string(piece)
        if piece and not self.failed:
            self._scan(piece)

    def _begin(self, piece: bytes) -> bytes:
        """Skip a byte order mark, blanks and the first brace."""
        if len(piece) < len(MARK) and MARK.startswith(piece):
            self._left = piece
            return b""
        text = without_mark(piece).lstrip(BLANKS)
        if not text:
            # Blanks are forgotten, but that there was a mark is not, because only one is
            # allowed.
            self._left = MARK + b" " if piece.startswith(MARK) else b" " * 4
            return b""
        if not text.startswith(b"{"):
            self.failed = True
            return b""
        self._begun = True
        self._open += b"{"
        return text[1:]

    def _rest_after_string(self, piece: bytes) -> bytes:
        """Return the part of the piece after the end of the string that is being skipped."""
        if self._escaped and piece:
            piece = piece[1:]
            self._escaped = False
        end = piece.find(b'"')
        if piece.find(b"\\", 0, None if end < 0 else end) >= 0:
            plain = _plain(piece)
            end = plain.find(b'"')
            self._escaped = end < 0 and plain.endswith(b"\\")
        if end < 0:
            return b""
        self._in_string = False
        return piece[end + 1 :]

    def _scan(self, piece: bytes) -> None:
        """Scan a piece that begins outside any string."""
        plain = _plain(piece) if b"\\" in piece else piece
        # The parts are, in turn, outside strings and inside them.
        parts = plain.split(b'"')
        cut = parts.pop() if len(parts) % 2 == 0 else None
        outside, strings = parts[::2], parts[1::2]
        done = seen = 0
        at_top = -1
        candidates = self._candidates(plain, outside, strings)
        if self._most_candidates is not None and len(candidates) > self._most_candidates:
            self.given_up = self.failed = True
            return
        for at in candidates:
            # If there is no bracket between two candidates, they are at the same depth.
            if b"".join(outside[seen : at + 1]).translate(None, NO_BRACKETS):
                self._structure(outside[done : at + 1], more=True)
                done = at + 1
                if self.failed:
                    return
            seen = at + 1
            if len(self._open) == 1:
                # If there are several, the last one counts.
                at_top = at
        if at_top >= 0 and not self._member(piece, outside, strings, at_top):
            # The piece ends too soon.
            self._structure(outside[done : at_top + 1], more=True)
            self._left = piece[_offset(outside, strings, at_top) - 1 :]
            self.failed |= len(self._left) > LONGEST_NAME
            return
        self._structure(outside[done:], more=cut is not None)
        if cut is None or self.failed:
            return
        if len(cut) <= _LONGEST_KEY:
            self._left = piece[len(piece) - len(cut) - 1 :]
        else:
            self._in_string = True
            self._escaped = cut.endswith(b"\\")

    def _candidates(
        self, plain: bytes, outside: list[bytes], strings: list[bytes]
    ) -> list[int]:
        """Return the strings, by number, that may be the key, at any depth."""
        if b"\\u00" in plain and _QUOTED_KEY.search(plain):
            matches = _ESCAPED_KEY.fullmatch
            found = [
                at
                for at, string in enumerate(strings)
                if string == _KEY or (len(string) <= _LONGEST_KEY and matches(string))
            ]
        elif _KEY in strings:
            found = [at for at, string in enumerate(strings) if string == _KEY]
        else:
            return []
        # A key is followed by a colon, which may also come in the next piece.  (A string after
        # a colon is a value, of a model called "model".)
        last = len(strings) - 1
        found = [
            at
            for at in found
            if (after := outside[at + 1])[:1] == b":"
            or (after := after.lstrip(BLANKS))[:1] == b":"
            or (at == last and not after and not outside[at].rstrip(BLANKS).endswith(b":"))
        ]
        if len(found) > 1:
            between = b"".join(outside[found[0] + 1 : found[-1] + 1])
            if not between.translate(None, NO_BRACKETS):
                # All at the same depth, where the last one counts.
                return found[-1:]
        return found

    def _member(
        self, piece: bytes, outside: list[bytes], strings: list[bytes], at: int
    ) -> bool:
        """
        Take the member at the top whose key is C{model}; return False if its value has not come
        completely yet.
        """
        after = outside[at + 1].lstrip(BLANKS)[1:].lstrip(BLANKS)
        if after:
            # The value is no string; it still replaces an earlier one, because the last one
            # counts.
            self._model = None
            return True
        if at + 1 == len(strings):
            return False
        start = _offset(outside, strings, at + 1)
        self._model = _decoded(piece[start - 1 : start + len(strings[at + 1]) + 1])
        self.failed = self._model is None
        return True

    # ----------------------------------------------------------- structure

    def _structure(self, outside: list[bytes], *, more: bool) -> None:
        """
        Take the parts outside of some strings, one after another.

        @param more: whether another string follows.
        """
        text = b"".join(outside)
        if text.translate(None, _PUNCTUATION):
            self.failed = True
            return
        if not self._open:
            self.failed = more or len(outside) > 1 or bool(text.strip(BLANKS))
            return
        brackets = whole = text.translate(None, NO_BRACKETS)
        if not brackets:
            return
        # The innermost pairs of brackets are removed, and then the pairs around them.
        for _ in range(_COLLAPSES):
            size = len(brackets)
            brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if len(brackets) == size:
                break
        opening = brackets.lstrip(b"]}")
        closing = len(brackets) - len(opening)
        if closing >= len(self._open) or b"]" in opening or b"}" in opening:
            self._one_by_one(whole)
            if not self._open:
                last = outside[-1].rstrip(BLANKS)
                self.failed |= more or not last.endswith(b"}")
            return
        if closing:
            if self._open[-closing:] != brackets[:closing].translate(_MIRRORED)[::-1]:
                self.failed = True
                return
            del self._open[-closing:]
        self._open += opening
        self.failed = len(self._open) > _MAX_DEPTH

    def _one_by_one(self, brackets: bytes) -> None:
        """
        Take brackets one by one: those after which the document ends, and those that are nested
        too irregularly.
        """
        stack = self._open
        for bracket in brackets:
            if not stack:
                self.failed = True
                return
            if bracket == 0x5B or bracket == 0x7B:
                stack.append(bracket)
            elif stack.pop() != bracket - 2:
                self.failed = True
                return
        self.failed = len(stack) > _MAX_DEPTH


def _plain(piece: bytes) -> bytes:
    """Return the piece, byte for byte, without escaped quotes and backslashes."""
    return piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def _offset(outside: list[bytes], strings: list[bytes], at: int) -> int:
    """Return where the string with this number begins, after its quote."""
    return sum(map(len, outside[: at + 1])) + sum(map(len, strings[:at])) + 2 * at + 1


def _decoded(literal: bytes) -> str | None:
    """Return the text of a JSON string; None if the string is not valid."""
    try:
        text = json.loads(literal)
    except ValueError:
        return None
    assert isinstance(text, str)
    return sound_text(text)
