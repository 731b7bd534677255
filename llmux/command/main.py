"""
The C{llmux} command: the daemon in the foreground, and what goes with it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from llmux._version import __version__

__all__ = ["main"]

_COMMANDS = """\
commands, each with its own --help:
  llmux check       say whether a configuration is sound, and what it amounts to
  llmux demo        two real models behind one port
  llmux simulate    compare policies on recorded or imagined traffic
"""


class _Parser(argparse.ArgumentParser):
    """One that hints at the place of a sub-command."""

    def error(self, message: str) -> NoReturn:
        """Two lines, and exit status 2."""
        words = message.split()
        found = [word for word in words if word in _SUB_COMMANDS]
        if "unrecognized" in words and found:
            message += f" (the command comes first: llmux {found[0]} ...)"
        super().error(message)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="llmux",
        description="One OpenAI-compatible endpoint in front of more language models "
        "than the GPU can hold.",
        epilog=_COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_config(parser)
    parser.add_argument(
        "-p",
        "--port",
        type=_port,
        help="listen on this port and not on the configuration's (0: any free one)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log debug messages")
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="text for people (default), or json: one object a line",
    )
    parser.add_argument("-V", "--version", action="version", version=f"llmux {__version__}")
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        default="config.yaml",
        help="the configuration, YAML or JSON by its extension (default: config.yaml)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    @return: the exit status: 0; 1 for a configuration that is not sound or
        cannot be carried out; 128 + its number when a second signal has
        aborted requests.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in _SUB_COMMANDS:
        try:
            status = _SUB_COMMANDS[arguments[0]](arguments[1:])
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            # The reader of our output has had enough: nobody to tell, at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    options = _parser().parse_args(arguments)
    try:
        return _serve(options)
    except KeyboardInterrupt:
        # Before the reactor ran: nothing had begun.
        return 128 + signal.SIGINT


def _serve(options: argparse.Namespace) -> int:
    from llmux.config import ConfigError, load_config
    from llmux.daemon.foreground import serve

    try:
        config = load_config(options.config, port=options.port)
        return serve(config, log_format=options.log_format, verbose=options.verbose)
    except ConfigError as e:
        print(e, file=sys.stderr)
        return 1


def _check(argv: Sequence[str]) -> int:
    from llmux.command.check import main as check

    return check(argv)


def _demo(argv: Sequence[str]) -> int:
    from llmux.demo.launch import main as demo

    status: int = demo(list(argv))
    return status


def _simulate(argv: Sequence[str]) -> int:
    from llmux.simulate.compare import main as simulate

    status: int = simulate(list(argv))
    return status


_SUB_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "check": _check,
    "demo": _demo,
    "simulate": _simulate,
}
