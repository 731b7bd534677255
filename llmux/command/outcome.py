"""
Whether what a command began has come to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmux.command.daemon_link import CommandRefused

__all__ = ["Moment", "is_done", "moment_of"]

Status = Mapping[str, Any]
Moment = Mapping[str, int]
"""How many tries of each model had failed when a command was given."""


def moment_of(status: Status) -> Moment:
    """Return what L{is_done} has to know of the time before the command."""
    return {model["name"]: _tries(model) for model in status["models"]}


def _tries(model: Status) -> int:
    backoff = model.get("backoff")
    return int(backoff.get("tries") or 1) if backoff else 0


def is_done(wanted: str, model: str | None, before: Moment, status: Status) -> bool:
    """
    Whether a command has been carried out.

    @param wanted: the state to which its models were to come: C{awake} or C{asleep}.
    @param model: what the command was for; None for all models.
    @param before: the L{moment_of} the status before the command.
    @raise CommandRefused: a model has failed since.
    """
    named = [
        m
        for m in status["models"]
        if model is None or m["name"] == model or model in m.get("aliases", ())
    ]
    for entry in named:
        if _tries(entry) > before.get(entry["name"], 0):
            reason = str(entry["backoff"].get("reason") or "see llmux logs").rstrip(".")
            raise CommandRefused(f"{entry['name']}: {reason}", 503, dict(status))
    return all(entry["state"] == wanted for entry in named)
