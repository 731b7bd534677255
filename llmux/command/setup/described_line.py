"""
This module describes the command line for completion: commands, options, and the values that
may follow each.

The description is made from the parsers themselves, those of Twisted's C{usage} and those of
L{argparse}, so that a new command is completed without further work.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from twisted.python import usage

__all__ = ["DIRECTORY", "FILE", "MODEL", "CommandWords", "OptionWords", "describe_line"]

FILE, DIRECTORY, MODEL = "file", "directory", "model"

Values = str | tuple[str, ...] | None
"""
The values that may follow are a kind (L{FILE}, L{DIRECTORY} or L{MODEL}), a tuple of words, or,
for None, anything.
"""

_KINDS = {
    "FILE": FILE,
    "TRACE.jsonl": FILE,
    "WHERE": FILE,
    "config": FILE,
    "output": FILE,
    "DIR": DIRECTORY,
    "directory": DIRECTORY,
    "MODEL": MODEL,
    "model": MODEL,
}
"""
A value's kind is found by the name that its option has, or that the help gives to its place.
"""


@dataclass(frozen=True)
class OptionWords:
    """
    L{OptionWords} describe one option.

    @ivar names: the option's names, the long one first, with their hyphens.
    @ivar takes_value: whether a value follows.
    @ivar needs_value: whether the value must follow, so that it may be the next word.
    @ivar values: what the value may be.
    """

    names: tuple[str, ...]
    about: str
    takes_value: bool = False
    needs_value: bool = False
    values: Values = None


@dataclass(frozen=True)
class CommandWords:
    """
    L{CommandWords} describe one command; the command line as a whole is a command with an empty
    name.

    @ivar arguments: the values that may stand where no option stands.
    """

    name: str
    about: str
    options: tuple[OptionWords, ...] = ()
    arguments: Values = None
    commands: tuple[CommandWords, ...] = field(default=())


def describe_line(options: Any) -> CommandWords:
    """Describe a command line whose commands are C{options.subCommands}."""
    commands = tuple(
        _of_command(name, make(), about) for name, _, make, about in options.subCommands
    )
    return CommandWords("", "", _of_usage(options), None, commands)


def _of_command(name: str, options: Any, about: str) -> CommandWords:
    parser = getattr(options, "argument_parser", None)
    if parser is None:
        return CommandWords(name, about, _of_usage(options))
    actions = parser()._actions
    arguments = [action for action in actions if not action.option_strings]
    return CommandWords(
        name,
        about,
        tuple(_of_action(action) for action in actions if action.option_strings),
        _values_of(arguments[0]) if arguments else None,
    )


def _of_action(action: argparse.Action) -> OptionWords:
    takes_value = action.nargs != 0
    return OptionWords(
        _longest_first(action.option_strings),
        _one_line(action.help or ""),
        takes_value,
        takes_value and action.nargs not in ("?", "*"),
        _values_of(action) if takes_value else None,
    )


def _values_of(action: argparse.Action) -> Values:
    if action.choices is not None:
        return tuple(map(str, action.choices))
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    return _KINDS.get(metavar) or _KINDS.get(action.dest)


def _of_usage(options: usage.Options) -> tuple[OptionWords, ...]:
    names: dict[str, list[str]] = {}
    for name, meant in options.synonyms.items():
        names.setdefault(meant, []).append(name)
    actions: dict[str, Any] = {}
    for cls in reversed(type(options).__mro__):
        actions |= getattr(getattr(cls, "compData", None), "optActions", {})
    found = []
    for entry in options.longOpt:
        long, equals, _ = entry.partition("=")
        meant = options.synonyms[long]
        if meant != long and meant + equals in options.longOpt:
            # This is another name of an option that has an entry of its own.
            continue
        spelled = {f"--{name}" if len(name) > 1 else f"-{name}" for name in names[meant]}
        # Twisted's list of completions has no public attribute for its items.
        words = getattr(actions.get(long), "_items", None)
        found.append(
            OptionWords(
                _longest_first(spelled),
                _one_line(str(options.docs.get(long) or "")),
                bool(equals),
                bool(equals),
                tuple(words) if words else _KINDS.get(long),
            )
        )
    return tuple(found)


def _longest_first(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (-len(name), name)))


def _one_line(text: str) -> str:
    return " ".join(text.split())
