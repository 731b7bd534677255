"""
This module decides who may do what; one method gives each request its roles.

An address alone gives nobody control, because behind a reverse proxy on the same machine all
requests come from 127.0.0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.web.iweb import IRequest

from llmux.admin.listen_address import ListenAddress, Role
from llmux.admin.login import Login
from llmux.web.error_reply import ApiError

__all__ = ["Access", "Asker", "denied"]


@dataclass(frozen=True, slots=True)
class Asker:
    """
    An asker is whoever has sent a request.

    @ivar name: C{cookie} or C{socket}; None if the request shows nothing.
    @ivar roles: what the asker may do.
    """

    name: str | None
    roles: frozenset[Role]


class Access:
    """L{Access} gives roles to the requests that come in at one listen address."""

    def __init__(self, listen_address: ListenAddress, login: Login) -> None:
        self.listen_address = listen_address
        self._login = login

    def roles_of(self, request: IRequest) -> Asker:
        """
        Return the asker of a request, with the asker's roles.

        A cookie counts only if the request comes from a page of this llmux, or from no page,
        because a browser sends the cookie with the requests of every page from this host,
        whatever the port.
        """
        if self.listen_address.is_socket:
            return Asker("socket", frozenset(Role))
        cookie = request.getCookie(self._login.cookie_name.encode())
        if cookie is not None and _is_ours(request) and self._login.accepts_cookie(cookie):
            return Asker("cookie", frozenset(Role))
        return Asker(None, self.listen_address.roles())


def _is_ours(request: IRequest) -> bool:
    """
    Tell whether this request was sent by a page with the host and port that the request goes
    to, or by no page.
    """
    headers = request.requestHeaders
    origins = headers.getRawHeaders(b"origin", ())
    if not origins:
        return True
    hosts = headers.getRawHeaders(b"host", ())
    if len(origins) != 1 or len(hosts) != 1:
        return False
    scheme, _, authority = origins[0].lower().partition(b"://")
    return scheme in (b"http", b"https") and bool(authority) and authority == hosts[0].lower()


def denied(role: Role) -> ApiError:
    """Return the error for an asker who lacks this role."""
    if role is Role.CONTROL:
        return ApiError(
            403,
            "Commands are taken on llmux's Unix socket, or from a browser that has been let "
            "in: use the command line on the machine of llmux, or run: llmux open",
            "control_denied",
        )
    return ApiError(
        401,
        "This is shown on llmux's Unix socket, where llmux listens on this machine only, or "
        "to a browser that has been let in: run llmux open on the machine of llmux",
        "view_denied",
    )
