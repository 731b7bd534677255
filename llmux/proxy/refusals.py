"""This module has the errors with which llmux itself answers, and the log of these errors."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IRequest

from llmux.errors import (
    HookFailed,
    ModelNotFound,
    ModelPinned,
    NotReady,
    Paused,
    SwitchError,
    SwitchTimeout,
)
from llmux.web.error_reply import ApiError, answer

__all__ = [
    "BodyNotEdited",
    "RefusalLog",
    "backend_error",
    "cancelled",
    "cut_short",
    "from_switch_error",
    "model_not_found",
    "refusal_to_wait",
]

_RETRY_AFTER = 5.0
"""A client is told to wait for this many seconds if nothing better is known."""

_LONGEST_RETRY = 60.0
"""
A client is told at most this many seconds, because some clients give up if they are told a
longer time.
"""

ONLY_IF = b"x-llmux-only-if"
_LENGTH = len(ONLY_IF)

_LINES = 10
_INTERVAL = 1.0
"""In this many seconds at most L{_LINES} errors are logged; the others are counted."""

_LONGEST = 300
"""
This many characters of a path or a reason are logged, because both may be the client's own
words.
"""

_REFUSED = "{status} for {path}: {reason}"
_REFUSED_OF_MODEL = "{status} for {path} (model {model}): {reason}"


class BodyNotEdited(Exception):
    """
    The body cannot be changed as its model's configuration asks.

    @ivar error: the error that the client gets.
    """

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


def model_not_found(model: str) -> ApiError:
    """Return the error for a request that names a model which is not configured."""
    return ApiError(404, f"Model not found: {model}", code="model_not_found", param="model")


def refusal_to_wait(headers: Iterable[tuple[bytes, bytes]], model: str) -> ApiError | None:
    """
    Return the error for a request whose model is not awake, and whose header C{X-LLMux-Only-If}
    says that no model is to be woken for it; None if the request may wait.
    """
    for name, value in headers:
        if len(name) != _LENGTH or name.lower() != ONLY_IF:
            continue
        if value.strip().lower() == b"awake":
            return ApiError(409, f"Model {model} is not awake.", "model_asleep", param="model")
        return ApiError(
            400, 'X-LLMux-Only-If has one value: "awake".', "invalid_header", param=None
        )
    return None


def backend_error(reason: str) -> ApiError:
    """
    Return the error for a request that the model's backend did not answer; C{reason} says how,
    in a few words.
    """
    return ApiError(502, f"The model's backend did not answer: {reason}")


def cut_short(reason: str) -> ApiError:
    """Return the error for a request that llmux aborted before its backend had answered."""
    return ApiError(
        503, f"The request was cut short: {reason}", "aborted", retry_after=_RETRY_AFTER
    )


def cancelled() -> ApiError:
    """
    Return the error for a request that an operator has cancelled.  With this status, client
    libraries do not retry.
    """
    return ApiError(410, "An operator has cancelled this request.", "cancelled")


def from_switch_error(error: SwitchError) -> ApiError:
    """Return the error for a client that corresponds to an error of the switcher."""
    message, retry_after = str(error), error.retry_after
    # A client that gets a 503 is told when to try again.
    soon = _RETRY_AFTER if retry_after is None else retry_after
    match error:
        case ModelNotFound():
            return model_not_found(error.model)
        case NotReady():
            return ApiError(503, message, "model_not_ready", retry_after=soon)
        case SwitchTimeout():
            return ApiError(504, message, "switch_timeout", retry_after=retry_after)
        case Paused():
            return ApiError(503, message, "paused", retry_after=min(soon, _LONGEST_RETRY))
        case ModelPinned():
            return ApiError(503, message, "model_pinned", retry_after=min(soon, _LONGEST_RETRY))
        case HookFailed():
            return ApiError(503, message, "hook_failed", retry_after=soon)
        case _:
            return ApiError(500, message, "internal_error", retry_after=retry_after)


class RefusalLog:
    """
    A L{RefusalLog} logs the errors that clients get, and replies that are cut off: one line for
    each, as long as there are not too many.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._until = 0.0
        self._room = 0
        self._left_out = 0
        self._timer: IDelayedCall | None = None

    def answer(self, request: IRequest, error: ApiError, model: str = "") -> None:
        """
        Answer a request, which has not been answered yet, with this error, and log the error.

        @param model: the model that the request names, if it is known.
        """
        self.refused(error, request.path, model)
        answer(request, error)

    def refused(self, error: ApiError, path: bytes, model: str = "") -> None:
        """Log an error that a request for C{path} gets."""
        if self._may_log():
            self._log.info(
                _REFUSED_OF_MODEL if model else _REFUSED,
                event="request_refused",
                status=error.status,
                path=_shown(path),
                model=model,
                reason=error.message[:_LONGEST],
            )

    def cut_off(self, reason: str, path: bytes, model: str) -> None:
        """Log that a reply was aborted after it had begun."""
        if self._may_log():
            self._log.info(
                "reply cut off for {path} (model {model}): {reason}",
                event="reply_cut_off",
                path=_shown(path),
                model=model,
                reason=reason,
            )

    def _may_log(self) -> bool:
        now = self._clock.seconds()
        if now >= self._until:
            self._until = now + _INTERVAL
            self._room = _LINES
        if self._room:
            self._room -= 1
            return True
        self._left_out += 1
        if self._timer is None:
            self._timer = self._clock.callLater(self._until - now, self._tell_left_out)
        return False

    def _tell_left_out(self) -> None:
        self._timer = None
        count, self._left_out = self._left_out, 0
        self._log.info(
            "{count} more requests were refused or cut off within a second",
            event="refusals_left_out",
            count=count,
        )


def _shown(path: bytes) -> str:
    return path[:_LONGEST].decode("ascii", "backslashreplace")
