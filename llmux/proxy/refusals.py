"""What the proxy refuses, and in which words."""

from __future__ import annotations

from llmux.errors import HookFailed, ModelNotFound, NotReady, SwitchError, SwitchTimeout
from llmux.web.error_reply import ApiError

__all__ = ["backend_error", "from_switch_error", "model_not_found", "no_model"]


def no_model() -> ApiError:
    """The request names none."""
    return ApiError(404, "No model specified in request", code="model_not_found", param="model")


def model_not_found(model: str) -> ApiError:
    """The request names one that is not configured."""
    return ApiError(404, f"Model not found: {model}", code="model_not_found", param="model")


def backend_error(reason: str) -> ApiError:
    """The model's backend did not answer; C{reason} says how, in a few words."""
    return ApiError(502, f"The model's backend did not answer: {reason}")


def from_switch_error(error: SwitchError) -> ApiError:
    """What the switcher's refusal means to a client."""
    message, retry_after = str(error), error.retry_after
    match error:
        case ModelNotFound():
            return model_not_found(error.model)
        case NotReady():
            return ApiError(503, message, "model_not_ready", retry_after=retry_after)
        case SwitchTimeout():
            return ApiError(504, message, "switch_timeout", retry_after=retry_after)
        case HookFailed():
            return ApiError(503, message, "hook_failed", retry_after=retry_after)
        case _:
            return ApiError(500, message, "internal_error", retry_after=retry_after)
