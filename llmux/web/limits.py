"""
This module has the sizes and times that limit what one client, and all clients together, can
make this server keep or do.
"""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Limits"]


class Limits(Struct, frozen=True):
    """
    L{Limits} say how large a request may be.

    @ivar body: the largest size of the body, without its chunked encoding, in bytes.
    @ivar head: the largest size of the request line, the headers and the empty line after them,
        in bytes.
    @ivar uri: the largest size of the target in the request line, in bytes.
    @ivar headers: the largest number of headers.
    """

    body: int = 512 * 1024 * 1024
    head: int = 64 * 1024
    uri: int = 16 * 1024
    headers: int = 200


# ------------------------------------------------- a client that sends ahead

MOST_QUEUED = 16
"""
This many requests of one connection are parsed before their turn.  A client that pipelines
gains nothing from more, and each takes ten times the memory of its bytes.
"""

READ_AHEAD = 64 * 1024
"""
If this many bytes have not been parsed, a connection is not read, unless one of its requests
waits or is in flight.  This is the size of one read from a socket.
"""

MOST_AHEAD = 256 * 1024
"""
If this many bytes have not been parsed while a request of the connection waits or is in flight,
a refusal follows.  Such a connection is never paused, because a socket that is not read does
not show that its client has left.
"""

# ------------------------------------------- what one turn of the reactor does

TURN = 0.002
"""One connection is worked on for this many seconds before others have their turn."""

REPLIES_A_TURN = 16
"""One connection gets this many replies before others have their turn."""

FEED_STEP = 16 * 1024
"""
This many bytes are parsed between two looks at the clock.  In the worst case, if each chunk of
a body has one byte, they take 3 ms.
"""

# ------------------------------------------------------------------- bodies

IN_MEMORY = 1024 * 1024
"""A body of up to this many bytes stays in memory; most prompts are smaller, files are not."""

IN_MEMORY_AT_LEAST = 64 * 1024
"""
A body of up to this many bytes, one read from a socket, stays in memory even if the memory for
all bodies is used up, or if its request waits.
"""

FILE_PIECE = 128 * 1024
"""One read or write of a file has this many bytes; larger ones are not faster."""

SCAN_ABOVE = 256 * 1024
"""
A body of more than this many bytes is given to the site's scan while it comes.  A smaller one
is searched in one go when it is complete, which takes less than 1 ms.
"""

# -------------------------------------------------------- clients that linger

LINGER = 30.0
"""
A client that was refused may go on sending for this many seconds.  If the connection were
closed at once, bytes of the client that are still on the way would make its kernel drop our
reply unread.
"""

LINGER_QUIET = 5.0
"""A client that was refused, and then sends nothing for this many seconds, is disconnected."""
