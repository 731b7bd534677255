"""
The paths that llmux answers itself, and the tree that leaves all others to
the models.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from llmux.monitoring.metrics import CONTENT_TYPE, Metrics
from llmux.proxy.refusals import model_not_found
from llmux.web.error_reply import ApiError, answer

__all__ = ["Root"]

_READING = (b"GET", b"HEAD")


class Root(Resource):
    """
    Our own paths, each where OpenAI or custom has it; every other path is the
    models' Resource's.
    """

    route_is_stable = True

    def __init__(self, models: Iterable[str], rest: IResource, metrics: Metrics) -> None:
        """
        @param models: the names of the models.
        @param rest: answers all other paths; a leaf.
        """
        Resource.__init__(self)
        self._rest = rest
        self._own: dict[bytes, IResource] = {
            b"health": _Document(b"application/json", b'{"status": "ok"}\n'),
            b"metrics": _Exposition(metrics),
            b"v1": _Version(_Models(models), rest),
        }

    def getChildWithDefault(self, path: bytes, request: Request) -> IResource:
        """See L{IResource.getChildWithDefault}."""
        own = self._own.get(path)
        if own is None or (own.isLeaf and request.postpath):
            return self._rest
        return own

    def render(self, request: IRequest) -> int | bytes:
        """The path ends here."""
        answered: int | bytes = self._rest.render(request)
        return answered


class _Version(Resource):
    """What is under /v1."""

    route_is_stable = True

    def __init__(self, models: IResource, rest: IResource) -> None:
        Resource.__init__(self)
        self._models = models
        self._rest = rest

    def getChildWithDefault(self, path: bytes, request: Request) -> IResource:
        return self._models if path == b"models" else self._rest

    def render(self, request: IRequest) -> int | bytes:
        answered: int | bytes = self._rest.render(request)
        return answered


class _ReadOnly(Resource):
    """Answers GET and HEAD, and says so to others."""

    isLeaf = True
    route_is_stable = True

    def render(self, request: Request) -> int:
        if request.method in _READING:
            self.read(request)
        else:
            request.setHeader(b"Allow", b", ".join(_READING))
            method = request.method.decode("ascii", "replace")
            answer(request, ApiError(405, f"{method} is not for this path: use GET."))
        return NOT_DONE_YET

    def read(self, request: Request) -> None:
        """Answer."""
        raise NotImplementedError

    def write(self, request: Request, content_type: bytes, body: bytes) -> None:
        """A whole reply, without its body to HEAD."""
        request.setHeader(b"Content-Type", content_type)
        request.setHeader(b"Content-Length", b"%d" % len(body))
        # A Request drops the body of a reply to HEAD itself.
        request.write(body)
        request.finish()


class _Document(_ReadOnly):
    """Always the same."""

    def __init__(self, content_type: bytes, body: bytes) -> None:
        Resource.__init__(self)
        self._content_type = content_type
        self._body = body

    def read(self, request: Request) -> None:
        self.write(request, self._content_type, self._body)


class _Exposition(_ReadOnly):
    """What Prometheus scrapes."""

    def __init__(self, metrics: Metrics) -> None:
        Resource.__init__(self)
        self._metrics = metrics

    def read(self, request: Request) -> None:
        self.write(request, CONTENT_TYPE.encode("ascii"), self._metrics.expose())


class _Models(_ReadOnly):
    """The models, as OpenAI lists them; below it each by its name, slashes and all."""

    # What it answers depends on what is left of the path.
    route_is_stable = False

    def __init__(self, models: Iterable[str]) -> None:
        Resource.__init__(self)
        self._models = {
            name: {"id": name, "object": "model", "created": 0, "owned_by": "llmux"}
            for name in sorted(models)
        }

    def read(self, request: Request) -> None:
        name = b"/".join(request.postpath or ()).decode("utf-8", "replace")
        if not name:
            listing = {"object": "list", "data": list(self._models.values())}
            self.write(request, b"application/json", json.dumps(listing).encode())
        elif name in self._models:
            self.write(request, b"application/json", json.dumps(self._models[name]).encode())
        else:
            answer(request, model_not_found(name))
