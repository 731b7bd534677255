"""
This module makes the answer to a request that names no model, which says what is wrong with the
request.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from twisted.web.iweb import IRequest

from llmux.backend.template import EXPECT_A_BODY
from llmux.proxy.model_name.form import FORM_TYPE
from llmux.proxy.model_name.lenient import BLANKS, without_mark
from llmux.web.body import RequestBody
from llmux.web.error_reply import ApiError

__all__ = ["OUR_PATHS", "explain_missing_model"]

OUR_PATHS = ("GET /v1/models", "GET /health", "GET /ready", "GET /metrics")
"""Clients are told that llmux itself answers these paths."""

_LOOKED_AT = 64 * 1024
"""
A body of up to this many bytes is parsed to explain what is wrong, which takes less than 10 ms.
"""

_NAMED = 10
"""A message names this many models."""

_WIDE = (b"\xff\xfe", b"\xfe\xff")
_KINDS = {bool: "true or false", int: "a number", float: "a number", list: "a list"}


def explain_missing_model(
    request: IRequest, body: RequestBody, models: Iterable[str]
) -> ApiError:
    """
    Return the answer to a request in whose body no model's name was found: 404 with the paths
    that exist if there is no body, else 400 with what is wrong.

    @param models: the names that the request could have given.
    """
    names = sorted(models)
    known = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    if not body.length:
        if request.method not in EXPECT_A_BODY:
            return _nothing_here(request, known)
        return _bad(f"The request has no body. Send JSON whose `model` is one of: {known}.")
    return _bad(f"{_fault(request, body)} `model` must be one of: {known}.")


def _nothing_here(request: IRequest, known: str) -> ApiError:
    method = request.method.decode("ascii", "replace")
    path = request.uri[:200].decode("ascii", "backslashreplace")
    return ApiError(
        404,
        f"There is nothing at {method} {path}. Here are {', '.join(OUR_PATHS)}; and any "
        f"request whose JSON body names a `model` goes to that model: {known}.",
    )


def _bad(message: str) -> ApiError:
    return ApiError(400, message, code="model_not_specified", param="model")


def _fault(request: IRequest, body: RequestBody) -> str:
    """Return what is wrong, as a sentence."""
    coding = (request.getHeader(b"content-encoding") or b"").strip()
    if coding and coding.lower() != b"identity":
        return f"The body is {_shown(coding)}, which is not understood here: send it as it is."
    content_type = (request.getHeader(b"content-type") or b"").partition(b";")[0]
    content_type = content_type.strip().lower()
    start = body.piece(0, _LOOKED_AT)
    text = without_mark(start).lstrip(BLANKS)
    if start.startswith(_WIDE) or start[1:2] == b"\0" or start[:1] == b"\0":
        return "The body is UTF-16 or UTF-32: send JSON in UTF-8."
    if not text.startswith(b"{"):
        if content_type == FORM_TYPE:
            return "The form has no field `model`."
        if content_type == b"application/x-www-form-urlencoded" and not text.startswith(b"["):
            return "A form of this kind is not understood here: send JSON."
    if body.length > _LOOKED_AT:
        return "The body is no JSON object with a `model`, or it is not valid JSON."
    return _fault_of_json(text)


def _fault_of_json(text: bytes) -> str:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        hint = ""
        if text.startswith((b"{'", b"{ '")):
            hint = " (strings need double quotes)"
        where = f"column {error.colno}"
        if error.lineno > 1:
            where = f"line {error.lineno}, {where}"
        return f"The body is no JSON at {where}: {error.msg[:1].lower()}{error.msg[1:]}{hint}."
    except UnicodeDecodeError as error:
        return f"The body is no JSON: byte {error.start} is not UTF-8."
    except (RecursionError, ValueError):
        return "The body is no JSON that can be read here: it is nested too deeply."
    if not isinstance(document, dict):
        kind = "null" if document is None else _KINDS.get(type(document), "a string")
        return f"The body is {kind}, and no JSON object."
    if "model" not in document:
        return "The body has no `model`."
    model = document["model"]
    if isinstance(model, str):
        return "The body's `model` cannot be read."
    kind = "null" if model is None else _KINDS.get(type(model), "an object")
    return f"The body's `model` is {kind}, and no string."


def _shown(value: bytes) -> str:
    return ascii(value[:40].decode("latin-1"))[1:-1]
