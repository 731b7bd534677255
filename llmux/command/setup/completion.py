"""C{llmux completion} prints a script with which a shell completes the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from llmux.command.setup.completion_scripts import SCRIPTS

__all__ = ["main", "parser"]

_MODELS = "models"
"""
A completion script gives this word in place of a shell's name when it needs the names of
models.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the words after C{llmux completion}."""
    parser = argparse.ArgumentParser(
        prog="llmux completion",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Print a script by which a shell completes commands, options, files and "
        "the names of models.",
        epilog="where it goes:\n"
        "  bash  llmux completion bash > ~/.local/share/bash-completion/completions/llmux\n"
        '  zsh   llmux completion zsh > "${fpath[1]}/_llmux"\n'
        "  fish  llmux completion fish > ~/.config/fish/completions/llmux.fish\n"
        "\n"
        "Shells that run already: exec bash, exec zsh, exec fish.",
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=sorted(SCRIPTS), help="the shell")
    return parser


def main(argv: Sequence[str], command_line: Callable[[], Any]) -> int:
    """
    Print the completion script of a shell, or the names of the models for such a script.

    @param command_line: makes the C{usage.Options} that parse what is to be completed.
    @return: the exit status.
    """
    if argv and argv[0] == _MODELS:
        return _print_models(argv[1] if len(argv) > 1 else "config.yaml")
    shell = parser().parse_args(argv).shell
    from llmux.command.setup.described_line import describe_line

    print(SCRIPTS[shell](describe_line(command_line())), end="")
    return 0


def _print_models(config: str) -> int:
    """Print the names of a configuration's models, a line each; nothing if there are none."""
    # The file is read but not checked, because the user is waiting for the completion of a
    # word.
    from llmux.config.document import read_document
    from llmux.config.error import ConfigError

    try:
        with open(config, "rb") as file:
            document = read_document(file.read(), config)
    except (OSError, ConfigError):
        return 1
    models = document.get("models") if isinstance(document, dict) else None
    print("\n".join(models if isinstance(models, dict) else ()))
    return 0
