"""This module has the errors that say why a request got no guard."""

from __future__ import annotations

__all__ = [
    "HookFailed",
    "ModelNotFound",
    "ModelPinned",
    "NotReady",
    "Paused",
    "SwitchError",
    "SwitchTimeout",
]


class SwitchError(Exception):
    """
    The switcher cannot give a guard to a request.  The error's message may be sent to a client.

    @ivar model: the model that was asked for.
    @ivar retry_after: after how many seconds a new try makes sense; None if that is not known.
    """

    def __init__(self, model: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.model = model
        self.retry_after = retry_after


class ModelNotFound(SwitchError):
    """No configured model has this name."""

    def __init__(self, model: str) -> None:
        super().__init__(model, f"Model not found: {model}")


class NotReady(SwitchError):
    """The model cannot be used now, because llmux is stopping."""


class Paused(SwitchError):
    """Switching is paused, and requests that would have to wait are refused."""

    def __init__(self, model: str, seconds_left: float | None = None) -> None:
        super().__init__(
            model,
            f"Model {model} is not awake, and llmux is paused by its operator",
            seconds_left,
        )


class ModelPinned(SwitchError):
    """Another model is pinned, and requests for models that need its room are refused."""

    def __init__(self, model: str, pinned: str, seconds_left: float | None = None) -> None:
        super().__init__(
            model,
            f"Model {model} is not awake, and {pinned} is pinned by the operator of llmux",
            seconds_left,
        )


class SwitchTimeout(SwitchError):
    """The request has waited longer than C{request_timeout_secs}."""

    def __init__(self, model: str, timeout: float) -> None:
        super().__init__(
            model, f"Timed out after {timeout:g} s waiting for model {model} to be ready"
        )


class HookFailed(SwitchError):
    """A hook has failed while the model was being woken, or made room for."""
