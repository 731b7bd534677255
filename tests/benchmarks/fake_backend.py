"""
This script is a model server that costs little: one thread, epoll, and no parsing of a request
that it has seen before.

    python fake_backend.py COUNTER_FILE

prints the port that it chose and serves until it is killed.  The request's JSON
says what to answer:

    "stream": true, "max_tokens": N    N events of 160 bytes (0: for ever), 5 ms apart
    "reply_bytes": N                   a reply of N bytes
    else                               a reply of 600 bytes

The count of plain requests answered stands in COUNTER_FILE (8 bytes, the
machine's order), so that a benchmark can read it at any moment without asking.
"""

from __future__ import annotations

import heapq
import json
import mmap
import re
import select
import socket
import sys
import time
from dataclasses import dataclass, field

__all__ = ["EVENT_BYTES", "EVENT_MARK", "PLAIN_BODY", "main"]

EVENT_INTERVAL = 0.005
EVENT_BYTES = 160
EVENT_MARK = b"~"
"""This byte is in every event once, however a proxy cuts or frames the events."""

_LISTENER = 0
_SLICE = 1 << 20
_SMALL_BODY = 1 << 16
_RECV = 1 << 18


def _padded(value: dict[str, object], before: bytes, after: bytes, size: int) -> bytes:
    bare = before + json.dumps(value).encode() + after
    return bare.replace(b"PAD", b"x" * (3 + size - len(bare)))


PLAIN_BODY = _padded(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "a",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "PAD"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    },
    b"",
    b"",
    600,
)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n%s\r\n"
_PLAIN = _HEAD % (b"application/json", b"Content-Length: 600\r\n") + PLAIN_BODY
_EVENT = _padded(
    {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "a",
        "choices": [{"index": 0, "delta": {"content": EVENT_MARK.decode() + "PAD"}}],
    },
    b"data: ",
    b"\n\n",
    EVENT_BYTES,
)
_EVENT_CHUNK = b"%x\r\n%s\r\n" % (len(_EVENT), _EVENT)
_STREAM_HEAD = _HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked\r\n")
_STREAM_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"

_STREAM = re.compile(rb'"stream":\s*true')
_MAX_TOKENS = re.compile(rb'"max_tokens":\s*(\d+)')
_REPLY_BYTES = re.compile(rb'"reply_bytes":\s*(\d+)')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)


@dataclass(eq=False, slots=True)
class _Connection:
    socket: socket.socket
    data: bytearray = field(default_factory=bytearray)
    """These bytes have arrived of a request's head, or of a small or chunked request."""
    skip: int = 0
    """So many bytes of a large body are yet to come."""
    unsent: bytes = b""
    zeros: int = 0
    """So many bytes of a large reply are yet to go."""
    events: int = -1
    """So many events of a stream are yet to go; -1: there is no stream."""
    endless: bool = False
    open: bool = True


