"""This module has the tree of Resources under C{/llmux/}, as one listen address serves it."""

from __future__ import annotations

from typing import Any

from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from llmux.admin.administration import Administration
from llmux.admin.command_resource import CommandResource
from llmux.admin.listen_address import ListenAddress
from llmux.admin.page_resource import PageResource
from llmux.admin.roles import Access
from llmux.admin.views import (
    EventsView,
    HistoryView,
    LogView,
    RequestsView,
    StatusView,
    WhoamiView,
)
from llmux.similar_names import most_similar
from llmux.web.error_reply import ApiError

__all__ = ["AdminTree"]


class AdminTree(Resource):
    """An L{AdminTree} is the root of the Resources under C{/llmux/}."""

    route_is_stable = True

    def __init__(self, administration: Administration, listen_address: ListenAddress) -> None:
        Resource.__init__(self)
        self._refusals = administration.refusals
        access = Access(listen_address, administration.login)
        parts = (access, administration.refusals)
        page = PageResource(*parts, administration.login, administration.status)
        self._paths: dict[bytes, IResource] = {
            b"": page,
            b"status": StatusView(access, administration),
            b"events": EventsView(access, administration),
            b"requests": RequestsView(access, administration),
            b"history": HistoryView(access, administration),
            b"log": LogView(access, administration),
            b"whoami": WhoamiView(access, administration),
        }
        for verb in administration.verbs.values():
            self._paths[verb.name.encode()] = CommandResource(*parts, administration, verb)

    def getChildWithDefault(self, path: bytes, request: Request) -> IResource:
        """See L{IResource.getChildWithDefault}."""
        found = self._paths.get(path)
        if found is None or request.postpath:
            return _Missing(self._refusals, self._paths)
        return found

    def render(self, request: Request) -> int:
        """Redirect C{/llmux} to C{/llmux/}."""
        request.setHeader(b"Location", b"/llmux/")
        request.setHeader(b"Content-Length", b"0")
        request.setResponseCode(308)
        request.finish()
        return NOT_DONE_YET


class _Missing(Resource):
    """This Resource answers 404 for a path that does not exist under C{/llmux/}."""

    isLeaf = True

    def __init__(self, refusals: Any, paths: dict[bytes, IResource]) -> None:
        Resource.__init__(self)
        self._refusals = refusals
        self._paths = paths

    def render(self, request: Request) -> int:
        asked = request.path.decode("ascii", "replace").removeprefix("/llmux/")
        near = most_similar(asked, [path.decode() for path in self._paths])
        hint = f" Did you mean /llmux/{near}?" if near else ""
        self._refusals.answer(request, ApiError(404, f"There is no /llmux/{asked[:80]}.{hint}"))
        return NOT_DONE_YET
