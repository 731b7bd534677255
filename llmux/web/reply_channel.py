"""The seam between our channel and what writes replies to it."""

from __future__ import annotations

from twisted.internet.interfaces import IPushProducer
from twisted.web.iweb import IRequest
from zope.interface import Attribute, Interface

__all__ = ["IReplyChannel"]


class IReplyChannel(Interface):
    """
    What our own channel offers beyond twisted.web's: a reply written as the
    very bytes that go out.  One reply at a time, between C{begin_reply} and
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
        This request is answered by C{write_reply} from here on.

        @param producer: paused while more than 64 KiB wait for the client;
            resumed when they have gone; stopped when the client leaves.
        """

    def write_reply(data: bytes) -> None:
        """Send, at once if nothing is queued (no trip through the reactor's writers)."""

    def unsent() -> int:
        """How many bytes the client has yet to take, as far as can be seen from here."""

    def end_reply(request: IRequest) -> None:
        """The reply is whole: go on with the next request, or close."""

    def abort_reply(request: IRequest) -> None:
        """Close the connection uncleanly, so that no reply looks complete that is not."""