class _Backend:
    def __init__(self, listener: socket.socket, counter: memoryview) -> None:
        self.listener = listener
        self.counter = counter
        self.epoll = select.epoll()
        self.connections: dict[int, _Connection] = {}
        self.known: set[bytes] = set()
        self.due: list[tuple[float, int, _Connection]] = []
        self.streams = 0
        self.scratch = bytearray(_SLICE)
        self.slice = memoryview(b"0" * _SLICE)

    def run(self) -> None:
        self.epoll.register(self.listener.fileno(), select.EPOLLIN)
        listener = self.listener.fileno()
        # epoll's own time limit is in whole milliseconds, select's is not.
        ears = [self.epoll.fileno()]
        while True:
            if self.due:
                wait = self.due[0][0] - time.perf_counter()
                if wait > 0:
                    select.select(ears, [], [], wait)
                polled = self.epoll.poll(0)
            else:
                polled = self.epoll.poll()
            for fd, mask in polled:
                if fd == listener:
                    self.accept()
                    continue
                connection = self.connections.get(fd)
                if connection is None:
                    continue
                try:
                    if mask & select.EPOLLOUT:
                        self.writable(connection)
                    if mask & ~select.EPOLLOUT:
                        self.readable(connection)
                except BlockingIOError:
                    pass
                except OSError:
                    self.close(connection)
            if self.due:
                self.send_due()

    def accept(self) -> None:
        while True:
            try:
                accepted, _ = self.listener.accept()
            except BlockingIOError:
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections[accepted.fileno()] = _Connection(accepted)
            self.epoll.register(accepted.fileno(), select.EPOLLIN)

    def close(self, connection: _Connection) -> None:
        connection.open = False
        self.connections.pop(connection.socket.fileno(), None)
        connection.socket.close()

    def readable(self, connection: _Connection) -> None:
        if connection.skip:
            got = connection.socket.recv_into(self.scratch, min(_SLICE, connection.skip))
            if not got:
                self.close(connection)
                return
            connection.skip -= got
            if not connection.skip:
                self.answer_plain(connection)
            return
        data = connection.socket.recv(_RECV)
        if not data:
            self.close(connection)
        elif not connection.data and data in self.known:
            self.answer_plain(connection)
        else:
            connection.data += data
            self.parse(connection, data)

    def parse(self, connection: _Connection, latest: bytes) -> None:
        data = connection.data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = bytes(data[:end])
        length = _LENGTH.search(head)
        if length is not None:
            missing = end + int(length[1]) - len(data)
        elif _CHUNKED.search(head) is not None:
            missing = 0 if data.endswith(b"0\r\n\r\n") else 1
            if missing and len(data) > _SMALL_BODY:
                # Only the last chunk's bytes matter now.
                del data[end:-5]
        else:
            missing = 0
        if missing > 0:
            if length is not None and int(length[1]) > _SMALL_BODY:
                connection.skip = missing
                data.clear()
            return
        body = bytes(data[end:])
        data.clear()
        if _STREAM.search(body) is not None:
            self.begin_stream(connection, body)
        elif (size := _REPLY_BYTES.search(body)) is not None:
            connection.zeros = int(size[1])
            head = _HEAD % (b"application/json", b"Content-Length: %d\r\n" % connection.zeros)
            connection.socket.send(head)
            self.epoll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        else:
            if len(latest) == end + len(body) and len(self.known) < 4096:
                self.known.add(latest)
            self.answer_plain(connection)

    def answer_plain(self, connection: _Connection) -> None:
        connection.socket.send(_PLAIN)
        self.counter[0] += 1

    def writable(self, connection: _Connection) -> None:
        while connection.zeros:
            connection.zeros -= connection.socket.send(self.slice[: connection.zeros])
        self.epoll.modify(connection.socket.fileno(), select.EPOLLIN)

    def begin_stream(self, connection: _Connection, body: bytes) -> None:
        wanted = _MAX_TOKENS.search(body)
        connection.events = int(wanted[1]) if wanted is not None else 0
        connection.endless = connection.events == 0
        connection.socket.send(_STREAM_HEAD)
        self.streams += 1
        # The streams are spread over the interval: if their events came together, a proxy could
        # read many of them in one turn of its loop.
        phase = self.streams * 0.6180339887 % 1.0
        due = time.perf_counter() + phase * EVENT_INTERVAL
        heapq.heappush(self.due, (due, self.streams, connection))

    def send_due(self) -> None:
        now = time.perf_counter()
        while self.due and self.due[0][0] <= now:
            due, number, connection = self.due[0]
            if connection.open:
                try:
                    if not self.send_event(connection):
                        heapq.heappop(self.due)
                        continue
                except BlockingIOError:
                    pass
                except OSError:
                    self.close(connection)
            if not connection.open:
                heapq.heappop(self.due)
                continue
            after = due + EVENT_INTERVAL
            if after < now - 0.1:
                after = now + EVENT_INTERVAL
            heapq.heapreplace(self.due, (after, number, connection))

    def send_event(self, connection: _Connection) -> bool:
        """
        Send one event, or what is left of the last.  Return False if that was the end of the
        stream.
        """
        if connection.unsent:
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
            return True
        if not connection.events and not connection.endless:
            connection.socket.send(_STREAM_END)
            return False
        connection.unsent = _EVENT_CHUNK[connection.socket.send(_EVENT_CHUNK) :]
        connection.events -= 1
        return True


def main(counter_file: str) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(65535)
    listener.setblocking(False)
    with open(counter_file, "r+b") as file:
        shared = mmap.mmap(file.fileno(), 8)
    print(listener.getsockname()[1], flush=True)
    _Backend(listener, memoryview(shared).cast("Q")).run()


if __name__ == "__main__":
    main(sys.argv[1])
