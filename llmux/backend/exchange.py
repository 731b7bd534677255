"""
This module has the interfaces between a backend's connections and the requests that go over
them.
"""

from __future__ import annotations

from twisted.web.iweb import IBodyProducer
from zope.interface import Attribute, Interface

from llmux.backend.reply import ReplyHead
from llmux.backend.template import Repeats

__all__ = ["IExchange", "IExchangeConnection"]


class IExchangeConnection(Interface):
    """An exchange calls the connection that carries it by these methods."""

    def pause() -> None:
        """Read nothing more from the backend until L{resume} is called."""

    def resume() -> None:
        """Read from the backend again."""

    def abort() -> None:
        """
        Close the connection at once, so that the backend stops working on the
        request.  The exchange is not called any more.
        """


class IExchange(Interface):
    """
    An exchange is one request and its reply.

    An exchange ends in one of two ways: L{failed} is called, once, or
    L{replied} or L{received} is called with C{ended} true.  Neither happens
    after the exchange has aborted its connection or was withdrawn from its
    backend.
    """

    connection: IExchangeConnection | None = Attribute(
        "The connection in use, from L{to_send} on until the exchange is over.  "
        "Set and cleared by the connection."
    )
    is_head: bool = Attribute("The request is a HEAD: its reply has no body.")
    repeats: Repeats = Attribute("Whether the request may be sent again.")

    def to_send() -> tuple[bytes, IBodyProducer | None]:
        """
        Return the request, which now goes out on C{connection}: its head, together with its
        body if that is in memory, and otherwise a producer of the body.  This method is called
        a second time if the request is begun anew.
        """

    def begun_anew() -> None:
        """
        Note that the request is about to be sent once more, on a new connection, because the
        first one was closed without a byte of a reply.  From now on C{repeats} must be
        L{Repeats.NEVER}, for this exchange and any later one of the same request.
        """

    def replied(head: ReplyHead, data: bytes, ended: bool) -> None:
        """
        Take the head of a final reply.

        @param data: the part of the body that came together with the head.
        @param ended: whether the reply is complete.
        """

    def received(data: bytes, ended: bool) -> None:
        """
        Take more of the reply's body, which may be empty.

        @param ended: whether the reply is complete.
        """

    def failed(reason: str, *, backend_in_doubt: bool) -> None:
        """
        End the exchange, because there will be no reply, or no more of it.

        @param reason: what went wrong, in a few words that may be sent to a client.
        @param backend_in_doubt: whether no byte of a reply has come, and the backend may have
            died.  False if the backend has begun to reply, or if the fault was not the
            backend's.
        """
