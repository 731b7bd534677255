"""
This module rewrites a shell command so that the shell is replaced by the program that it would
run.
"""

from __future__ import annotations

import re
import shlex

__all__ = ["with_exec"]

_ASSIGNMENTS = re.compile(r"(?:[A-Za-z_]\w*=[\w./:,@%+-]*\s+)*")
_OPERATORS = frozenset(";&|()\n")
_NOT_PROGRAMS = frozenset(
    {
        *("!", "{", "}", "case", "do", "done", "elif", "else", "esac", "fi", "for", "function"),
        *("if", "in", "select", "then", "time", "until", "while", "[["),
        *(".", ":", "alias", "bg", "break", "cd", "command", "continue", "eval", "exec"),
        *("exit", "export", "fg", "getopts", "hash", "jobs", "local", "read", "readonly"),
        *("return", "set", "shift", "source", "trap", "type", "ulimit", "umask", "unset"),
        *("wait", "builtin", "declare", "let", "shopt", "typeset"),
    }
)
"""
These words are no programs, or the shell has commands of its own with these names that differ
from programs.
"""


def with_exec(script: str) -> str:
    """
    Put C{exec} in front of the program of a script, if the script is one simple command.  Any
    other script is returned unchanged.
    """
    stripped = script.strip().replace("\\\n", " ")
    begin = _ASSIGNMENTS.match(stripped)
    assert begin is not None
    command = stripped[begin.end() :]
    lexer = shlex.shlex(command, posix=True, punctuation_chars=";&|()\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError:
        return script
    if (
        not words
        or words[0] in _NOT_PROGRAMS
        or any(set(word) <= _OPERATORS for word in words)
        or "<<" in command
        or not re.match(r"[\w./~$\"'-]", command)
        or re.match(r"[A-Za-z_]\w*=", command)
    ):
        return script
    return f"{stripped[: begin.end()]}exec {command}"
