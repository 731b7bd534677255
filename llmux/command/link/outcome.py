"""This module finds out whether what a command has begun has been completed."""

from __future__ import annotations

from collections.abc import Mapping

from llmux.command.link.daemon_link import CommandRefused
from llmux.command.words.sentence import Status

__all__ = ["Moment", "is_done", "moment_of"]

Moment = Mapping[str, int]
"""A L{Moment} is how many tries of each model had failed when a command was given."""


def moment_of(status: Status) -> Moment:
    """Return what L{is_done} needs to know of the time before the command."""
    return {model["name"]: _tries(model) for model in status["models"]}


def _tries(model: Status) -> int:
    backoff = model.get("backoff")
    return int(backoff.get("tries") or 1) if backoff else 0


def is_done(wanted: str, model: str | None, before: Moment, status: Status) -> bool:
    """
    Tell whether a command has been carried out.

    @param wanted: the state that the command asks for: C{awake} or C{asleep}.
    @param model: the model that the command was for; None for all models.
    @param before: what L{moment_of} returned before the command.
    @raise CommandRefused: a model has failed since the command was given.
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
