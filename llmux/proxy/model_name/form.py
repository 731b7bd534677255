"""
This module finds the model that a body names while the body comes in pieces: the C{model} of a
JSON document, or the field C{model} of a form.
"""

from __future__ import annotations

from multipart import (  # type: ignore[import-untyped] # it has types, but no py.typed
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from llmux.proxy.model_name.json_scan import LONGEST_NAME, ModelScan

__all__ = ["CHARSETS", "FORM_TYPE", "LONGEST_HEADER", "MOST_HEADERS", "MOST_PARTS", "BodyScan"]

FORM_TYPE = b"multipart/form-data"
"""The content type of a form with files begins with these bytes, in any case."""

_MOST_CANDIDATES = 256
"""
One piece may have this many strings that may be the key C{model}, at any depth.  An ordinary
document has at most one for each of its objects; each costs 2.5 microseconds.
"""

MOST_PARTS = 1000
MOST_HEADERS = 32
LONGEST_HEADER = 16 * 1024
CHARSETS = {
    "iso-8859-1": "latin-1",
    "latin-1": "latin-1",
    "latin1": "latin-1",
    "windows-1252": "cp1252",
    "cp1252": "cp1252",
}
"""
These charsets of a field are known, in addition to UTF-8.  Python has a hundred, and some take
half a second for 64 KiB.
"""


class BodyScan:
    """
    A L{BodyScan} takes a body piece by piece.  The body is read as JSON if it begins like a
    JSON object, whatever its Content-Type says, because that is often wrong; otherwise as a
    form, if its Content-Type says so.

    @ivar given_up: whether it would take too long to scan the body while it comes; then the
        whole body must be given to a new scan, in several turns of the reactor.
    """

    __slots__ = ("_content_type", "_gives_up", "_scan", "given_up")

    def __init__(self, content_type: bytes | None, *, gives_up: bool = False) -> None:
        """@param gives_up: whether to give up a body that would take too long."""
        self.given_up = False
        self._gives_up = gives_up
        self._content_type = content_type or b""
        self._scan: ModelScan | _FormScan | None = None

    def feed(self, piece: bytes) -> None:
        """Take the next piece, of any length."""
        scan = self._scan
        if scan is None:
            is_form = self._content_type[: len(FORM_TYPE)].lower() == FORM_TYPE
            if is_form and not piece.lstrip().startswith(b"{"):
                scan = self._scan = _FormScan(self._content_type)
            else:
                scan = self._scan = ModelScan(_MOST_CANDIDATES if self._gives_up else None)
        scan.feed(piece)
        if isinstance(scan, ModelScan) and scan.given_up:
            self.given_up = True

    def finish(self) -> str | None:
        """Return the model that the body names, which is complete; None if there is none."""
        return None if self._scan is None else self._scan.finish()


class _FormScan:
    """
    A L{_FormScan} takes a C{multipart/form-data} body piece by piece.  Files in it are ignored,
    whatever their names; of several fields the last one counts.
    """

    __slots__ = ("_charset", "_in_model", "_model", "_parser", "_value")

    def __init__(self, content_type: bytes) -> None:
        self._model: str | None = None
        self._value = b""
        self._in_model = False
        self._charset = "utf-8"
        self._parser: PushMultipartParser | None = None
        _, options = parse_options_header(content_type.decode("latin-1"))
        try:
            self._parser = PushMultipartParser(
                options.get("boundary", ""),
                max_header_size=LONGEST_HEADER,
                max_header_count=MOST_HEADERS,
                max_segment_count=MOST_PARTS,
            )
        except (MultipartError, ValueError):
            pass

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        parser = self._parser
        if parser is None or not piece:
            return
        try:
            for event in parser.parse(piece):
                if isinstance(event, MultipartSegment):
                    self._in_model = event.name == "model" and event.filename is None
                    self._value = b""
                    self._charset = CHARSETS.get((event.charset or "").lower(), "utf-8")
                elif not self._in_model:
                    continue
                elif event is None:
                    self._in_model = False
                    self._model = self._decoded()
                elif len(self._value) <= LONGEST_NAME:
                    self._value += event
        except (MultipartError, UnicodeError):
            # No parser would find more than what was found so far.
            self._parser = None

    def _decoded(self) -> str | None:
        if len(self._value) > LONGEST_NAME:
            return None
        return self._value.decode(self._charset, "replace")

    def finish(self) -> str | None:
        """Return the model that the form names, which is complete; None if there is none."""
        return self._model
