"""This module limits how long a model drains, if the configuration limits that."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall

from llmux.switching.facts.model import Model
from llmux.switching.stories.story import Stage, log

__all__ = ["DrainLimit"]


class DrainLimit:
    """
    A drain limit aborts the requests in flight to one model when the model has drained for
    C{drain_timeout}.

    A model with nothing in flight is limited too, because the policy may admit requests while
    other victims of the same switch drain.
    """

    def __init__(self, stage: Stage, model: Model) -> None:
        self._stage = stage
        self._model = model
        self._timer: IDelayedCall | None = None
        settings = stage.settings
        if settings.drain_timeout is not None and settings.drain_before_switch:
            self._begin(settings.drain_timeout)

    def _begin(self, seconds: float) -> None:
        self._timer = self._stage.clock.callLater(seconds, self._expired, seconds)

    def _expired(self, limit: float) -> None:
        self._timer = None
        model = self._model
        if not model.guards:
            self._begin(limit)
            return
        log.warn(
            "{model} has drained for {timeout_secs} s: aborting {count} exchanges",
            event="drain_timeout",
            model=model.name,
            timeout_secs=limit,
            count=len(model.guards),
        )
        self._stage.abort_exchanges(
            model, f"model {model.name} was drained for {limit:g} s", "drain_timeout"
        )

    def cancel(self) -> None:
        """Limit the drain no more, because it is over."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
