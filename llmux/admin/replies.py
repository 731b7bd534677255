"""
This module has what all Resources under C{/llmux/} have in common: who may ask, by which
method, and how the answer is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import msgspec
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from llmux.admin.listen_address import Role
from llmux.admin.roles import Access, Asker, denied
from llmux.web.error_reply import ApiError

__all__ = ["AdminResource", "RefusalSink", "send", "send_json"]


class RefusalSink(Protocol):
    """
    Errors are sent and logged by a L{RefusalSink}, which is
    L{RefusalLog<llmux.proxy.refusals.RefusalLog>} in llmux.
    """

    def answer(self, request: IRequest, error: ApiError) -> None:
        """Answer a request with this error, and log it; no answer may have been sent before."""


def send(
    request: Request,
    content_type: bytes,
    body: bytes,
    status: int = 200,
    headers: Mapping[bytes, bytes] | None = None,
) -> None:
    """Send a whole body, which no cache may keep."""
    request.setResponseCode(status)
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    for name, value in (headers or {}).items():
        request.setHeader(name, value)
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    # The Request itself drops the body of a reply to HEAD.
    request.write(body)
    request.finish()


def send_json(request: Request, document: Mapping[str, Any], status: int = 200) -> None:
    """Send a JSON object, whose first key is C{schema}."""
    body = msgspec.json.encode({"schema": 1, **document}) + b"\n"
    send(request, b"application/json", body, status)


class AdminResource(Resource):
    """
    This Resource is the base of all under C{/llmux/}: other methods are refused with 405, and
    askers without the role with 401 or 403.

    @cvar methods: the methods that L{answer} is called for.
    @cvar role: the role that the asker must have; None if anybody may ask.
    """

    isLeaf = True
    route_is_stable = True
    methods: ClassVar[tuple[bytes, ...]] = (b"GET", b"HEAD")
    role: ClassVar[Role | None] = Role.VIEW

    def __init__(self, access: Access, refusals: RefusalSink) -> None:
        Resource.__init__(self)
        self.access = access
        self.refusals = refusals

    def render(self, request: Request) -> int:
        """Answer a request if it is allowed; refuse it otherwise."""
        if request.method not in self.methods:
            allowed = b", ".join(self.methods)
            request.setHeader(b"Allow", allowed)
            method = request.method.decode("ascii", "replace")
            self.refuse(
                request,
                ApiError(405, f"{method} is not for this path: use {allowed.decode()}."),
            )
            return NOT_DONE_YET
        asker = self.access.roles_of(request)
        if self.role is not None and self.role not in asker.roles:
            self.deny(request, denied(self.role))
        else:
            self.answer(request, asker)
        return NOT_DONE_YET

    def answer(self, request: Request, asker: Asker) -> None:
        """Answer a request whose asker has the role."""
        raise NotImplementedError

    def deny(self, request: Request, error: ApiError) -> None:
        """Refuse a request whose asker lacks the role."""
        self.refuse(request, error)

    def refuse(self, request: Request, error: ApiError) -> None:
        """Answer with an error, and log the error."""
        request.setHeader(b"Cache-Control", b"no-store")
        self.refusals.answer(request, error)
