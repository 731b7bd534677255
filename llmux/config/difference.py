"""
This module says what differs between two configurations, and when each difference takes effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from llmux.config.values import Config, ModelConfig

__all__ = ["differences", "differs_at_wake"]

_AT_NEXT_WAKE = frozenset(
    {
        "alive",
        "alive_timeout_secs",
        "check_secs",
        "confirm_sleep",
        "health",
        "host",
        "port",
        "prepare",
        "serve",
        "sleep",
        "sleep_timeout_secs",
        "stop_secs",
        "wake",
        "wake_timeout_secs",
    }
)
"""
A model that is awake keeps the values of these keys with which it was woken, until it sleeps.
"""

_NEXT_DECISION = "for what is decided next"

_TOP = {
    "host": "the new address is open, the old one takes no more connections",
    "port": "the new address is open, the old one takes no more connections",
    "listen": "the new address is open, the old one takes no more connections",
    "resources": _NEXT_DECISION,
    "preload": "when a pause ends",
    "max_body_mb": "for connections made from now on",
}
_MODEL = {
    "needs": f"{_NEXT_DECISION}; what is awake keeps its room until it sleeps",
    "keep": "now",
    "idle_sleep_secs": "now",
    "weight": _NEXT_DECISION,
}
_NOT_KEYS = frozenset({"directory", "file", "models", "policy", "admin"})


def differences(before: Config, after: Config, awake: Iterable[str] = ()) -> list[str]:
    """
    Describe the differences, one line each: C{+ MODEL}, C{- MODEL: ...}, C{~ KEY: from when
    on}.

    @param awake: the models that are not asleep.
    """
    return list(_differences(before, after, frozenset(awake)))


def _differences(before: Config, after: Config, awake: frozenset[str]) -> Iterator[str]:
    for name in after.models:
        if name not in before.models:
            yield f"+ {name}: alive is asked"
    for name in before.models:
        if name not in after.models:
            yield (
                f"- {name}: its requests finish, then it is put to sleep"
                if name in awake
                else f"- {name}"
            )
    for name, model in after.models.items():
        if name in before.models:
            for key in _changed(before.models[name], model):
                yield f"~ {name}.{key}: {_of_model(key, name in awake)}"
    if before.policy.name != after.policy.name:
        yield f"~ policy.name: {after.policy.name} decides from now on"
    else:
        for key in _changed(before.policy, after.policy, {"name"}):
            if key != "settings":
                yield f"~ policy.{key}: {_NEXT_DECISION}"
                continue
            for own in _changed_settings(before.policy.settings, after.policy.settings):
                yield f"~ policy.{own}: {_NEXT_DECISION}"
    for key in _changed(before, after, _NOT_KEYS):
        yield f"~ {key}: {_TOP.get(key, 'now')}"


def differs_at_wake(before: ModelConfig, after: ModelConfig) -> bool:
    """Tell whether a model that is awake was woken with something that has changed."""
    return any(key in _AT_NEXT_WAKE or key == "needs" for key in _changed(before, after))


def _of_model(key: str, is_awake: bool) -> str:
    if key in _AT_NEXT_WAKE:
        return "at its next wake" if is_awake else "now"
    if key == "needs" and not is_awake:
        return _NEXT_DECISION
    return _MODEL.get(key, "for its next request")


def _changed(before: Any, after: Any, but: Iterable[str] = ()) -> Iterator[str]:
    for key in after.__struct_fields__:
        if key not in but and getattr(before, key) != getattr(after, key):
            yield key


def _changed_settings(before: Any, after: Any) -> Iterator[str]:
    if before is None or after is None:
        yield "settings"
        return
    old: Mapping[str, Any] = msgspec.structs.asdict(before)
    for key, value in msgspec.structs.asdict(after).items():
        if old.get(key) != value:
            yield key
