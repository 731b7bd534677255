"""
This module has the C{llmux} command: the daemon in the foreground, and the commands that go
with it.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from llmux.command.link.verb_names import verb_of

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the C{llmux} command with the words of the command line.

    @return: the exit status: 0; 1 for a configuration that is not sound or cannot be carried
        out; 2 for options that make no sense; 128 plus the number of the signal when a second
        signal has aborted requests.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    verb = verb_of(words)
    if verb is not None:
        # Nothing of Twisted is imported here, so that the command answers at once.
        from llmux.command.verbs import run_verb

        for stream in sys.stdout, sys.stderr:
            # A terminal's encoding may lack letters that a model's name can have.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return _to_its_end(lambda: run_verb(*verb))
    from twisted.python import usage

    from llmux.command.command_line import LlmuxOptions, hint_about

    options = LlmuxOptions()
    try:
        usage.Options.parseOptions(options, words)
    except usage.UsageError as e:
        command = f"llmux {options.subCommand}" if options.subCommand else "llmux"
        print(f"{command}: {e}{hint_about(str(e))}\nTry {command} --help.", file=sys.stderr)
        return 2
    if options.subCommand is None:
        return _to_its_end(lambda: _serve(options))
    return _to_its_end(options.subOptions.run)


def _to_its_end(run: Callable[[], int]) -> int:
    try:
        status = run()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of our output has closed it; Python must not try to write the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        # The reactor does not run yet or any more, so there is nothing to stop.
        return 128 + signal.SIGINT


def _serve(options: Any) -> int:
    from llmux.config import ConfigError, load_config
    from llmux.daemon.foreground import serve

    try:
        config = load_config(options["config"], port=options["port"])
        return serve(
            config,
            log_format=options["log-format"],
            verbose=bool(options["verbose"]),
            port=options["port"],
        )
    except ConfigError as e:
        print(e, file=sys.stderr)
        return 1
