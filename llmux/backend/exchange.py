"""
The seam between a backend's connections and what is sent over them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

from llmux.backend.reply import ReplyHead
from llmux.backend.template import Repeats

if TYPE_CHECKING:
    from llmux.backend.connection import BackendConnection

__all__ = ["IExchange"]


class IExchange(Interface):
    """
    One request and its reply.

    Either L{failed} is called, once, or L{replied} or L{received} with
    C{ended} true; neither once the exchange has aborted its connection or
    withdrawn from its backend.
    """

    connection: BackendConnection | None = Attribute(
        "The connection in use, from L{connected} on until the exchange is over.  "
        "Set and cleared by the connection."
    )
    is_head: bool = Attribute("The request is a HEAD: its reply has no body.")
    repeats: Repeats = Attribute("Whether the request may be sent again.")

    def connected() -> None:
        """
        C{connection} is ours: send the request on it.  Called once more if
        that connection turns out to have been dead.
        """

    def replied(head: ReplyHead, data: bytes, ended: bool) -> None:
        """
        A final reply has begun.

        @param data: what came of the body together with the head.
        @param ended: that was all.
        """

    def received(data: bytes, ended: bool) -> None:
        """
        More of the body (or nothing).

        @param ended: that was all: the reply is whole.
        """

    def failed(reason: str, heard: bool) -> None:
        """
        There will be no reply, or no more of it.

        @param reason: a few words fit for a client.
        @param heard: the backend had begun to reply, or is not at fault: there is
            no reason to doubt that it lives.
        """
