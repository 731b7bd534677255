"""
This module checks the keys that say how a model is woken and put to sleep: its scripts, or the
command of its server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from llmux.config.error import Path
from llmux.config.name_checks import Fault
from llmux.config.values import DEFAULT_HEALTH, ModelConfig

__all__ = ["SCRIPTS", "faults_of_hooks"]

SCRIPTS = ("serve", "wake", "sleep", "alive", "prepare")
"""These keys of a model hold scripts for the shell."""

MAX_SCRIPT_BYTES = 128 * 1024 - 1
"""
A script may have this many bytes, because C{sh -c} gets the script as one argument, and Linux
accepts no longer argument (MAX_ARG_STRLEN, execve(2)).
"""


def faults_of_hooks(
    path: Path, model: ModelConfig, given: Collection[object]
) -> Iterator[Fault]:
    """
    Yield what is wrong with a model's hooks.

    @param given: the keys that the file has for the model.
    """
    for hook in SCRIPTS:
        script = getattr(model, hook)
        if script is not None:
            yield from _faults_of_script((*path, hook), script)
    if model.serve is None:
        yield from _faults_of_scripts(path, model, given)
    else:
        yield from _faults_of_serve(path, model)


def _faults_of_scripts(
    path: Path, model: ModelConfig, given: Collection[object]
) -> Iterator[Fault]:
    if model.wake is None and model.sleep is None:
        yield (
            (*path, "serve"),
            "missing",
            "give the command of the model's server, or port, wake and sleep",
        )
    for hook in ("wake", "sleep"):
        if getattr(model, hook) is None:
            yield (*path, hook), "missing", "give a shell script"
    if "stop_secs" in given:
        yield (
            (*path, "stop_secs"),
            "it is for servers that serve starts, and there is no serve",
            "remove it",
        )
    if model.alive is not None and model.health != DEFAULT_HEALTH:
        yield (
            (*path, "health"),
            "nobody asks for it where alive is a script",
            "remove the one or the other",
        )


def _faults_of_serve(path: Path, model: ModelConfig) -> Iterator[Fault]:
    others = " and ".join(hook for hook in ("wake", "sleep", "alive") if getattr(model, hook))
    if others:
        yield (
            (*path, "serve"),
            f"given together with {others}, but serve starts the server, stops it and asks "
            "for its health by itself",
            f"leave out serve, or {others}",
        )
    if model.stop_secs >= model.sleep_timeout_secs:
        yield (
            (*path, "stop_secs"),
            f"{model.stop_secs:g} is not below sleep_timeout_secs "
            f"({model.sleep_timeout_secs:g})",
            "make the first less or the second more",
        )


def _faults_of_script(path: Path, script: str) -> Iterator[Fault]:
    if not script.strip():
        yield path, "the script is empty", 'give a command; "true" does nothing'
    if "\0" in script:
        yield path, "the script holds a NUL character", "remove it"
    if len(script.encode("utf-8", "surrogatepass")) > MAX_SCRIPT_BYTES:
        yield path, "the script is longer than 128 KiB", "put it in a file and call that"
