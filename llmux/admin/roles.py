"""
Who may do what: the one function that gives a request its roles.

A mere address gives nobody control: behind a reverse proxy on the same machine
everybody comes from 127.0.0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.web.iweb import IRequest

from llmux.admin.doors import Door, Role
from llmux.admin.login import Login
from llmux.web.error_reply import ApiError

__all__ = ["Access", "Asker", "denied"]


@dataclass(frozen=True, slots=True)
class Asker:
    """
    Whoever has sent a request.

    @ivar name: the key's name, C{cookie} or C{socket}; None for anybody.
    @ivar roles: what the asker may do.
    """

    name: str | None
    roles: frozenset[Role]


class Access:
    """The rights of requests that come in by one door."""

    def __init__(self, door: Door, login: Login) -> None:
        self.door = door
        self._login = login

    def roles_of(self, request: IRequest) -> Asker:
        """
        Give the asker of a request, and the asker's roles.  (Keys will be looked
        up here.)

        A cookie counts only if the request comes from a page of our own, or from
        no page: browsers send it from every port of this host.
        """
        if self.door.is_socket:
            return Asker("socket", frozenset(Role))
        cookie = request.getCookie(self._login.cookie_name.encode())
        if cookie is not None and _is_ours(request) and self._login.accepts_cookie(cookie):
            return Asker("cookie", frozenset(Role))
        return Asker(None, self.door.roles())


def _is_ours(request: IRequest) -> bool:
    """Whether no page has sent this request, or one of the same scheme-less origin."""
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
    """The error for somebody who lacks this role, where there are no keys."""
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
