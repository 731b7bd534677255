"""
The text of a configuration file, YAML or JSON, as plain values.

Stricter than the parsers underneath, which keep the last of two equal keys in
silence and take C{on:} for a boolean.  Whatever is wrong is one
L{ConfigError}, of one line.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

__all__ = ["ConfigError", "Path", "key_path", "printable", "read_document", "shown"]

Path = tuple[str | int, ...]

MAX_DEPTH = 32
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


class ConfigError(Exception):
    """
    What is wrong with a configuration, in one line.

    @ivar file: the file as the user named it.
    @ivar path: the key, as in C{models.llama.port}; empty for the file itself.
    @ivar problem: what is wrong.
    @ivar remedy: what to do about it.
    """

    def __init__(self, file: str, path: str, problem: str, remedy: str) -> None:
        super().__init__(file, path, problem, remedy)
        self.file = file
        self.path = path
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        start = f"{printable(self.file)}: "
        if self.path:
            start += f"{self.path}: "
        return f"{start}{self.problem}; {self.remedy}"


def printable(text: str) -> str:
    """The text in one line: what a terminal would act upon is escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def key_path(path: Path) -> str:
    """C{models."qwen2.5".port}: keys joined by dots, quoted where that would mislead."""
    parts = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
            continue
        word = part if _PLAIN_KEY.match(part) else shown(part)
        parts.append(f".{word}" if parts else word)
    return "".join(parts)


def shown(value: object) -> str:
    """A value as a message shows it: as in the file, short, in one line."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "..."
        return f'"{printable(text)}"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    return str(value)


def read_document(data: bytes, file: str) -> object:
    """
    The values in a file: dicts with string keys, lists, strings, finite
    numbers, booleans and None.

    @param file: its name; what ends in C{.json} is JSON, all else is YAML.
    @raise ConfigError: it is not that.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ConfigError(
            file, "", f"line {line} is not UTF-8", "save the file in the UTF-8 encoding"
        ) from None
    if not text.strip():
        raise ConfigError(file, "", "the file is empty", 'it needs at least "models:"')
    if file.lower().endswith(".json"):
        return _read_json(text, file)
    from llmux.yaml_reader import YAMLReader

    return YAMLReader(file).read(text)


# ---------------------------------------------------------------------- JSON


class _Pairs(list[tuple[str, Any]]):
    """A JSON object before its keys have been compared."""


def _read_json(text: str, file: str) -> object:
    try:
        document = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as e:
        raise ConfigError(
            file,
            "",
            f"line {e.lineno}, column {e.colno} is not JSON: {e.msg}",
            "correct it there, or name the file .yaml if it is YAML",
        ) from None
    except RecursionError:
        raise too_deep(file) from None
    except ValueError:
        raise ConfigError(
            file, "", "it holds a number of thousands of digits", "give a shorter one"
        ) from None
    return _plain(document, file, ())


def _plain(value: object, file: str, path: Path) -> object:
    if len(path) > MAX_DEPTH:
        raise too_deep(file)
    if isinstance(value, _Pairs):
        mapping: dict[str, object] = {}
        for key, item in value:
            if key in mapping:
                raise duplicate(file, (*path, key), "")
            mapping[key] = _plain(item, file, (*path, key))
        return mapping
    if isinstance(value, list):
        return [_plain(item, file, (*path, i)) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise not_finite(file, path)
    return value


def too_deep(file: str) -> ConfigError:
    return ConfigError(
        file,
        "",
        f"values lie more than {MAX_DEPTH} levels deep",
        "a configuration needs three; look for brackets or indentation gone wrong",
    )


def duplicate(file: str, path: Path, where: str) -> ConfigError:
    return ConfigError(file, key_path(path), f"given twice{where}", "remove one of the two")


def not_finite(file: str, path: Path) -> ConfigError:
    return ConfigError(
        file, key_path(path), "not a finite number", "give a number, or leave the key out"
    )
