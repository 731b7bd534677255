"""
This module reads the text of a configuration file, YAML or JSON, as plain values.

The module is stricter than the parsers that it uses: these keep the last of two equal keys
without a word, and read C{on:} as a boolean.  Whatever is wrong is raised as a L{ConfigError}
with a message of one line.
"""

from __future__ import annotations

import json
import math
from typing import Any

from llmux.config.error import (
    MAX_DEPTH,
    ConfigError,
    Path,
    duplicate,
    not_finite,
    too_deep,
)

__all__ = ["read_document"]


def read_document(data: bytes, file: str) -> object:
    """
    Return the values in a file: dicts with string keys, lists, strings, finite
    numbers, booleans and None.

    @param file: the file's name; a name that ends in C{.json} means JSON, any other means YAML.
    @raise ConfigError: the file holds anything else.
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
    from llmux.config.yaml_reader import read_yaml

    return read_yaml(text, file)


# ---------------------------------------------------------------------- JSON


class _Pairs(list[tuple[str, Any]]):
    """A list of this type is a JSON object whose keys have not been compared yet."""


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
