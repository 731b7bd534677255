"""
This module describes the addresses where llmux listens, as far as rights depend on them.

The module imports nothing of llmux, because each start of llmux imports it.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["ListenAddress", "Role"]


class Role(Enum):
    """A role says what somebody may do."""

    INFER = "infer"
    """Somebody with this role may use models."""
    VIEW = "view"
    """Somebody with this role may see the status, the events, the page and the metrics."""
    CONTROL = "control"
    """Somebody with this role may give commands."""


class ListenAddress:
    """
    A listen address is where clients or operators connect to llmux, as far as rights depend on
    that.

    @ivar is_socket: whether the address is the Unix socket that only the owner of the process
        can open; all who come there have every role.
    @ivar is_private: whether only users of this machine can reach the address, because it is a
        loopback address or a Unix socket.
    @ivar is_for_viewing: whether the address was opened for viewing (C{admin.listen}); all who
        come there may view.
    @ivar has_admin: whether the paths under C{/llmux/} are served at this address.
    @ivar url: the URL by which a browser on this machine reaches the address; None if no
        browser can.
    """

    __slots__ = ("has_admin", "is_for_viewing", "is_private", "is_socket", "url")

    def __init__(
        self,
        *,
        is_socket: bool = False,
        is_private: bool = False,
        is_for_viewing: bool = False,
        has_admin: bool = True,
    ) -> None:
        self.is_socket = is_socket
        self.is_private = is_private
        self.is_for_viewing = is_for_viewing
        self.has_admin = has_admin
        self.url: str | None = None

    def roles(self) -> frozenset[Role]:
        """Return the roles of somebody who shows neither a key nor a cookie."""
        if self.is_socket:
            return frozenset(Role)
        if self.is_private or self.is_for_viewing:
            return frozenset({Role.INFER, Role.VIEW})
        return frozenset({Role.INFER})
