"""
The sizes and times that bound what one client, and all clients together, can
make this server hold or do.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """
    How large a request may be, in bytes.

    @ivar body: the body, once its chunked encoding is undone.
    @ivar head: the request line, the headers and the empty line after them.
    @ivar uri: the target in the request line.
    @ivar headers: how many of them.
    """

    body: int = 512 * 1024 * 1024
    head: int = 64 * 1024
    uri: int = 16 * 1024
    headers: int = 200


# ------------------------------------------------- a client that sends ahead

MOST_QUEUED = 16
"""
Requests of one connection that are parsed before their turn.  A client that
pipelines gains nothing from more, and each takes ten times its bytes.
"""

READ_AHEAD = 64 * 1024
"""
Bytes not yet parsed above which a connection is not read, while none of its
requests waits or is in flight.  The size of one read from a socket.
"""

MOST_AHEAD = 256 * 1024
"""
Bytes not yet parsed above which a connection is refused, while one of its
requests waits or is in flight.  Such a connection is never paused: a socket
that is not read does not tell that its client has left.
"""

# ------------------------------------------- what one turn of the reactor does

TURN = 0.002
"""Seconds for which one connection is worked for before others have their turn."""

REPLIES_A_TURN = 16
"""Replies of one connection before others have their turn."""

FEED_STEP = 16 * 1024
"""
Bytes that are parsed between two looks at the clock.  At worst, where each
chunk of a body has one byte, they take 3 ms.
"""

# ------------------------------------------------------------------- bodies

IN_MEMORY = 1024 * 1024
"""Bytes up to which a body stays in memory: most prompts, no files."""

IN_MEMORY_AT_LEAST = 64 * 1024
"""
Bytes up to which a body stays in memory even when the memory for all bodies
is used up, or when its request waits: one read from a socket.
"""

FILE_PIECE = 128 * 1024
"""Bytes in one read or write of a file: larger ones are not faster."""

SCAN_ABOVE = 256 * 1024
"""
Bytes above which a body is shown to the site's scan while it comes.  Smaller
ones are looked at in one go when they are complete, which takes below 1 ms.
"""

# -------------------------------------------------------- clients that linger

LINGER = 30.0
"""
Seconds for which a client that has been refused may go on sending: closed at
once, its own bytes on the way would make its kernel drop our reply unread.
"""

LINGER_QUIET = 5.0
"""Seconds of silence of a client that has been refused after which it is cut off."""
