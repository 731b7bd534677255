"""
This module reads YAML as plain values.

PyYAML composes nodes, and L{read_yaml} makes values of them.  The composer is PyYAML's Python
code, even where the parser is the one in C: the composer in C recurses, so that a few hundred
thousand brackets overflow its stack.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import yaml
from yaml.composer import Composer, ComposerError
from yaml.reader import ReaderError

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

__all__ = ["read_yaml"]

LONGEST_NUMBER = 1000
"""
A number may have this many characters: PyYAML takes quadratic time over C{1:1:1:...}, a number
to base 60.
"""

_TAG = "tag:yaml.org,2002:"
_TEXTS = ("str", "value", "merge")
_KINDS = {"int": "a number", "float": "a number", "bool": "a boolean", "null": "null"}


def read_yaml(text: str, file: str) -> object:
    """
    Return the values in a YAML document.

    @param file: the file's name, for errors.
    @raise ConfigError: the text is not YAML, or uses a part of YAML that a configuration may
        not use.
    """
    try:
        root = _Loader(text, file).get_single_node()
        return None if root is None else _Values(file).value(root, ())
    except ComposerError:
        # ComposerError means a second document here: wrong aliases have been found before.
        raise ConfigError(
            file, "", 'a second document begins with "---"', "keep one only"
        ) from None
    except yaml.MarkedYAMLError as e:
        raise _syntax_error(file, e) from None
    except ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        character = f"U+{ord(text[e.position]):04X}"
        raise ConfigError(
            file, "", f"line {line} holds the control character {character}", "remove it"
        ) from None


def _syntax_error(file: str, error: yaml.MarkedYAMLError) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "it"
    problem = printable(str(error.problem or error.context or error))
    if "nesting depth" in problem:
        # PyYAML has a limit of its own since 6.0.4.
        return too_deep(file)
    remedy = "correct it there (a colon, a bracket, a quote or the indentation)"
    if "cannot start any token" in problem:
        remedy = "indent with spaces, not tabs; put text that begins with @, ` or % in quotes"
    elif "mapping values are not allowed" in problem:
        remedy = 'put text that holds ": " in quotes, or begin a block with "|"'
    return ConfigError(file, "", f"{where} is not YAML: {problem}", remedy)


class _PlacedComposer(Composer):
    """
    This composer knows where in the document each node stands.

    The composer refuses values that lie too deep, a key that is no text, and an alias of a node
    that is not complete, so that the nodes can be walked by recursion.

    C{yaml.compose} would need no subclass, but it recurses as deep as the brackets go, refuses
    an anchor that is given anew, which YAML allows, and tells the line of a wrong alias but not
    its key.  With C{yaml.parse}, which gives events, the composer would have to be written
    again, with the choice of tags.
    """

    file: str
    path: Path = ()
    peek_event: Any

    def fail(self, path: Path, problem: str, remedy: str) -> NoReturn:
        raise ConfigError(self.file, key_path(path), problem, remedy)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """
        Compose the node that is next.

        @param index: the number of an item of a sequence, or the key of a value of a mapping;
            None for a key and for the root.
        """
        path = self.path
        event = self.peek_event()
        if index is not None:
            self.path = (*path, index.value if isinstance(index, yaml.Node) else index)
        if isinstance(event, yaml.AliasEvent):
            self._check_alias(event.anchor)
        elif event.anchor is not None:
            # YAML lets an anchor be given anew, which PyYAML takes for an error.
            self.anchors.pop(event.anchor, None)
        if isinstance(event, yaml.CollectionStartEvent):
            if len(self.path) >= MAX_DEPTH:
                raise too_deep(self.file)
            if parent is not None and index is None:
                kind = "mapping" if isinstance(event, yaml.MappingStartEvent) else "list"
                self.fail(
                    path,
                    f"line {_line(event)} has a {kind} for a key",
                    "a key is text; put it in quotes if it begins with a bracket or brace",
                )
        node: yaml.Node | None = super().compose_node(parent, index)
        if parent is not None and index is None and not isinstance(node, yaml.ScalarNode):
            self.fail(path, f"*{event.anchor} is no text for a key", "write the key out")
        self.path = path
        return node

    def _check_alias(self, name: str | None) -> None:
        node = self.anchors.get(name)
        if node is None:
            self.fail(
                self.path,
                f"*{printable(str(name))} refers to nothing",
                "put text that begins with * in quotes, or define the anchor before it",
            )
        if node.end_mark is None:
            self.fail(
                self.path, f"*{printable(str(name))} refers to itself", "write the value out"
            )


_PyYAMLLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_PlacedComposer, _PyYAMLLoader):  # type: ignore[misc]  # one of two
    """This loader is PyYAML's, the one in C where there is one, with the composer above."""

    def __init__(self, text: str, file: str) -> None:
        _PyYAMLLoader.__init__(self, text)
        self.anchors = {}
        self.file = file


