"""This module has the interface between our channel and the code that writes replies to it."""

from __future__ import annotations

from twisted.internet.interfaces import IPushProducer
from twisted.web.iweb import IRequest
from zope.interface import Attribute, Interface

__all__ = ["IReplyChannel"]


class IReplyChannel(Interface):
    """
    Our own channel offers this interface in addition to twisted.web's: a reply is written as
    the bytes that are sent.  Only one reply is written at a time, between C{begin_reply} and
    C{end_reply} or C{abort_reply}.
    """

    client_is_http_1_0: bool = Attribute("No chunked encoding for this request.")
    keeps_alive: bool = Attribute(
        "The connection will carry another request: no C{Connection: close} is due, and to "
        "a client of HTTP/1.0 C{Connection: keep-alive} is.  Set it to False to have "
        "C{end_reply} close: for a reply whose end is the end of the connection."
    )

    def begin_reply(request: IRequest, producer: IPushProducer) -> None:
        """
        Begin the reply to this request, which C{write_reply} continues.

        @param producer: the producer of the reply, which is paused while more than 64 KiB wait
            for the client, resumed when they have been sent, and stopped when the client
            leaves.
        """

    def write_reply(data: bytes) -> None:
        """Send these bytes; at once, without the reactor's writers, if nothing is queued."""

    def unsent() -> int:
        """
        Return how many bytes the client has not taken yet, as far as can be seen in this
        process.
        """

    def end_reply(request: IRequest) -> None:
        """End the reply, and go on with the next request, or close the connection."""

    def abort_reply(request: IRequest) -> None:
        """Abort the connection, so that a reply that is not complete does not look complete."""
