"""
This module replaces the macros of llama-swap: C{${NAME}}, and C{${env.NAME}} for the
environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["Macros", "unknown_macros"]

LATER = ("PORT", "PID")
"""These macros have no value yet when a configuration is read."""

_MACRO = re.compile(r"\$\{([A-Za-z0-9_-]+)\}")
_ENVIRONMENT = re.compile(r"\$\{env\.([A-Za-z_]\w*)\}", re.ASCII)


class Macros:
    """
    L{Macros} are the macros that hold for one model: the model's own, and the global ones.

    A macro may use those that were defined before it.
    """

    def __init__(
        self,
        model: str,
        shared: Mapping[str, Any],
        own: Mapping[str, Any],
        environment: Mapping[str, str],
    ) -> None:
        values = {"MODEL_ID": model, **shared}
        # A model's macro keeps the place of the global macro of the same name in the order of
        # replacement.
        self._values = values | dict(own)
        self._environment = environment

    def expanded(self, text: str) -> str:
        """Return the text without macros, except those of L{LATER} and of the environment."""
        for name, value in reversed(self._values.items()):
            text = text.replace(f"${{{name}}}", _written(value))
        return text

    def resolved(self, value: Any) -> Any:
        """
        Return a value of any kind without macros, those of the environment included where
        they have a value.  A text that is a macro and nothing else becomes what the macro is:
        a number, a truth value.
        """
        if isinstance(value, list):
            return [self.resolved(item) for item in value]
        if isinstance(value, dict):
            return {self.resolved(key): self.resolved(item) for key, item in value.items()}
        for name, macro in reversed(self._values.items()):
            if value == f"${{{name}}}":
                value = macro
            elif isinstance(value, str):
                value = value.replace(f"${{{name}}}", _written(macro))
        if not isinstance(value, str):
            return value
        return _ENVIRONMENT.sub(lambda m: self._environment.get(m[1], m[0]), value)


def unknown_macros(value: Any) -> list[str]:
    """Return the macros that are left in a value, those of the environment included."""
    if isinstance(value, list):
        return [name for item in value for name in unknown_macros(item)]
    if isinstance(value, dict):
        return unknown_macros([*value, *value.values()])
    if not isinstance(value, str):
        return []
    return [
        *(name for name in _MACRO.findall(value) if name not in LATER),
        *(f"env.{name}" for name in _ENVIRONMENT.findall(value)),
    ]


def _written(value: Any) -> str:
    """Return a macro's value as text, as llama-swap writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
