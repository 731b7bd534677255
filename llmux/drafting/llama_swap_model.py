"""This module converts one model of llama-swap's configuration to a model of llmux."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from llmux.config.error import Path, key_path, printable, shown
from llmux.drafting.command_words import (
    UnclosedQuote,
    shell_command,
    shell_word,
    split_lines,
    without_comments,
)
from llmux.drafting.draft import ModelDraft
from llmux.drafting.macros import Macros, unknown_macros

__all__ = ["ModelConversion", "Notes", "number"]

_PROXY = re.compile(
    r"(?P<scheme>\w+)://(?P<host>\[[^]]+\]|[^:/?#]+)(?::(?P<port>[^/?#]*))?(?P<rest>.*)\Z"
)
_HEALTH = re.compile(r"/[!-~]*\Z")
_VARIABLE_NAME = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
_SLEEP_TIMEOUT_SECS = 300
"""llmux' default for C{sleep_timeout_secs}; C{stop_secs} must be below it."""

_CONTAINER_STOP_SECS = 30
"""
C{docker stop} waits for ten seconds before it kills, so a container gets longer than that.
"""


class Notes:
    """
    L{Notes} say what could not be carried over to llmux.

    @ivar sentences: a sentence for each thing, without repetitions.
    """

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def add(self, path: Path, what: str) -> None:
        """Note, in a sentence, what becomes of a key."""
        sentence = f"{key_path(path)}: {printable(what)}."
        if sentence not in self.sentences:
            self.sentences.append(sentence)


