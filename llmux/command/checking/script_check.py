"""
This module finds mistakes in a hook's script without running the script.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator

__all__ = ["script_problems"]

_SHELLS = ("sh", "bash", "dash", "ksh", "zsh")
_ENDS = frozenset({";", "&", "&&", "||", "|", "|&", "(", ")", ";;", "\n", ";&"})
_WORDS_BEFORE_A_COMMAND = frozenset(
    {"!", "{", "}", "do", "elif", "else", "exec", "if", "then", "time", "until", "while"}
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_UNKNOWN = re.compile(r"[$`*?\[~]")
"""
A word with one of these characters is changed by the shell before the shell looks for a file.
"""


def script_problems(script: str, directory: str) -> Iterator[str]:
    """
    Yield what is wrong with a script, as far as that can be found without running it: mistakes
    of syntax, and commands that are files which do not exist or cannot be run.

    @param directory: where the script would run.
    """
    mistake = _mistake(["/bin/sh", "-n", "-c", script], directory)
    if mistake:
        yield f"the shell does not understand it: {mistake}"
        return
    for word, is_sourced in _files(script):
        yield from _file_problems(word, os.path.join(directory, word), is_sourced)


def _file_problems(word: str, path: str, is_sourced: bool) -> Iterator[str]:
    if not os.path.exists(path):
        yield f"{word} does not exist"
        return
    if os.path.isdir(path):
        yield f"{word} is a directory"
        return
    if not os.access(path, os.R_OK if is_sourced else os.X_OK):
        yield f"{word} may not be {'read' if is_sourced else 'executed: chmod +x it'}"
        return
    if is_sourced:
        shell: str | None = "/bin/sh"
    else:
        interpreter = _interpreter(path)
        if interpreter is None:
            return
        if not os.path.exists(interpreter):
            yield f"{word} is to be run by {interpreter}, which does not exist"
            return
        shell = interpreter if os.path.basename(interpreter) in _SHELLS else None
    if shell is not None:
        mistake = _mistake([shell, "-n", path], os.path.dirname(path))
        if mistake:
            yield f"{word}: {mistake}"


def _interpreter(path: str) -> str | None:
    """Return the program that the first line of a script names; None for anything else."""
    try:
        with open(path, "rb") as file:
            start = file.read(256)
    except OSError:
        return None
    words = start.partition(b"\n")[0][2:].split()
    if not start.startswith(b"#!") or not words:
        return None
    # In a line that ends as on Windows, CR is part of the program's name.
    if start.partition(b"\n")[0].endswith(b"\r") and len(words) == 1:
        return os.fsdecode(words[0]) + "\\r"
    if os.path.basename(words[0]) == b"env":
        return None
    return os.fsdecode(words[0])


def _mistake(command: list[str], directory: str) -> str:
    """Return what a shell says of a script's syntax; empty if it says nothing."""
    try:
        ended = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if ended.returncode == 0:
        return ""
    lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[0] if lines else f"exit status {ended.returncode}"


def _files(script: str) -> Iterator[tuple[str, bool]]:
    """
    Yield the paths that stand in the place of a command, and for each whether a shell reads the
    file.

    Paths after a change of directory are left out, since it is not known in which directory
    they would be looked for.
    """
    lexer = shlex.shlex(script.replace("\\\n", " "), posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        return
    seen: set[str] = set()
    expects_command = True
    reads_file = False
    for word in words:
        if word in _ENDS or set(word) <= set("();|&\n"):
            expects_command, reads_file = True, False
            continue
        if set(word) <= set("<>&"):
            # A file for input or output follows; a command may come after that.
            continue
        if not (expects_command or reads_file):
            continue
        if expects_command and (
            word in _WORDS_BEFORE_A_COMMAND or _ASSIGNMENT.match(word) is not None
        ):
            continue
        if expects_command and word in ("cd", "pushd"):
            return
        was_read, reads_file = reads_file, expects_command and word in (".", "source", *_SHELLS)
        expects_command = False
        if reads_file or (was_read and word.startswith("-")):
            continue
        if "/" in word and not _UNKNOWN.search(word) and word not in seen:
            seen.add(word)
            yield word, was_read
