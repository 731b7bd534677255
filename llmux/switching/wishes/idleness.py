"""
This module decides what happens when there is nothing to do: models go to sleep after some
time, and the default model is woken.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct
from twisted.internet.interfaces import IDelayedCall

from llmux.interfaces import Phase
from llmux.switching.facts.model import Model
from llmux.switching.stories.dismissal import Dismissal
from llmux.switching.stories.story import Stage
from llmux.switching.wishes.steering import Steering

__all__ = ["DefaultModel", "Idleness"]


class DefaultModel(Struct, frozen=True):
    """
    The default model is woken when there is nothing to do.

    @ivar after: after how many seconds in which no request was in flight or waited.
    """

    model: str
    after: float


class Idle(Stage, Protocol):
    """This protocol is what this module needs of the switcher, beyond what stories need."""

    @property
    def steering(self) -> Steering: ...

    def is_quiet(self) -> bool:
        """Tell whether nothing is in flight, no request waits, and no story runs."""


class Idleness:
    """
    L{Idleness} knows since when models have had nothing to do, if that matters.

    A timer runs for each model that serves and is to sleep when it is idle; when the
    timer fires, the time of the model's last request decides, so that requests set no
    timers.

    @ivar counts: whether L{emptied} must be called when a model has run out of requests.
    """

    def __init__(self, stage: Idle, default: DefaultModel | None) -> None:
        self._stage = stage
        self._default = default
        self.counts = default is not None or any(
            model.settings.idle_sleep is not None for model in stage.models.values()
        )
        self._idle_since: dict[str, float] = {}
        self._quiet_since = 0.0
        self._timers: dict[str, IDelayedCall] = {}
        self._default_timer: IDelayedCall | None = None
        self._ended = False

    def begin(self) -> None:
        """Begin to count, because the switcher knows which models are awake."""
        self._quiet_since = self._stage.clock.seconds()
        self._set_default_timer()

    def reconfigured(self, default: DefaultModel | None) -> None:
        """Apply other times of idleness, and another default model."""
        self._default = default
        models = self._stage.models.values()
        self.counts = default is not None or any(
            model.settings.idle_sleep is not None for model in models
        )
        now = self._stage.clock.seconds()
        for model in models:
            limit = model.settings.idle_sleep
            if limit is not None and model.phase is Phase.AWAKE:
                self._idle_since.setdefault(model.name, now)
                self._set_timer(model, limit)
        self._quiet_since = now
        self._set_default_timer()

    def serves(self, model: Model) -> None:
        """Begin to count for a model that takes requests from now on."""
        if not self.counts or self._ended:
            return
        now = self._stage.clock.seconds()
        self._idle_since[model.name] = now
        limit = model.settings.idle_sleep
        if limit is not None:
            self._set_timer(model, limit)

    def emptied(self, model: Model) -> None:
        """Note that the model has nothing in flight any more."""
        self._quiet_since = self._idle_since[model.name] = self._stage.clock.seconds()
        if self._default_timer is None:
            self._set_default_timer()

    def sleeps_at(self, model: Model) -> float | None:
        """
        Return the time at which the model goes to sleep unless a request comes; None if it does
        not.
        """
        limit = model.settings.idle_sleep
        if limit is None or model.phase is not Phase.AWAKE or model.guards:
            return None
        if self._is_held(model):
            return None
        return self._idle_since.get(model.name, model.woke_at) + limit

    def _is_held(self, model: Model) -> bool:
        return model.settings.always or any(
            pin.model == model.name for pin in self._stage.steering.pins
        )

    def _set_timer(self, model: Model, seconds: float) -> None:
        timer = self._timers.pop(model.name, None)
        if timer is not None and timer.active():
            timer.cancel()
        self._timers[model.name] = self._stage.clock.callLater(seconds, self._look, model)

    def _look(self, model: Model) -> None:
        del self._timers[model.name]
        if model.phase is not Phase.AWAKE:
            # The timer is set anew when the model serves again.
            return
        limit = model.settings.idle_sleep
        if limit is None:
            # The model was configured to sleep when idle, but is not any more.
            return
        left = limit
        if not (model.guards or model.busy or self._is_held(model)):
            left = self._idle_since[model.name] + limit - self._stage.clock.seconds()
        if left > 0.001:
            self._set_timer(model, left)
        else:
            Dismissal(self._stage, model, f"it has had nothing to do for {limit:g} s").begin()

    def _set_default_timer(self, seconds: float | None = None) -> None:
        if self._default_timer is not None:
            # A request may have ended, or the configuration changed, before L{begin}.
            self._default_timer.cancel()
            self._default_timer = None
        if self._default is not None and not self._ended:
            self._default_timer = self._stage.clock.callLater(
                self._default.after if seconds is None else seconds, self._look_at_default
            )

    def _look_at_default(self) -> None:
        self._default_timer = None
        default = self._default
        assert default is not None
        model = self._stage.models[default.model]
        left = self._quiet_since + default.after - self._stage.clock.seconds()
        if not self._stage.is_quiet():
            # The end of a request would set the timer, but that of a story that fails would
            # not.
            self._set_default_timer()
        elif left > 0.001:
            self._set_default_timer(left)
        elif model.phase is Phase.AWAKE:
            # The timer is set anew when a model runs out of requests.
            pass
        else:
            self._stage.steering.wake_if_quiet(model)
            self._set_default_timer()

    def forget(self, model: str) -> None:
        """Forget a model that does not exist any more."""
        self._idle_since.pop(model, None)
        timer = self._timers.pop(model, None)
        if timer is not None:
            timer.cancel()

    def end(self) -> None:
        """Cancel all timers, and set no more."""
        self._ended = True
        for timer in (*self._timers.values(), self._default_timer):
            if timer is not None and timer.active():
                timer.cancel()
        self._timers.clear()
        self._default_timer = None
