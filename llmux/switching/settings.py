"""What the owner of the machine wants of the switcher."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SwitchSettings"]


@dataclass(frozen=True, slots=True)
class SwitchSettings:
    """
    Times are in seconds; None means no limit.

    @ivar request_timeout: how long a request may wait for its model.
    @ivar drain_before_switch: let what is in flight finish first.
    @ivar min_active: how long a model stays awake at least.
    @ivar drain_timeout: how long a drain may take.
    @ivar shutdown_timeout: how long what is in flight has to finish when
        llmux stops; putting the awake model to sleep may take as long again.
    @ivar sleep_on_exit: put the awake model to sleep when llmux stops.
    """

    request_timeout: float | None = None
    drain_before_switch: bool = True
    min_active: float = 0.0
    drain_timeout: float | None = None
    shutdown_timeout: float = 30.0
    sleep_on_exit: bool = False
