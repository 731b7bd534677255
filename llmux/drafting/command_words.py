"""
This module rewrites commands of llama-swap as commands for a shell.

llama-swap itself splits a command into words and runs it without a shell: no variable, no tilde
and no glob is expanded.  This module quotes the words for C{sh}, so that the program gets the
same words; macros whose values are known only later become variables.
"""

from __future__ import annotations

import re
import shlex

__all__ = ["UnclosedQuote", "shell_command", "shell_word", "split_lines", "without_comments"]

_VARIABLE = re.compile(r"\$\{(PORT|PID|env\.[A-Za-z_]\w*)\}")
_SAFE = re.compile(r"[\w@%+=:,./-]*\Z", re.ASCII)


class UnclosedQuote(ValueError):
    """A command cannot be split into words.  The error's message says why."""


def split_lines(command: str) -> list[list[str]]:
    """
    Split a command into words, those of each line together.

    Lines that begin with C{#} are comments.  A backslash at the end of a line is read as a
    blank.

    @raise UnclosedQuote: a quote is not closed.
    """
    lines: list[list[str]] = []
    pending = ""
    for line in without_comments(command).split("\n"):
        stripped = line.rstrip()
        pending += stripped.removesuffix("\\") if stripped.endswith("\\") else line
        try:
            words = shlex.split(pending)
        except ValueError:
            # A quoted word goes on in the next line.
            pending += "\n"
            continue
        pending = ""
        if words:
            lines.append(words)
    if pending.strip():
        raise UnclosedQuote("a quote is not closed")
    return lines


def without_comments(command: str) -> str:
    """Return a command without the lines that begin with C{#}."""
    lines = command.split("\n")
    return "\n".join(line for line in lines if not line.strip().startswith("#"))


def shell_word(word: str, split_variables: bool = False) -> str:
    """
    Quote a word for a shell: C{${PORT}} becomes C{$LLMUX_PORT}, C{${PID}} becomes
    C{$pid}, and C{${env.NAME}} becomes C{$NAME}.

    @param split_variables: leave the value of a variable to be split into words.
    """
    parts = _VARIABLE.split(word)
    if len(parts) == 1:
        return shlex.quote(word)
    names = {"PORT": "LLMUX_PORT", "PID": "pid"}
    text = ""
    for at, part in enumerate(parts):
        if at % 2 == 0:
            text += re.sub(r'([\\"$`])', r"\\\1", part)
            continue
        name = names.get(part, part.removeprefix("env."))
        following = parts[at + 1][:1]
        text += f"${{{name}}}" if re.match(r"\w", following, re.ASCII) else f"${name}"
    # The port and a process id are numbers: they hold nothing that a shell would split or
    # expand.
    plain = all(_SAFE.match(part) for part in parts[::2])
    numbers = not any(part.startswith("env.") for part in parts[1::2])
    return text if plain and (numbers or split_variables) else f'"{text}"'


def shell_command(lines: list[list[str]], values: dict[str, str] | None = None) -> str:
    """
    Return a command for a shell, with the lines as they were.

    @param values: the values of environment variables, as far as they are known; if a value has
        blanks, its words are passed one by one, as llama-swap does.
    """
    values = values or {}

    def quoted(word: str) -> str:
        names = [m[1].removeprefix("env.") for m in _VARIABLE.finditer(word)]
        split = any(len(values.get(name, "").split()) > 1 for name in names)
        return shell_word(word, split)

    return " \\\n  ".join(" ".join(map(quoted, line)) for line in lines)
