"""
C{llmux init} writes a first configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from llmux.command.setup.schema import schema_text
from llmux.config import ConfigError, parse_config
from llmux.config.error import printable
from llmux.drafting.draft import Draft, DraftError

__all__ = ["main", "parser"]

SCHEMA = "llmux.schema.json"
"""
This file is written beside the configuration; editors complete the configuration with its help.
"""

SOURCES = ("gguf", "llama-swap", "ollama")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the words after C{llmux init}."""
    parser = argparse.ArgumentParser(
        prog="llmux init",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Write a first configuration, with comments, and beside it the schema from "
        "which editors complete.\nNothing that exists is overwritten.",
        epilog="sources:\n"
        "  --from gguf DIR          a llama-server for each GGUF file under DIR\n"
        "  --from llama-swap FILE   what llama-swap has; what cannot be carried over\n"
        "                           is said on stderr and in the file\n"
        "  --from ollama [WHERE]    the models of the Ollama that runs here, or at WHERE: an\n"
        "                           address, or a directory of models",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--from", dest="source", choices=SOURCES, help="what to make the configuration of")
    add("where", nargs="?", metavar="WHERE", help="the source's directory, file or address")
    add(
        "-o",
        "--output",
        metavar="FILE",
        default="config.yaml",
        help='write to this file; "-" for standard output (default: config.yaml)',
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """
    Write a configuration and the schema beside it, and return the exit status.

    @return: 0; or 1 if no configuration could be drafted, or if the file exists.
    """
    options = parser()
    arguments = options.parse_args(argv)
    if arguments.source in ("gguf", "llama-swap") and arguments.where is None:
        kind = "directory" if arguments.source == "gguf" else "file"
        options.error(f"--from {arguments.source} takes a {kind}")
    if arguments.source is None and arguments.where is not None:
        options.error(
            f"what is {printable(arguments.where)}? write --from {{{','.join(SOURCES)}}}"
        )
    try:
        return _init(arguments.source, arguments.where, arguments.output)
    except DraftError as e:
        print(f"llmux init: {e}", file=sys.stderr)
        return 1


def _init(source: str | None, where: str | None, output: str) -> int:
    # The file is looked for first, because drafting may take long and would be in vain.
    if output != "-" and os.path.lexists(output):
        raise _exists(output)
    draft = _draft(source, where, None if output == "-" else os.path.dirname(output) or ".")
    text = draft.text(SCHEMA)
    try:
        parse_config(text.encode(), "config.yaml" if output == "-" else output)
    except ConfigError as e:
        raise DraftError(f"what it has made of this is not sound: {e}") from None
    if output == "-":
        print(text, end="")
    else:
        _write(output, text, draft.mode)
    for sentence in draft.left_out:
        print(f"left out: {printable(sentence)}", file=sys.stderr)
    for sentence in draft.hints:
        print(sentence, file=sys.stderr)
    if output != "-":
        _report(output, len(draft.models))
    return 0


def _draft(source: str | None, where: str | None, base: str | None) -> Draft:
    from llmux.drafting.gpus import installed_gpus

    if source == "gguf":
        from llmux.drafting.gguf import draft_of_directory

        assert where is not None
        return draft_of_directory(where, base, installed_gpus())
    if source == "llama-swap":
        from llmux.drafting.llama_swap import draft_of_llama_swap

        assert where is not None
        return draft_of_llama_swap(where)
    if source == "ollama":
        from llmux.drafting.ollama import draft_of_ollama

        return draft_of_ollama(where)
    from llmux.drafting.blank import blank_draft

    return blank_draft(installed_gpus())


def _write(path: str, text: str, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as e:
        raise DraftError(
            f"{printable(path)} cannot be written: {(e.strerror or str(e)).lower()}; "
            "write elsewhere with -o FILE"
        ) from None


def _exists(path: str) -> DraftError:
    return DraftError(
        f"{printable(path)} exists, and is left as it is; write elsewhere with -o FILE, or to "
        "standard output with -o -"
    )


def _report(path: str, count: int) -> None:
    schema = os.path.join(os.path.dirname(path), SCHEMA)
    print(f"{printable(path)}: {count} model{'s' if count > 1 else ''}")
    try:
        with open(schema, "x", encoding="utf-8") as file:
            file.write(schema_text())
        print(f"{printable(schema)}: from it editors complete the configuration")
    except FileExistsError:
        pass
    except OSError as e:
        print(f"{printable(schema)}: not written: {e.strerror}", file=sys.stderr)
    option = "" if path == "config.yaml" else f" -c {printable(path)}"
    print(f"look at it, then: llmux check{option} && llmux{option}")
