"""
This module has the error that says what is wrong with a configuration, and writes keys and
values as the error's message shows them.
"""

from __future__ import annotations

import re

__all__ = [
    "MAX_DEPTH",
    "ConfigError",
    "Path",
    "duplicate",
    "key_path",
    "not_finite",
    "printable",
    "shown",
    "too_deep",
]

Path = tuple[str | int, ...]

MAX_DEPTH = 32
LONGEST_SHOWN = 60
"""A message shows at most this many characters of a key or a value."""
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


class ConfigError(Exception):
    """
    A L{ConfigError} says in one line what is wrong with a configuration, and what to do about
    it.

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
    """Return the text in one line: characters that a terminal would act upon are escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def key_path(path: Path) -> str:
    """
    Join keys by dots, as in C{models."qwen2.5".port}; a key that holds a dot or a blank is
    quoted.
    """
    parts = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
            continue
        word = part if len(part) <= LONGEST_SHOWN and _PLAIN_KEY.match(part) else shown(part)
        parts.append(f".{word}" if parts else word)
    return "".join(parts)


def shown(value: object) -> str:
    """Return a value as a message shows it: as the file writes it, shortened, in one line."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        text = value if len(value) <= LONGEST_SHOWN else value[: LONGEST_SHOWN - 3] + "..."
        return f'"{printable(text)}"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    return str(value)


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
