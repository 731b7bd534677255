"""
The C{llmux} command: the daemon in the foreground, and the commands that go with it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.python import usage

from llmux.tap import Options

__all__ = ["LlmuxOptions", "main"]


class _Elsewhere(usage.Options):
    """A command whose module reads the rest of the line by itself."""

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


def _check() -> Any:
    from llmux.command.check import CheckOptions

    return CheckOptions()


def _demo() -> Any:
    from llmux.demo.launch import DemoOptions

    return DemoOptions()


def _schema() -> Any:
    from llmux.command.schema import SchemaOptions

    return SchemaOptions()


def _simulate() -> Any:
    return _Elsewhere("llmux.simulate.compare")


class LlmuxOptions(Options):
    """The options that stand after C{llmux}: those of C{twistd llmux}, or a command."""

    synopsis = "[options] [command]"
    longdesc = (
        "One OpenAI-compatible endpoint in front of more language models than the GPU can "
        "hold.  Without a command llmux serves in the foreground.  Each command has a --help."
    )
    subCommands: ClassVar[Any] = [
        ("check", None, _check, "say whether a configuration is sound, and what it amounts to"),
        ("demo", None, _demo, "two real models behind one port"),
        ("schema", None, _schema, "print the JSON schema of the configuration, for editors"),
        ("simulate", None, _simulate, "compare policies on recorded or invented traffic"),
    ]

    def getSynopsis(self) -> str:
        """Return the first line of the help."""
        return f"Usage: llmux {self.synopsis}"


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    @return: the exit status: 0; 1 for a configuration that is not sound or
        cannot be carried out; 2 for options that make no sense; 128 + its
        number when a second signal has aborted requests.
    """
    options = LlmuxOptions()
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        usage.Options.parseOptions(options, words)
    except usage.UsageError as e:
        command = f"llmux {options.subCommand}" if options.subCommand else "llmux"
        print(f"{command}: {e}\nTry {command} --help.", file=sys.stderr)
        return 2
    try:
        if options.subCommand is None:
            return _serve(options)
        status: int = options.subOptions.run()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of our output has had enough: nobody to tell, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        # Before the reactor ran: nothing had begun.
        return 128 + signal.SIGINT


def _serve(options: Options) -> int:
    from llmux.config import ConfigError, load_config
    from llmux.daemon.foreground import serve

    try:
        config = load_config(options["config"], port=options["port"])
        return serve(config, log_format=options["log-format"], verbose=bool(options["verbose"]))
    except ConfigError as e:
        print(e, file=sys.stderr)
        return 1
