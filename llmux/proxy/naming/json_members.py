"""
This module finds members at the top of a JSON object, without making Python objects of the
rest.

The object may be large.  It is read in pieces, and nested values are skipped by calls into C,
as in L{llmux.proxy.model_name.json_scan}, whose method this module uses: with escapes made
plain, each quote that is left begins or ends a string.

The search is for documents in which a model's name has been found.  It finds places in JSON; it
does not check whether a document is JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Generator
from typing import NamedTuple

from llmux.proxy.model_name.json_scan import NO_BRACKETS
from llmux.proxy.model_name.lenient import BLANKS, without_mark
from llmux.web.body import RequestBody

__all__ = ["Member", "NoObject", "TooManyMembers", "find_members"]

_MEMBERS_STEP = 8 * 1024
"""This many bytes of an object are searched before others may have a turn."""

_MOST_MEMBERS = 100_000
"""The top of an object may have this many members; they take up to 0.5 s, in several turns."""
_MOST_FOUND = 1000
"""This many members of an object may have one of the keys, repetitions of one key included."""
_ESCAPED = 6
"""One byte of UTF-8 takes at most this many bytes in a JSON string."""
_COLLAPSES = 64
_TOKEN = re.compile(rb"[][{},:]")
_BRACKET = re.compile(rb"[][{}]")


class NoObject(Exception):
    """The document is no JSON object, as far as it was read."""


class TooManyMembers(Exception):
    """The object has more members than are allowed."""


class Member(NamedTuple):
    """
    A L{Member} is at the top of a JSON object.

    @ivar key: the text of the key, in UTF-8.
    @ivar ordinal: the number of members before this one.
    @ivar comma: the position of the comma before the member; without meaning for the first
        member.
    @ivar start: the position of the quote that begins the key.
    @ivar value: the position after the colon.
    @ivar end: the position of the comma or the brace after the member.
    """

    key: bytes
    ordinal: int
    comma: int
    start: int
    value: int
    end: int


class _FoundMembers(NamedTuple):
    """
    A L{_FoundMembers} is the result of the search.

    @ivar members: the members whose keys were looked for, as they come.
    @ivar total: the number of all members.
    @ivar close: the position of the object's closing brace.
    """

    members: list[Member]
    total: int
    close: int


def find_members(
    body: RequestBody, keys: Collection[bytes]
) -> Generator[None, None, _FoundMembers]:
    """
    Find the members that have one of these keys.  The generator yields wherever others may have
    a turn, and returns a L{_FoundMembers}.

    @raise NoObject: the document is no JSON object.
    @raise TooManyMembers: the object has too many members.
    @raise OSError: the body cannot be read.
    """
    search = _MemberSearch(keys)
    at = 0
    while not search.is_over:
        piece = body.piece(at, _MEMBERS_STEP)
        taken = search.feed(at, piece) if piece else 0
        if not taken:
            raise NoObject
        at += taken
        yield
    return _FoundMembers(search.members, search.ordinal, search.close)


class _MemberSearch:
    """
    A search takes an object piece by piece.

    @ivar members: the members that have been found.
    @ivar ordinal: the number of members that have ended.
    @ivar close: the position of the object's closing brace, when C{is_over}.
    """

    def __init__(self, keys: Collection[bytes]) -> None:
        self.members: list[Member] = []
        self.ordinal = 0
        self.close = -1
        self.is_over = False
        self._keys = keys
        self._longest = _ESCAPED * max(map(len, keys))
        self._depth = 0
        self._in_string = False
        # Positions in the present member; -1 for those that have not come.
        self._start = self._colon = self._comma = -1
        self._key: bytes | None = None

    def feed(self, at: int, piece: bytes) -> int:
        """
        Take the next piece, which begins at C{at}.

        @return: how many bytes of the piece have been taken; the next piece begins after them.
            0 if the piece cannot be read.
        """
        if not self._depth:
            return self._begin(at, piece)
        plain = piece
        if b"\\" in piece:
            plain = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
            if plain.endswith(b"\\"):
                # The escaped character comes with the next piece.
                plain = plain[:-1]
        parts = plain.split(b'"')
        if self._depth > 1 and self._skip(parts):
            self._in_string ^= len(parts) % 2 == 0
            return len(plain)
        in_string = self._in_string
        place = 0
        last = len(parts) - 1
        for number, part in enumerate(parts):
            end = place + len(part)
            if not in_string:
                self._outside(part, at + place)
                if self.is_over:
                    return len(plain)
            elif self._depth == 1 and self._start < 0:
                if number == last and len(part) <= self._longest:
                    # The key is cut at the end of the piece; the next piece begins with the
                    # key.
                    self._in_string = False
                    return place - 1
                self._start = at + place - 1
                self._key = self._looked_for(piece[place:end])
            if number < last:
                in_string = not in_string
            place = end + 1
        self._in_string = in_string
        return len(plain)

    def _begin(self, at: int, piece: bytes) -> int:
        """Skip a byte order mark, blanks and the first brace."""
        text = (without_mark(piece) if at == 0 else piece).lstrip(BLANKS)
        if not text:
            return len(piece)
        if not text.startswith(b"{"):
            raise NoObject
        self._depth = 1
        return len(piece) - len(text) + 1

    def _skip(self, parts: list[bytes]) -> bool:
        """
        Skip a piece in which the depth stays above that of the top; return False if this is no
        such piece.
        """
        outside = b"".join(parts[1 if self._in_string else 0 :: 2])
        brackets = outside.translate(None, NO_BRACKETS)
        for _ in range(_COLLAPSES):
            size = len(brackets)
            brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if len(brackets) == size:
                break
        opening = brackets.lstrip(b"]}")
        closing = len(brackets) - len(opening)
        if self._depth - closing < 2 or b"]" in opening or b"}" in opening:
            return False
        self._depth += len(opening) - closing
        return True

    def _outside(self, text: bytes, place: int) -> None:
        """Take a part that is outside strings."""
        at = 0
        while not self.is_over:
            if self._depth > 1:
                at = self._past_nested(text, at)
            token = _TOKEN.search(text, at)
            if token is None:
                return
            at = token.end()
            match token[0]:
                case b"[" | b"{":
                    self._depth = 2
                case b":":
                    if self._colon < 0:
                        self._colon = place + at - 1
                case b",":
                    self._member_ended(place + at - 1)
                    self._comma = place + at - 1
                case _:
                    self._member_ended(place + at - 1)
                    self.close = place + at - 1
                    self.is_over = True

    def _past_nested(self, text: bytes, at: int) -> int:
        """Return the position where the depth is that of the top again, or the end."""
        depth = self._depth
        for bracket in _BRACKET.finditer(text, at):
            if bracket[0] in b"[{":
                depth += 1
            else:
                depth -= 1
                if depth == 1:
                    self._depth = 1
                    return bracket.end()
        self._depth = depth
        return len(text)

    def _looked_for(self, literal: bytes) -> bytes | None:
        """Return the key that a string stands for, if it is looked for; else None."""
        key = literal
        if len(literal) <= self._longest and b"\\" in literal:
            try:
                key = json.loads(b'"%b"' % literal).encode()
            except ValueError:
                return None
        return key if key in self._keys else None

    def _member_ended(self, end: int) -> None:
        start, colon = self._start, self._colon
        if start < 0:
            if self.ordinal or colon >= 0:
                raise NoObject
            return
        if colon < 0:
            raise NoObject
        if self._key is not None:
            if len(self.members) == _MOST_FOUND:
                raise TooManyMembers
            self.members.append(
                Member(self._key, self.ordinal, self._comma, start, colon + 1, end)
            )
            self._key = None
        self.ordinal += 1
        if self.ordinal > _MOST_MEMBERS:
            raise TooManyMembers
        self._start = self._colon = -1
