"""This module decides what a key does in C{llmux top}."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmux.command.full_screen.top_frame import by_interest
from llmux.command.words.forewarning import forewarning
from llmux.command.words.styles import Styled

__all__ = ["KEYS_LINE", "GivenCommand", "TopKeys"]

_PIN_SECS = 3600
_COMMANDS = {"w": "wake", "s": "switch", "S": "sleep", "p": "pin", "P": "pause", "r": "resume"}
_UP = frozenset({"up", "k"})
_DOWN = frozenset({"down", "j"})

KEYS_LINE = [
    styled
    for word in ("wake", "switch", "Sleep", "pin", "Pause", "resume", "quit")
    for styled in (Styled(word[0], "reverse"), Styled(f"{word[1:]} "))
]


@dataclass(frozen=True)
class GivenCommand:
    """
    A L{GivenCommand} is a command that the user has given.

    @ivar verb: the verb, as in C{POST /llmux/VERB}.
    @ivar body: the JSON of the command.
    """

    verb: str
    body: Mapping[str, Any]


class TopKeys:
    """
    L{TopKeys} remember which model the user has chosen, and which question is open.

    @ivar selected: the chosen model's name; None before the first status.
    @ivar question: the question that the user is to answer by y or n; None if there is none.
    @ivar is_over: whether the user has quit.
    """

    def __init__(self) -> None:
        self.selected: str | None = None
        self.question: str | None = None
        self.is_over = False
        self._command: GivenCommand | None = None

    def see(self, status: Mapping[str, Any]) -> None:
        """Choose another model if the chosen one does not exist any more."""
        names = [m["name"] for m in by_interest(status)]
        if self.selected not in names:
            self.selected = names[0] if names else None

    def press(self, key: str, status: Mapping[str, Any] | None) -> GivenCommand | None:
        """
        Act on a key, and return the command that the key gives, if any.

        @param key: a character, or C{up}, C{down} or C{escape}.
        @param status: the last status; None before the first.
        @return: the command, or None.
        """
        if self.question is not None:
            command, self._command, self.question = self._command, None, None
            return command if key in ("y", "Y") else None
        if key in ("q", "Q"):
            self.is_over = True
        elif status is not None:
            self._act(key, status)
        return None

    def _act(self, key: str, status: Mapping[str, Any]) -> None:
        models = by_interest(status)
        names = [m["name"] for m in models]
        if self.selected not in names:
            return
        at = names.index(self.selected)
        if key in _UP:
            self.selected = names[max(0, at - 1)]
        elif key in _DOWN:
            self.selected = names[min(len(names) - 1, at + 1)]
        elif key in _COMMANDS:
            self._ask(_COMMANDS[key], status, models[at])

    def _ask(self, verb: str, status: Mapping[str, Any], model: Mapping[str, Any]) -> None:
        name = model["name"]
        body: dict[str, Any] = {} if verb in ("pause", "resume") else {"model": name}
        if verb == "pin":
            pinned = [p if isinstance(p, str) else p["model"] for p in status.get("pins", ())]
            if name in pinned:
                verb = "unpin"
            else:
                body["for"] = _PIN_SECS
        if verb == "sleep" and model["state"] == "uncertain":
            body["force"] = True
        what = f"{verb} {name}" if body else verb
        if verb == "pin":
            what += " for an hour"
        self._command = GivenCommand(verb, body)
        self.question = f"{what}? {forewarning(status, verb, model)}"
