"""
This module has the interface between the Resource that gives requests their models and the
Resource that answers them.
"""

from __future__ import annotations

from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from zope.interface import Attribute, Interface

from llmux.switching.facts.model import InFlightGuard
from llmux.web.caller import ICaller
from llmux.web.error_reply import ApiError

__all__ = ["IGuardedResource", "ITurn"]


class ITurn(Interface):
    """
    A turn is one request's time at its backend: the request has a guard and has not been
    answered.

    Whoever renders the turn sets C{caller.departed} and C{guard.on_abort}, and ends the
    turn by calling one of L{end}, L{refuse}, L{cut_short} and L{unanswered}, once.
    """

    caller: ICaller = Attribute("The request, as a proxy sees it.")
    request: IRequest = Attribute("The same request, as twisted.web's Resources see it.")
    model: str = Attribute("The model that the request names.")
    guard: InFlightGuard = Attribute("The request's right to be in flight.")
    size: int = Attribute("Bytes of the reply's body so far.  Whoever renders it counts.")
    begun_anew: bool = Attribute(
        "The request has been begun a second time, or goes to its backend for the second "
        "time now: it must not be begun once more.  Whoever begins it anew sets this."
    )

    def reply_began(status: int) -> None:
        """
        Note that the first bytes of a reply with this status are about to be sent to the
        client.
        """

    def backend_in_doubt() -> None:
        """
        Note that the backend has answered in a way that makes its health doubtful, so that it
        is soon asked for its health.  The turn goes on.
        """

    def end(answered: bool = True, outcome: str = "client_left") -> None:
        """
        End the turn, because the exchange with the backend is over.

        @param answered: whether the whole reply of the backend has come.
        @param outcome: why the reply is not complete.
        """

    def refuse(error: ApiError) -> None:
        """
        End the turn, and answer with this error; no byte may have been sent to the client.
        """

    def cut_short(reason: str) -> None:
        """
        End the turn, because the backend failed after its reply had begun.  Whoever renders the
        turn closes the client's connection.

        @param reason: the reason in a few words, from a small set (it becomes a label of a
            metric).
        """

    def unanswered(reason: str) -> None:
        """
        End the turn, because the backend refused the connection, or closed it before the first
        byte of a reply; no byte may have been sent to the client.  The switcher decides whether
        the request waits for another turn (once) or is answered with 502.

        @param reason: the reason, in a few words that may be sent to the client.
        """


class IGuardedResource(IResource):
    """
    An L{IGuardedResource} releases the guard itself, because it knows when its backend has
    finished, which may be before the request ends.
    """

    def render_guarded(turn: ITurn) -> None:
        """
        Answer the request, and end the turn in one of the ways that L{ITurn} names.
        """
