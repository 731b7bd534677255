"""
Which model a body names, from its pieces: a JSON document's C{model}, or the
C{model} field of a form.
"""

from __future__ import annotations

from multipart import (  # type: ignore[import-untyped] # it has types, but no py.typed
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from llmux.proxy.model_name.json_scan import ModelScan

__all__ = ["AT_ONCE", "BodyScan"]

AT_ONCE = 256 * 1024
"""Bodies up to this many bytes need no scan: they are looked at in one go."""

_FORM = b"multipart/form-data"
_LONGEST_NAME = 64 * 1024
_MOST_PARTS = 1000
_MOST_HEADERS = 32
_LONGEST_HEADER = 16 * 1024


class BodyScan:
    """
    Takes a body piece by piece.  It is JSON if it begins like a JSON object,
    whatever its Content-Type, which clients often get wrong; else a form, if
    its Content-Type says so.
    """

    __slots__ = ("_content_type", "_scan")

    def __init__(self, content_type: bytes | None) -> None:
        self._content_type = content_type or b""
        self._scan: ModelScan | _FormScan | None = None

    def feed(self, piece: bytes) -> None:
        """Take the next piece, of any length."""
        scan = self._scan
        if scan is None:
            is_form = self._content_type[: len(_FORM)].lower() == _FORM
            if is_form and not piece.lstrip().startswith(b"{"):
                scan = self._scan = _FormScan(self._content_type)
            else:
                scan = self._scan = ModelScan()
        scan.feed(piece)

    def finish(self) -> str | None:
        """The body is complete: which model it names, if any."""
        return None if self._scan is None else self._scan.finish()


class _FormScan:
    """
    Takes a C{multipart/form-data} body piece by piece.  Files in it pass
    unseen, whatever they are called; of several fields the last one counts.
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
                max_header_size=_LONGEST_HEADER,
                max_header_count=_MOST_HEADERS,
                max_segment_count=_MOST_PARTS,
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
                    self._charset = event.charset or "utf-8"
                elif not self._in_model:
                    continue
                elif event is None:
                    self._in_model = False
                    self._model = self._decoded()
                elif len(self._value) <= _LONGEST_NAME:
                    self._value += event
        except (MultipartError, UnicodeError, LookupError):
            # What was found so far is all that anybody will find.
            self._parser = None

    def _decoded(self) -> str | None:
        if len(self._value) > _LONGEST_NAME:
            return None
        try:
            return self._value.decode(self._charset)
        except (UnicodeError, LookupError):
            return self._value.decode("utf-8", "replace")

    def finish(self) -> str | None:
        """The body is complete."""
        return self._model
