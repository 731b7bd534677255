"""
YAML as plain values.

Built from the parser's events: PyYAML's own composer recurses in C, and a few
hundred thousand brackets overflow its stack.
"""

from __future__ import annotations

import math
from typing import Any

import yaml

from llmux.config.error import (
    MAX_DEPTH,
    ConfigError,
    Path,
    duplicate,
    key_path,
    not_finite,
    printable,
    shown,
    too_deep,
)

__all__ = ["YAMLReader"]

MAX_MERGED = 100_000
_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + t for t in ("str", "int", "float", "bool", "null", "value", "merge")}
_KINDS = {"int": "number", "float": "number", "bool": "boolean", "null": "null"}


class _Frame:
    """A mapping or sequence that is still open."""

    def __init__(self, path: Path, anchor: str | None, value: dict[str, Any] | list[Any]):
        self.path = path
        self.anchor = anchor
        self.value = value
        self.key: str | None = None
        self.lines: dict[str, int] = {}
        self.merging = False
        self.merged: list[dict[str, Any]] = []

    def next_path(self) -> Path:
        if isinstance(self.value, list):
            return (*self.path, len(self.value))
        return (*self.path, "<<" if self.merging else self.key or "")

    @property
    def wants_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None and not self.merging


class YAMLReader:
    """Makes the values of one file.  To be used once."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.resolver: Any = yaml.resolver.Resolver()
        self.constructor = yaml.constructor.SafeConstructor()
        self.anchors: dict[str, object] = {}
        self.frames: list[_Frame] = []
        self.merged = 0
        self.documents = 0
        self.root: object = None

    def read(self, text: str) -> object:
        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            for event in yaml.parse(text, Loader=loader):
                self._event(event)
        except yaml.MarkedYAMLError as e:
            raise self._syntax_error(e) from None
        except yaml.reader.ReaderError as e:
            line = text.count("\n", 0, e.position) + 1
            raise ConfigError(
                self.file,
                "",
                f"line {line} holds the control character U+{ord(text[e.position]):04X}",
                "remove it",
            ) from None
        return self.root

    def _syntax_error(self, error: yaml.MarkedYAMLError) -> ConfigError:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "it"
        problem = printable(str(error.problem or error.context or error))
        remedy = "correct it there (a colon, a bracket, a quote or the indentation)"
        if "cannot start any token" in problem:
            remedy = (
                "indent with spaces, not tabs; put text that begins with @, ` or % in quotes"
            )
        elif "mapping values are not allowed" in problem:
            remedy = 'put text that holds ": " in quotes, or begin a block with "|"'
        return ConfigError(self.file, "", f"{where} is not YAML: {problem}", remedy)

    def _error(self, path: Path, problem: str, remedy: str) -> ConfigError:
        return ConfigError(self.file, key_path(path), problem, remedy)

    def _event(self, event: object) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._open(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._close()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self._error((), 'a second document begins with "---"', "keep one only")

    def _path(self) -> Path:
        return self.frames[-1].next_path() if self.frames else ()

    def _open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if self.frames and self.frames[-1].wants_key:
            kind = "mapping" if is_mapping else "list"
            raise self._error(
                self.frames[-1].path,
                f"line {_line(event)} has a {kind} for a key",
                "a key is text; put it in quotes if it begins with a bracket or brace",
            )
        path = self._path()
        self._check_tag(path, event.tag, {_TAG + "map"} if is_mapping else {_TAG + "seq"})
        if len(self.frames) >= MAX_DEPTH:
            raise too_deep(self.file)
        self.frames.append(_Frame(path, event.anchor, {} if is_mapping else []))

    def _close(self) -> None:
        frame = self.frames.pop()
        if isinstance(frame.value, dict):
            for other in frame.merged:
                self.merged += len(other)
                if self.merged > MAX_MERGED:
                    raise self._error(
                        frame.path, '"<<" merges too many keys', "write the keys out"
                    )
                for key, value in other.items():
                    frame.value.setdefault(key, value)
        if frame.anchor is not None:
            self.anchors[frame.anchor] = frame.value
        self._place(frame.value)

    def _alias(self, event: yaml.AliasEvent) -> None:
        name = event.anchor
        path = self._path()
        if name not in self.anchors:
            if any(frame.anchor == name for frame in self.frames):
                raise self._error(path, f"*{name} refers to itself", "write the value out")
            raise self._error(
                path,
                f"*{printable(str(name))} refers to nothing",
                "put text that begins with * in quotes, or define the anchor before it",
            )
        value = self.anchors[name]
        if self.frames and self.frames[-1].wants_key:
            if not isinstance(value, str):
                raise self._error(
                    path[:-1], f"*{name} is no text for a key", "write the key out"
                )
            self._take_key(value, _line(event))
            return
        self._place(value)

    def _check_tag(self, path: Path, tag: str | None, known: set[str]) -> None:
        if tag is not None and tag != "!" and tag not in known:
            name = "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag
            raise self._error(
                path, f"the tag {printable(str(name))} means nothing here", "remove it"
            )

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        frame = self.frames[-1] if self.frames else None
        wants_key = frame is not None and frame.wants_key
        path = frame.path if frame is not None and wants_key else self._path()
        self._check_tag(path, event.tag, _SCALARS)
        tag = event.tag
        if tag is None or tag == "!":
            tag = self.resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        kind = tag.removeprefix(_TAG)
        if frame is not None and wants_key:
            if kind == "merge":
                frame.merging = True
            elif kind in ("str", "value"):
                if event.anchor is not None:
                    self.anchors[event.anchor] = event.value
                self._take_key(event.value, _line(event))
            else:
                raise self._odd_key(frame.path, event, kind)
            return
        value = self._value(event.value, tag, kind, path)
        if event.anchor is not None:
            self.anchors[event.anchor] = value
        self._place(value)

    def _odd_key(self, path: Path, event: yaml.ScalarEvent, kind: str) -> ConfigError:
        line = _line(event)
        if not event.value:
            return self._error(path, f"the key in line {line} is empty", "give it a name")
        text = printable(event.value)
        what = {"null": "null", "timestamp": "a date"}.get(kind, f"a {_KINDS.get(kind, kind)}")
        return self._error(
            path,
            f"the key {text} in line {line} is {what} in YAML",
            f'write it in quotes: "{text}"',
        )

    def _value(self, text: str, tag: str, kind: str, path: Path) -> object:
        if kind in ("str", "value", "merge"):
            return text
        if kind not in _KINDS:
            raise self._error(
                path,
                f"{printable(text)} is a {'date' if kind == 'timestamp' else kind} in YAML",
                "write it in quotes",
            )
        node = yaml.ScalarNode(tag, text)
        try:
            value: object = getattr(self.constructor, f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError, OverflowError):
            raise self._error(
                path, f"{shown(text)} cannot be read as a {_KINDS[kind]}", "correct it"
            ) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise not_finite(self.file, path)
        return value

    def _take_key(self, key: str, line: int) -> None:
        frame = self.frames[-1]
        if key in frame.lines:
            where = f" (lines {frame.lines[key]} and {line})"
            raise duplicate(self.file, (*frame.path, key), where)
        frame.lines[key] = line
        frame.key = key

    def _place(self, value: object) -> None:
        if not self.frames:
            self.root = value
            return
        frame = self.frames[-1]
        if isinstance(frame.value, list):
            frame.value.append(value)
        elif frame.merging:
            others = value if isinstance(value, list) else [value]
            for other in others:
                if not isinstance(other, dict):
                    raise self._error(
                        frame.next_path(), f"{shown(other)} cannot be merged", "merge a mapping"
                    )
                frame.merged.append(other)
            frame.merging = False
        else:
            assert frame.key is not None
            frame.value[frame.key] = value
            frame.key = None


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return mark.line + 1 if mark is not None else 0
