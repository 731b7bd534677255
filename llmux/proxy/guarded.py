"""
The seam between the Resource that gives requests their models and the Resource
that answers them.
"""

from __future__ import annotations

from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from zope.interface import Attribute, Interface

from llmux.switching.model import InFlightGuard

__all__ = ["IGuardedResource", "ITurn"]


class ITurn(Interface):
    """
    One request's turn at its backend: it has a guard and has not been
    answered.
    """

    request: IRequest = Attribute("Who asks.")
    model: str = Attribute("The model that it names.")
    guard: InFlightGuard = Attribute(
        "Held for it.  Whoever renders the turn releases it when the exchange is over."
    )
    started: float = Attribute("When the request was complete, on the reactor's clock.")

    def unanswered(reason: str) -> None:
        """
        The backend refused the connection, or closed it before the first
        byte of a reply: not one byte has gone to the client.  Takes the guard
        back and has the switcher decide: the request waits for another turn
        (once) or is answered 502.

        @param reason: a few words fit for the client.
        """


class IGuardedResource(IResource):
    """
    A resource that minds the guard itself, because it knows better than the
    request's end when its backend has finished.
    """

    def render_guarded(turn: ITurn) -> None:
        """
        Answer the request, or call C{turn.unanswered}; in every case release
        C{turn.guard} when the exchange is over.
        """
