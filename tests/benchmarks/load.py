"""
This module makes load that costs little, for what C{wrk} cannot do: requests one at a time,
streams, bodies of any size, thousands of clients that wait.

The module is also a program, for load that must not share an interpreter with another process:

    python load.py closed PORT CONNECTIONS SECONDS    what wrk does, where it is absent
    python load.py gaps PORT SECONDS                  one stream; prints when each read came
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "Client",
    "LoadError",
    "Streams",
    "Waiters",
    "connect",
    "json_body",
    "post",
    "quick_post",
]

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.fake_backend import EVENT_MARK

PATH = "/v1/chat/completions"


class LoadError(Exception):
    """A reply was not what the measurement needs, so that no figure can be computed from it."""


def json_body(model: str, **more: object) -> bytes:
    """Return the JSON of a small chat request."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], **more}
    return json.dumps(body).encode()


def head(length: int) -> bytes:
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Accept: */*\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def post(body: bytes) -> bytes:
    """Return the bytes of a whole request."""
    return head(len(body)) + body


def quick_post(model: str, **more: object) -> bytes:
    return post(json_body(model, **more))


def connect(port: int, timeout: float | None = 60.0) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def vanish(connection: socket.socket) -> None:
    """Close with a reset, so that thousands of ports do not linger in TIME_WAIT."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def missing(data: bytes | bytearray) -> int:
    """Return how many bytes of this reply are still to come; -1 if that cannot be known yet."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return -1
    at = bytes(data[:end]).lower().find(b"\r\ncontent-length:")
    if at < 0:
        return 0 if data.endswith(b"\r\n0\r\n\r\n") else -1
    length = int(data[at + 17 : data.index(b"\r", at + 2)])
    return end + length - len(data)


def check_status(data: bytes | bytearray, what: str) -> None:
    if data[9:12] != b"200":
        raise LoadError(f"{what}: {bytes(data[:300])!r}")


class Client:
    """A client sends one request at a time, on a connection that is kept."""

    def __init__(self, port: int) -> None:
        self.socket = connect(port)

    def ask(self, request: bytes) -> None:
        """Send a request, and wait for the whole reply."""
        self.socket.sendall(request)
        self.read_reply()

    def send_body(self, head: bytes, pieces: Iterable[bytes | memoryview]) -> None:
        self.socket.sendall(head)
        for piece in pieces:
            self.socket.sendall(piece)

    def read_reply(self) -> None:
        data = bytearray()
        while (left := missing(data)) < 0:
            self._more(data)
        check_status(data, "a reply")
        scratch = bytearray(1 << 20)
        while left > 0:
            got = self.socket.recv_into(scratch, min(left, 1 << 20))
            if not got:
                raise LoadError("the reply was cut short")
            left -= got

    def _more(self, data: bytearray) -> None:
        got = self.socket.recv(1 << 16)
        if not got:
            raise LoadError(f"closed without a whole reply: {bytes(data[:300])!r}")
        data += got

    def close(self) -> None:
        vanish(self.socket)


class Streams:
    """These clients read an endless stream each, and count its events."""

    def __init__(self, port: int, model: str, count: int) -> None:
        self.epoll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.events = 0
        request = quick_post(model, stream=True, max_tokens=0)
        for _ in range(count):
            connection = connect(port)
            connection.sendall(request)
            data = connection.recv(1 << 16)
            check_status(data, "a stream")
            connection.setblocking(False)
            self.sockets[connection.fileno()] = connection
            self.epoll.register(connection.fileno(), select.EPOLLIN)

    def read_for(self, seconds: float) -> int:
        """Read all streams for so many seconds, and return how many events came."""
        before = self.events
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for fd, _ in self.epoll.poll(0.02):
                data = self.sockets[fd].recv(1 << 16)
                if not data:
                    raise LoadError("a stream ended")
                self.events += data.count(EVENT_MARK)
        return self.events - before

    def close(self) -> None:
        for connection in self.sockets.values():
            vanish(connection)
        self.epoll.close()


class Waiters:
    """These clients have sent a request each, and wait."""

    PACE = 0.0005
    """
    Two arrivals are so many seconds apart: if they came faster than a proxy accepts, a
    listener's backlog would overflow, and the kernel would try again only a second later.
    """

    def __init__(self, port: int, request: bytes, count: int) -> None:
        self.sockets: dict[int, socket.socket] = {}
        start = time.perf_counter()
        for number in range(count):
            early = start + number * self.PACE - time.perf_counter()
            if early > 0:
                time.sleep(early)
            connection = connect(port)
            connection.sendall(request)
            connection.setblocking(False)
            self.sockets[connection.fileno()] = connection

    def read_replies(self, limit: float) -> None:
        """Wait for a whole reply of 200 to each.  The wait lasts C{limit} seconds at most."""
        epoll = select.epoll()
        replies: dict[int, bytearray] = {}
        for fd in self.sockets:
            epoll.register(fd, select.EPOLLIN)
            replies[fd] = bytearray()
        end = time.perf_counter() + limit
        left = set(replies)
        while left:
            if time.perf_counter() > end:
                raise LoadError(f"{len(left)} of {len(replies)} were not answered")
            for fd, _ in epoll.poll(0.1):
                data = self.sockets[fd].recv(1 << 16)
                if not data:
                    raise LoadError(f"a waiter was cut off: {bytes(replies[fd][:300])!r}")
                replies[fd] += data
                if missing(replies[fd]) == 0:
                    check_status(replies[fd], "a waiter's reply")
                    left.discard(fd)
                    epoll.unregister(fd)
        epoll.close()

    def close(self) -> None:
        for connection in self.sockets.values():
            vanish(connection)
        self.sockets.clear()


def closed_loop(port: int, request: bytes, connections: int, seconds: float) -> int:
    """
    Send a request on each connection again as soon as the last is answered, and return how many
    were answered.
    """
    epoll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    replies: dict[int, bytearray] = {}
    for _ in range(connections):
        connection = connect(port)
        connection.setblocking(False)
        sockets[connection.fileno()] = connection
        replies[connection.fileno()] = bytearray()
        epoll.register(connection.fileno(), select.EPOLLIN)
        connection.send(request)
    answered = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for fd, _ in epoll.poll(0.1):
            data = sockets[fd].recv(1 << 16)
            if not data:
                raise LoadError("a connection was closed")
            reply = replies[fd]
            reply += data
            if missing(reply) == 0:
                check_status(reply, "a reply")
                reply.clear()
                answered += 1
                sockets[fd].send(request)
    for connection in sockets.values():
        vanish(connection)
    return answered


def stamps(port: int, request: bytes, seconds: float) -> list[float]:
    """Return the time of each piece of one stream, on the monotonic clock."""
    connection = connect(port)
    connection.sendall(request)
    found: list[float] = []
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        found.append(now)
        if not connection.recv(1 << 16):
            raise LoadError("the stream ended")
    vanish(connection)
    return found


def main(arguments: list[str]) -> None:
    gc.disable()
    kind, port = arguments[0], int(arguments[1])
    if kind == "closed":
        print(closed_loop(port, quick_post("a"), int(arguments[2]), float(arguments[3])))
    else:
        request = quick_post("a", stream=True, max_tokens=0)
        print(json.dumps(stamps(port, request, float(arguments[2]))))


if __name__ == "__main__":
    main(sys.argv[1:])