class _Values:
    """This class converts a document's nodes to values."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._constructor = yaml.constructor.SafeConstructor()
        # A node that aliases repeat is converted once; else a few lines could stand for
        # millions of values.
        self._made: dict[yaml.Node, object] = {}

    def value(self, node: yaml.Node, path: Path) -> object:
        """
        Return the value of a node.

        @param path: where the node stands.
        """
        if node in self._made:
            return self._made[node]
        value: object
        if isinstance(node, yaml.ScalarNode):
            value = self._scalar(node, path)
        elif node.tag not in (_TAG + "seq", _TAG + "map"):
            self._unknown_tag(node, path)
        elif isinstance(node, yaml.MappingNode):
            value = self._mapping(node, path)
        else:
            value = [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        self._made[node] = value
        return value

    def _fail(self, path: Path, problem: str, remedy: str) -> NoReturn:
        raise ConfigError(self._file, key_path(path), problem, remedy)

    def _unknown_tag(self, node: yaml.Node, path: Path) -> NoReturn:
        name = "!!" + node.tag.removeprefix(_TAG) if node.tag.startswith(_TAG) else node.tag
        self._fail(path, f"the tag {printable(name)} means nothing here", "remove it")

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        mapping: dict[str, object] = {}
        lines: dict[str, int] = {}
        merged: list[object] = []
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key_node.tag == _TAG + "merge":
                value = self.value(value_node, (*path, key))
                merged += value if isinstance(value, list) else [value]
                continue
            line = _line(key_node)
            if key in lines:
                raise duplicate(self._file, (*path, key), f" (lines {lines[key]} and {line})")
            lines[key] = line
            mapping[key] = self.value(value_node, (*path, key))
        for other in merged:
            if not isinstance(other, dict):
                self._fail((*path, "<<"), f"{shown(other)} cannot be merged", "merge a mapping")
            mapping |= {key: other[key] for key in other if key not in mapping}
        return mapping

    def _key(self, node: yaml.ScalarNode, path: Path) -> str:
        kind = node.tag.removeprefix(_TAG)
        text: str = node.value
        if kind in _TEXTS:
            return text
        if not text:
            self._fail(path, f"the key in line {_line(node)} is empty", "give it a name")
        if kind == "int" and text.isdecimal() and _names_resources(path):
            return text
        if kind not in _KINDS and kind != "timestamp":
            self._unknown_tag(node, path)
        self._fail(
            path,
            f"the key {printable(text)} in line {_line(node)} is {_KINDS.get(kind, 'a date')}"
            " in YAML",
            f'write it in quotes: "{printable(text)}"',
        )

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> object:
        kind = node.tag.removeprefix(_TAG)
        text: str = node.value
        if kind in _TEXTS:
            return text
        if kind == "timestamp":
            self._fail(path, f"{printable(text)} is a date in YAML", "write it in quotes")
        if kind not in _KINDS:
            self._unknown_tag(node, path)
        try:
            if len(text) > LONGEST_NUMBER:
                raise ValueError
            value: object = getattr(self._constructor, f"construct_yaml_{kind}")(node)
        except (ValueError, LookupError, OverflowError):
            self._fail(path, f"{shown(text)} cannot be read as {_KINDS[kind]}", "correct it")
        if isinstance(value, float) and not math.isfinite(value):
            raise not_finite(self._file, path)
        return value


def _names_resources(path: Path) -> bool:
    """Tell whether the keys here are names of resources, which may be whole numbers."""
    return path == ("resources",) or (path[:1] == ("models",) and path[2:3] == ("needs",))


def _line(at: yaml.Event | yaml.Node) -> int:
    mark = at.start_mark
    return mark.line + 1 if mark is not None else 0