class ModelConversion:
    """A L{ModelConversion} converts one model."""

    def __init__(
        self,
        name: str,
        raw: dict[str, Any],
        shared: Mapping[str, Any],
        environment: Mapping[str, str],
        notes: Notes,
    ) -> None:
        own = raw.get("macros")
        self._name = name
        self._raw = raw
        self._environment = environment
        self._macros = Macros(name, shared, own if isinstance(own, dict) else {}, environment)
        self._notes = notes
        self._keys: dict[str, Any] = {}

    def draft(self, defaults: Mapping[str, Any]) -> ModelDraft | None:
        """
        Return the model; None, with a note, if there is no command to serve it.

        @param defaults: keys that hold for all models.
        """
        serve = self._serve()
        if serve is None:
            return None
        self._keys["serve"] = serve
        self._keys |= {
            key: value for key, value in defaults.items() if key != "idle_sleep_secs"
        }
        self._proxy()
        self._health()
        self._times(defaults)
        stop = self._keys.get("stop_secs", 0)
        if stop >= _SLEEP_TIMEOUT_SECS:
            self._keys["sleep_timeout_secs"] = stop * 1.25
        self._names()
        self._filters()
        self._metadata()
        for key, value in self._raw.items():
            if key not in _HANDLED:
                self._note(key, f"{shown(value)} has no counterpart")
        return ModelDraft(self._name, self._keys)

    def _note(self, key: str, what: str) -> None:
        self._notes.add(("models", self._name, *key.split(".")), what)

    def _text(self, key: str) -> str | None:
        """
        Return a value as text, with macros replaced; None, with a note, if that cannot be done.
        """
        value = self._macros.resolved(self._raw.get(key))
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        left = unknown_macros(value)
        if not isinstance(value, str) or left:
            named = (
                f"the macro {left[0]} has no value" if left else f"{shown(value)} is no text"
            )
            self._note(key, named)
            return None
        return value

    # ------------------------------------------------------------- command

    def _serve(self) -> str | None:
        command = self._command("cmd")
        if command is None:
            return None
        lines = [*self._environment_words(), *command]
        text = shell_command(lines, dict(self._environment))
        stop = self._command("cmdStop") if self._raw.get("cmdStop") else None
        if stop is None:
            return text + "\n" if "\n" in text else text
        self._keys["stop_secs"] = _CONTAINER_STOP_SECS
        stopping = " ".join(shell_word(word) for line in stop for word in line)
        # TERM reaches the command as well; the shell waits twice, as the trap interrupts the
        # first wait.
        return f"trap {shlex.quote(stopping)} TERM\n{text} &\npid=$!; wait $pid; wait $pid\n"

    def _command(self, key: str) -> list[list[str]] | None:
        raw = self._raw.get(key)
        if not isinstance(raw, str):
            self._note(key, "it is missing" if raw is None else f"{shown(raw)} is no command")
            return None
        # Comments go first: a macro of several lines in a comment would leave its other lines
        # outside of the comment.
        text = self._macros.expanded(without_comments(raw))
        unknown = [name for name in unknown_macros(text) if not name.startswith("env.")]
        if unknown:
            self._note(key, f"the macro {unknown[0]} is not defined")
            return None
        try:
            lines = split_lines(text)
        except UnclosedQuote as e:
            self._note(key, str(e))
            return None
        if not lines:
            self._note(key, "there is no command in it")
            return None
        return lines

    def _environment_words(self) -> list[list[str]]:
        """Return the assignments that stand before the command, as a line of their own."""
        given = self._raw.get("env")
        if given is None:
            return []
        words = []
        for item in given if isinstance(given, list) else [given]:
            name, equals, value = self._macros.expanded(str(item)).partition("=")
            if not equals or not _VARIABLE_NAME.match(name):
                self._note("env", f"{shown(str(item))} is not NAME=VALUE")
            else:
                words.append(f"{name}={value}")
        return [["env", *words]] if words else []

    # --------------------------------------------------------------- place

    def _proxy(self) -> None:
        proxy = self._macros.expanded(str(self._raw.get("proxy") or "http://localhost:${PORT}"))
        match = _PROXY.match(proxy)
        if match is None:
            self._note("proxy", f"{shown(proxy)} is no address")
            return
        if match["scheme"] != "http":
            self._note("proxy", f"{match['scheme']}: backends are asked by http")
        host = match["host"].strip("[]")
        if host not in ("localhost", "127.0.0.1"):
            self._keys["host"] = host
        if match["rest"] not in ("", "/"):
            self._note(
                "proxy", f"the path {shown(match['rest'])}: paths are passed as they are"
            )
        port = match["port"] or "80"
        if port.isdecimal() and 1 <= int(port) <= 65535:
            self._keys["port"] = int(port)
        elif port != "${PORT}":
            self._note("proxy", f"{shown(port)} is no port")

    def _health(self) -> None:
        path = self._text("checkEndpoint")
        if path is None or path == "/health":
            return
        if path == "none":
            self._note(
                "checkEndpoint",
                "none: llmux asks GET /health; set health to a path of the server",
            )
        elif _HEALTH.match(path):
            self._keys["health"] = path
        else:
            self._note("checkEndpoint", f"{shown(path)} is no path")

    def _times(self, defaults: Mapping[str, Any]) -> None:
        ttl = self._raw.get("ttl", -1)
        if ttl == -1:
            ttl = defaults.get("idle_sleep_secs")
        if number(ttl):
            self._keys["idle_sleep_secs"] = ttl
        if limit := number(self._raw.get("unloadTimeout")):
            self._keys["stop_secs"] = limit
        timeouts = self._raw.get("timeouts")
        for key, value in timeouts.items() if isinstance(timeouts, dict) else ():
            if key == "responseHeader":
                if number(value):
                    self._keys["first_byte_timeout_secs"] = value
            else:
                self._note(f"timeouts.{key}", "llmux has no such time limit")
        if limit := number(self._raw.get("concurrencyLimit")):
            self._note(
                "concurrencyLimit",
                f"{limit}: llmux passes on as much as comes; the server queues",
            )
        if self._raw.get("sendLoadingState"):
            self._note("sendLoadingState", "replies are passed on as they are")

    # --------------------------------------------------------------- names

    def _names(self) -> None:
        aliases = []
        given = self._macros.resolved(self._raw.get("aliases")) or []
        for item in given if isinstance(given, list) else [given]:
            alias = item.get("id") if isinstance(item, dict) else item
            if not isinstance(alias, str) or not alias.strip() or not alias.isprintable():
                self._note("aliases", f"{shown(item)} is no name")
                continue
            if isinstance(item, dict) and item.get("name") not in (None, "", alias):
                self._note("aliases", f"the display name of {shown(alias)}")
            if alias != self._name and alias not in aliases:
                aliases.append(alias)
        if aliases:
            self._keys["aliases"] = aliases
        if (name := self._text("useModelName")) is not None:
            self._keys["backend_model"] = name
        if self._raw.get("unlisted") is True:
            self._keys["listed"] = False

    def _filters(self) -> None:
        filters = self._raw.get("filters")
        if not isinstance(filters, dict):
            return
        stripped = filters.get("stripParams") or filters.get("strip_params") or ""
        names = [name.strip() for name in str(self._macros.resolved(stripped)).split(",")]
        strip = [name for name in dict.fromkeys(names) if name and name != "model"]
        if strip:
            self._keys["strip"] = strip
        common = self._members("filters.setParams", filters.get("setParams"))
        by_name = filters.get("setParamsByID")
        variants: dict[str, Any] = {}
        for raw_name, raw in by_name.items() if isinstance(by_name, dict) else ():
            name = str(self._macros.resolved(raw_name))
            members = self._members("filters.setParamsByID", raw)
            if name == self._name:
                common |= members
                if self._keys.get("aliases"):
                    self._note(
                        "filters.setParamsByID",
                        f"{shown(name)}: what is set for the model holds "
                        "for its aliases as well",
                    )
            else:
                variants[name] = {"set": members} if members else {}
        if common:
            self._keys["set"] = common
        if variants:
            left = [each for each in self._keys.pop("aliases", []) if each not in variants]
            self._keys |= ({"aliases": left} if left else {}) | {"variants": variants}
        for key in filters:
            if key not in ("stripParams", "strip_params", "setParams", "setParamsByID"):
                self._note(f"filters.{key}", "it has no counterpart")

    def _members(self, place: str, raw: Any) -> dict[str, Any]:
        """Return the members that are to be set in a body."""
        if not isinstance(raw, dict):
            return {}
        found = {}
        for key, value in self._macros.resolved(raw).items():
            left = unknown_macros(value)
            if key == "model":
                self._note(place, "model stays what the client said")
            elif left:
                self._note(place, f"{shown(key)}: the macro {left[0]} has no value")
            else:
                found[key] = value
        return found

    def _metadata(self) -> None:
        metadata: dict[str, Any] = {}
        capabilities = self._raw.get("capabilities")
        if isinstance(capabilities, dict):
            context = capabilities.get("context")
            if isinstance(context, int) and context > 0:
                metadata["context"] = context
            given = capabilities.get("in")
            given = given if isinstance(given, list) else []
            inputs = [each for each in given if each and isinstance(each, str)]
            if inputs:
                metadata["in"] = inputs
            if capabilities.get("tools") is True:
                metadata["tools"] = True
            for key in capabilities:
                if key not in ("context", "in", "tools"):
                    self._note(f"capabilities.{key}", "/v1/models does not say it")
        if (description := self._text("description")) is not None:
            metadata["description"] = description
        if (name := self._text("name")) is not None:
            if "description" in metadata:
                self._note("name", f"{shown(name)}: /v1/models has the description")
            else:
                metadata["description"] = name
        if metadata:
            self._keys["metadata"] = metadata
        given = self._raw.get("metadata")
        if isinstance(given, dict) and given:
            self._note("metadata", f"{', '.join(map(str, given))}: /v1/models does not say it")


_HANDLED = {
    "aliases",
    "capabilities",
    "checkEndpoint",
    "cmd",
    "cmdStop",
    "concurrencyLimit",
    "description",
    "env",
    "filters",
    "macros",
    "metadata",
    "name",
    "proxy",
    "sendLoadingState",
    "timeouts",
    "ttl",
    "unlisted",
    "unloadTimeout",
    "useModelName",
}


def number(value: Any) -> int | float | None:
    """Return a value if it is a number above 0, else None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if value > 0 else None
