"""This module runs a model's C{prepare} hook, beside a switch to the model."""

from __future__ import annotations

from twisted.logger import Logger

from llmux.interfaces import HookKind, IHookRunner, IRunningHook
from llmux.switching.facts.model import Model

__all__ = ["Preparation"]

_log = Logger()


class Preparation:
    """
    A preparation is the C{prepare} hook of one switch's target, if the target has such a hook.

    Nothing waits for the hook, and nothing depends on its result, which the hook runner logs.
    """

    def __init__(self, hooks: IHookRunner) -> None:
        self._hooks = hooks
        self._running: IRunningHook | None = None

    def begin(self, model: Model) -> None:
        """Start the hook of this model; the hook of another model is ended first."""
        self.end()
        if not model.settings.prepares:
            return
        try:
            self._running = self._hooks.start(model.name, HookKind.PREPARE)
        except Exception:
            _log.failure(
                "a defect in the hook runner: prepare hook of {model}", model=model.name
            )

    def end(self) -> None:
        """End the hook, because the switch is over, or has another target."""
        running, self._running = self._running, None
        if running is not None:
            running.kill()
