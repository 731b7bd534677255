"""
This module has the interface between a request and the code that has it answered by somebody
else.
"""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import Attribute, Interface

from llmux.web.body import RequestBody
from llmux.web.reply_channel import IReplyChannel
from llmux.web.request_head import RequestHead

__all__ = ["ICaller"]


class ICaller(Interface):
    """
    An L{ICaller} is a complete request, as a proxy sees it, whichever Site it came through.
    """

    head: RequestHead = Attribute("What stands before the body.")
    body: RequestBody = Attribute("The body, which is closed when the request is over.")
    channel: IReplyChannel | None = Attribute(
        "Where the bytes of a reply may be written as they go out.  None: the reply must "
        "be written to the Request."
    )
    departed: Callable[[], None] | None = Attribute(
        "Called when the client leaves before its reply is complete.  It belongs to whoever "
        "holds the request's turn: to the turn while the request waits, then to whoever "
        "renders it.  The turn clears it at its end."
    )

    def set_body_aside() -> None:
        """
        Move a large body out of memory, if this frees memory, because the request is going to
        wait.

        @raise StorageFull: there is no room on disk; the body stays in memory.
        """

    def replace_body(body: RequestBody) -> None:
        """
        Give the request another body, which determines C{body}, and the content and
        Content-Length of the Request.

        @param body: a body that L{llmux.web.splicing.splice} has made of the present one.
        """

    def cut_off() -> None:
        """Close the client's connection at once, so that no reply looks complete."""
