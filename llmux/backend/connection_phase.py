"""
A connection to a backend is always in one of these phases::

    phase      carries    leaves it when                              for
    IDLE       nothing    an exchange begins                          ASKING
                          a byte comes: nobody has asked              CLOSED
                          the pool closes it, or it is lost           CLOSED
    ASKING     exchange   the head of a final reply has come          REPLYING
                          a reply has come whole (as below)           IDLE or CLOSED
                          what comes is no reply, or it is lost       CLOSED
                          the exchange aborts it                      CLOSED
    REPLYING   exchange   the reply is whole, and another exchange
                          could follow                                IDLE
                          the reply is whole, and none could follow   CLOSED
                          what comes is no reply, or it is lost       CLOSED
                          the exchange aborts it                      CLOSED
    CLOSED     nothing    never

A connection is lost at most once, and closes itself at most once.  No exchange
follows if either side has said that the connection ends with the reply, if more
came than the reply, or if the request had not been sent whole.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["ConnectionPhase"]


class ConnectionPhase(Enum):
    """
    L{ConnectionPhase} has the phases of a connection to a backend; the module's docstring has
    the table.
    """

    IDLE = "idle"
    """The connection could carry an exchange, and carries none."""
    ASKING = "asking"
    """An exchange has begun; the head of its reply is not complete."""
    REPLYING = "replying"
    """The exchange has been given the head of its reply; the body is not complete."""
    CLOSED = "closed"
    """The connection will carry nothing any more."""
