"""
Listeners, as far as rights depend on them.

This module imports nothing of llmux: each start needs it.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Door", "Role"]


class Role(Enum):
    """What somebody may do."""

    INFER = "infer"
    """Use models."""
    VIEW = "view"
    """See the status, the events, the page and the metrics."""
    CONTROL = "control"
    """Give commands."""


class Door:
    """
    A listener, as far as rights depend on it.

    @ivar is_socket: the door is the Unix socket that only the owner of the process
        can open: control.
    @ivar is_private: nobody but this machine's users reaches the door: a
        loopback address, or a Unix socket.
    @ivar is_for_viewing: the door was opened for those who look
        (C{admin.listen}): view, whoever comes.
    @ivar has_admin: what lies under C{/llmux/} is behind this door.
    @ivar url: how a browser on this machine gets to the door; None if none can.
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
        """The roles of somebody who shows neither a key nor a cookie."""
        if self.is_socket:
            return frozenset(Role)
        if self.is_private or self.is_for_viewing:
            return frozenset({Role.INFER, Role.VIEW})
        return frozenset({Role.INFER})
