"""This module has the base of Resources that can only be read."""

from __future__ import annotations

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from llmux.proxy.refusals import RefusalLog
from llmux.web.error_reply import ApiError

__all__ = ["ReadOnly"]

_READING = (b"GET", b"HEAD")


class ReadOnly(Resource):
    """This Resource answers GET and HEAD, and refuses other methods with 405."""

    isLeaf = True
    route_is_stable = True

    def __init__(self, refusals: RefusalLog) -> None:
        Resource.__init__(self)
        self._refusals = refusals

    def render(self, request: Request) -> int:
        if request.method in _READING:
            self.read(request)
        else:
            request.setHeader(b"Allow", b", ".join(_READING))
            method = request.method.decode("ascii", "replace")
            self._refusals.answer(
                request, ApiError(405, f"{method} is not for this path: use GET.")
            )
        return NOT_DONE_YET

    def read(self, request: Request) -> None:
        """Answer a GET or HEAD request."""
        raise NotImplementedError

    def write(self, request: Request, content_type: bytes, body: bytes) -> None:
        """Write a whole reply; a reply to HEAD has no body."""
        request.setHeader(b"Content-Type", content_type)
        request.setHeader(b"Content-Length", b"%d" % len(body))
        # The Request itself drops the body of a reply to HEAD.
        request.write(body)
        request.finish()
