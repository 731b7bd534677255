"""This module makes the environment variables of hooks, and of the servers that they start."""

from __future__ import annotations

import os
from collections.abc import Mapping

from llmux.backend.whereabouts import Address
from llmux.config import ModelConfig
from llmux.hooks.persistence.places import Places
from llmux.hooks.persistence.state import StateDirectory

__all__ = ["HookEnvironment"]

_NOT_ALWAYS = frozenset(
    {
        b"LLMUX_NEEDS",
        b"LLMUX_PLACE",
        b"LLMUX_PORT",
        b"LLMUX_RESOURCES",
        b"LLMUX_STATE",
        b"LLMUX_TIMEOUT_SECS",
    }
)
"""Some hooks lack these variables."""


class HookEnvironment:
    """
    A L{HookEnvironment} makes the environments of hooks: llmux' own environment as it was at
    the start, and variables whose names begin with C{LLMUX_}.
    """

    def __init__(
        self,
        models: Mapping[str, ModelConfig],
        state: StateDirectory | None = None,
        addresses: Mapping[str, Address] | None = None,
        places: Places | None = None,
    ) -> None:
        """
        @param state: the state directory, in which each model has a directory of its own;
            without it there is no C{LLMUX_STATE}.
        @param addresses: the addresses of the backends, as they are now; if None, those of the
            configuration.
        @param places: the places of the models; None if there are no resources.
        """
        self._state = state
        self._places = places
        self._models = models
        self._addresses = addresses
        # If llmux runs within a hook of another llmux, the values of that one must not be
        # passed on.
        self._inherited = {k: v for k, v in os.environb.items() if k not in _NOT_ALWAYS}

    def variables(
        self, model: str, hook: str, limit: float | None = None
    ) -> dict[bytes, bytes]:
        """
        Return all environment variables of a hook.

        @param hook: the name of the hook.
        @param limit: seconds until the hook is ended by force; None for never.
        @raise OSError: the model's directory cannot be made.
        """
        at = self._addresses
        host, port = self._models[model].address if at is None else at[model]
        variables = {
            **self._inherited,
            b"LLMUX_MODEL": model.encode(),
            b"LLMUX_HOOK": hook.encode(),
            b"LLMUX_HOST": host.encode(),
        }
        if port:
            variables[b"LLMUX_PORT"] = b"%d" % port
        if self._places is not None:
            variables |= self._places.variables(model)
        if limit is not None:
            variables[b"LLMUX_TIMEOUT_SECS"] = _seconds(limit).encode()
        if self._state is not None:
            directory = self._state.model_directory(model)
            variables[b"LLMUX_STATE"] = os.fsencode(directory)
        return variables


def _seconds(limit: float) -> str:
    """Write a time limit as scripts read it, as in C{900} or C{0.5}."""
    return f"{limit:.3f}".rstrip("0").rstrip(".")
