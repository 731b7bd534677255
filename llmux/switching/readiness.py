"""
This module tells whether llmux can do its work, for load balancers that send requests only to
servers that can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmux.scheduling import Amount, Phase
from llmux.switching.facts.model import Model
from llmux.switching.facts.settings import SwitchSettings
from llmux.switching.stories.shutdown import SHUTTING_DOWN

__all__ = ["reason_not_ready"]

_GRACE = 10.0
"""
A phase counts as stuck when its limit has been exceeded by this many seconds: a hook that runs
too long gets TERM, and KILL some seconds later.
"""


_CLEANED_UP_WITHIN = 30.0
"""
A model that may be awake is expected to be asleep after this many seconds, in which its sleep
hook has been tried some four times.
"""


def reason_not_ready(
    models: Iterable[Model],
    settings: SwitchSettings,
    now: float,
    stopping: bool,
    free: Callable[[str], Amount],
) -> str | None:
    """
    Return why requests should be sent elsewhere; None if llmux does its work.

    A model that wakes, drains or goes to sleep counts as work. llmux does not do its work if a
    phase is past its limit, or if no model is awake and none can be woken.

    @param free: a function that returns how much of a resource is free.
    """
    if stopping:
        return SHUTTING_DOWN
    models = list(models)
    if any(model.phase is Phase.UNKNOWN for model in models):
        return "llmux has just started and asks which models are awake"
    for model in models:
        limit = _limit(model, settings)
        if limit is not None and now - model.since > limit + _GRACE:
            return (
                f"{model.name} has been {model.phase.value} for {now - model.since:.0f} s, and "
                f"its limit is {limit:.0f} s"
            )
    stuck = [
        model.name
        for model in models
        if model.phase is Phase.UNCERTAIN and now - model.since > _CLEANED_UP_WITHIN
    ]
    if stuck and all(
        _cannot_serve(model, now) or _has_no_room(model, free) for model in models
    ):
        return (
            f"no model is awake, and none can be woken before the sleep script of {stuck[0]} "
            "succeeds"
        )
    if all(_cannot_serve(model, now) for model in models):
        return "no model is awake, and none can be woken now: each has failed"
    return None


def _limit(model: Model, settings: SwitchSettings) -> float | None:
    own = model.settings
    if model.phase is Phase.WAKING:
        return own.wake_timeout
    if model.phase is Phase.SLEEPING:
        return own.sleep_timeout * (2 if own.confirm_sleep else 1)
    if model.phase is Phase.CHECKING:
        return own.wake_timeout
    if model.phase is Phase.DRAINING:
        return settings.drain_timeout
    return None


def _cannot_serve(model: Model, now: float) -> bool:
    if model.phase is Phase.UNCERTAIN:
        return True
    return model.phase is Phase.ASLEEP and model.wake_backoff.until > now


def _has_no_room(model: Model, free: Callable[[str], Amount]) -> bool:
    return model.phase is Phase.ASLEEP and not any(
        all(free(name) >= amount for name, amount in needs.items())
        for needs in model.settings.places
    )
