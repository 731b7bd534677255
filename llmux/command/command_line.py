"""
This module parses the options that stand after C{llmux}: those of the daemon, or a command with
options of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from twisted.python import usage

from llmux.command.link.verb_names import VERBS
from llmux.similar_names import most_similar
from llmux.tap import Options

__all__ = ["LlmuxOptions", "hint_about"]


_OTHERS_SERVE_BY = ("serve", "start", "run")
"""Other programs begin to serve by one of these commands."""

_LIKENESS = 0.7
"""A command is suggested if difflib's ratio of likeness (0 to 1) is this or more."""


class _Elsewhere(usage.Options):
    """This command leaves the rest of the command line to a module of its own."""

    def __init__(self, module: str) -> None:
        usage.Options.__init__(self)
        self._module = module
        self._rest: list[str] = []

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Keep the words of the command line for the module."""
        self._rest = list(options or ())

    def run(self) -> int:
        """Run the module's C{main} with those words."""
        from importlib import import_module

        status: int = import_module(self._module).main(self._rest)
        return status

    def argument_parser(self) -> Any:
        """Return the parser that the module uses for its words."""
        from importlib import import_module

        return import_module(self._module).parser()


class _Completion(_Elsewhere):
    """This command describes the command line that it is part of."""

    def run(self) -> int:
        """Print what completes L{LlmuxOptions}."""
        from llmux.command.setup.completion import main

        return main(self._rest, LlmuxOptions)


class _VerbOptions(usage.Options):
    """
    This command talks to a running llmux, and leaves the rest of the command line to
    L{run_verb}.
    """

    parent: Any = None

    def __init__(self, verb: str) -> None:
        usage.Options.__init__(self)
        self._verb = verb
        self._rest: list[str] = []

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Keep the words of the command line for the command."""
        self._rest = list(options or ())

    def run(self) -> int:
        """Run the command with those words."""
        from llmux.command.verbs import run_verb

        config = self.parent["config"]
        before = [] if config == self.parent.defaults["config"] else ["--config", config]
        return run_verb(self._verb, before + self._rest)

    def argument_parser(self) -> Any:
        """Return the parser that the command uses for its words."""
        from llmux.command.link.verb_options import verb_parser

        return verb_parser(self._verb)


def _check() -> Any:
    from llmux.command.checking.check import CheckOptions

    return CheckOptions()


def _demo() -> Any:
    from llmux.demo.launch import DemoOptions

    return DemoOptions()


def _schema() -> Any:
    from llmux.command.setup.schema import SchemaOptions

    return SchemaOptions()


def _completion() -> Any:
    return _Completion("llmux.command.setup.completion")


def _init() -> Any:
    return _Elsewhere("llmux.command.setup.init")


def _simulate() -> Any:
    return _Elsewhere("llmux.simulate.compare")


class LlmuxOptions(Options):
    """
    This class parses what stands after C{llmux}: the options of C{twistd llmux}, or a command.
    """

    synopsis = "[options] [command]"
    longdesc = (
        "One OpenAI-compatible endpoint in front of more language models than the GPU can "
        "hold.  Without a command llmux serves in the foreground.  Each command has a --help."
    )
    subCommands: ClassVar[Any] = [
        ("check", None, _check, "say whether a configuration is sound, and what it amounts to"),
        ("completion", None, _completion, "print what completes this command line in a shell"),
        ("demo", None, _demo, "two real models behind one port"),
        ("init", None, _init, "write a first configuration, also of what others have"),
        ("schema", None, _schema, "print the JSON schema of the configuration, for editors"),
        ("simulate", None, _simulate, "compare policies on recorded or invented traffic"),
        *(
            (name, None, partial(_VerbOptions, name), what[:1].lower() + what[1:].rstrip("."))
            for name, what in VERBS.items()
        ),
    ]

    def getSynopsis(self) -> str:
        """Return the first line of the help."""
        return f"Usage: llmux {self.synopsis}"


def hint_about(mistake: str) -> str:
    """
    Return what to add to Twisted's words about a command that there is not; an empty text for
    any other mistake.
    """
    before, unknown, word = mistake.partition("Unknown command: ")
    if before or not unknown:
        return ""
    if word.endswith((".yaml", ".yml", ".json")) or os.path.isfile(word):
        return "; a configuration is given with -c FILE"
    if word in _OTHERS_SERVE_BY:
        return "; llmux without a command serves"
    near = most_similar(word, [name for name, *_ in LlmuxOptions.subCommands], _LIKENESS)
    return "" if near is None else f"; did you mean {near}?"
