"""This module has the clients of the fuzzer, and its backends."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import h11

from tests.fuzz.case import Case, Leaving
from tests.fuzz.parsing import Found, head_problem, requests_in
from tests.fuzz.replies import Close, Script

__all__ = ["Backend", "Heard", "Registry", "speak"]

_HOLDS = 0.4
"""A backend that hangs keeps its connection for so many seconds."""

_MOST_PER_REQUEST = 2
"""The same request may reach a backend so often: it may be begun anew once."""

_NOTICED = 10.0
"""
After so many seconds llmux has noticed a client's departure, and the fuzzer has noticed what
llmux has passed on, however busy the machine is.
"""

_LONGEST = 30.0
"""Within so many seconds each client has got its replies, unless the daemon is stuck."""


@dataclass
class Expected:
    """This is a case that is under way, with the requests of it that may be passed on."""

    case: Case
    requests: list[Found]
    ending: str
    keys: list[str] = field(default_factory=list)
    came: dict[str, int] = field(default_factory=dict)
    scripts: dict[str, list[Script]] = field(default_factory=dict)
    left: float | None = None


class Registry:
    """The registry knows which requests may be passed on at present, and who sent them."""

    def __init__(self, found: Callable[[str, str, Case | None], None]) -> None:
        """
        @param found: is called with the kind, the particulars and the input of each finding.

        C{lag} is to be set to the seconds by which the fuzzer itself has been late.
        """
        self.found = found
        self.active: dict[int, Expected] = {}
        self._by_key: dict[str, list[Expected]] = {}
        self.forwarded = 0
        self.lag = 0.0

    def begin(self, case: Case) -> Expected:
        """Note that this input is being sent."""
        # Bytes after the departure may not arrive; those before it may be read.
        data = case.data[: case.leaves_at]
        requests, ending = requests_in(data)
        expected = Expected(case, requests, ending, [r.key for r in requests])
        self.active[id(expected)] = expected
        for key in set(expected.keys):
            self._by_key.setdefault(key, []).append(expected)
        return expected

    def end(self, expected: Expected) -> None:
        """Note that no request of this input may be passed on any more."""
        del self.active[id(expected)]
        for key in set(expected.keys):
            self._by_key[key].remove(expected)
            if not self._by_key[key]:
                del self._by_key[key]

    def passed_on(self, request: Found) -> Expected | None:
        """
        Check a request that a backend has received, and return the case that it belongs to.
        """
        self.forwarded += 1
        problem = head_problem(request)
        owners = self._by_key.get(request.key)
        if not owners:
            self.found(
                "passed on what h11 does not find",
                f"{request.method!r} {request.target[:200]!r} {request.raw!r}"[:3000]
                + f" body {request.body[:200]!r} ({len(request.body)} bytes)",
                self._guess(request),
            )
            return None
        owner = owners[-1]
        came = owner.came[request.key] = owner.came.get(request.key, 0) + 1
        noticed = _NOTICED + 3 * self.lag
        if owner.left is not None and time.monotonic() - owner.left > noticed:
            self.found(
                "passed on though its client had left",
                f"{time.monotonic() - owner.left:.1f} s before: {request.target[:100]!r}",
                owner.case,
            )
        if problem:
            self.found(f"passed on {problem}", repr(request.raw)[:2000], owner.case)
        most = _MOST_PER_REQUEST * owner.keys.count(request.key)
        if came > most:
            self.found(
                "passed on too often",
                f"{came} times, for {owner.keys.count(request.key)} requests: "
                f"{request.method!r} {request.target[:100]!r}",
                owner.case,
            )
        return owner

    def _guess(self, request: Found) -> Case | None:
        text = request.target + repr(request.raw).encode() + request.body[:5000]
        for one in self.active.values():
            if b"s%dn%dx" % (one.case.seed, one.case.number) in text:
                return one.case
        return None


class Backend:
    """This backend answers as its cases say."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, port: int) -> None:
        """Listen on this port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port, backlog=512)
        self.port = port

    async def stop(self) -> None:
        """Stop listening, and close all connections."""
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tainted = False
        rest = b""
        while True:
            server = h11.Connection(h11.SERVER, max_incomplete_event_size=2**24)
            if rest:
                server.receive_data(rest)
            request: h11.Request | None = None
            body: list[bytes] = []
            while True:
                try:
                    event = server.next_event()
                except h11.RemoteProtocolError as error:
                    # A request breaks off if its client has left.
                    if not reader.at_eof():
                        seen = f"{error}: {rest[:500]!r}"
                        self._registry.found("passed on what h11 refuses", seen, None)
                    return
                if event is h11.NEED_DATA:
                    # After an odd reply llmux may wait for more of it, but not for ever.
                    patience = _HOLDS if tainted and request is None else None
                    try:
                        data = await asyncio.wait_for(reader.read(262144), patience)
                    except TimeoutError:
                        return
                    if not data:
                        return
                    rest += data[:2000]
                    server.receive_data(data)
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    return
            assert request is not None
            raw = [(bytes(n), bytes(v)) for n, v in request.headers]
            found = Found(
                bytes(request.method),
                bytes(request.target),
                # llmux has removed the fields of a single connection: all that are left are end
                # to end.
                [f for f in raw if f[0] not in (b"content-length", b"expect", b"host")],
                b"".join(body),
                raw,
            )
            rest = server.trailing_data[0]
            owner = self._registry.passed_on(found)
            if owner is None:
                return
            key = found.key
            ordinal = sum(owner.came.values())
            script = owner.case.reply_to(ordinal, key, found.method)
            script.tainted = tainted
            owner.scripts.setdefault(key, []).append(script)
            for pause, piece in script.pieces:
                if pause:
                    await asyncio.sleep(pause)
                writer.write(piece)
                await writer.drain()
            tainted = tainted or not script.sound
            if script.close is Close.HELD:
                await asyncio.sleep(_HOLDS)
            if script.close is Close.RESET:
                _reset_on_close(writer.get_extra_info("socket"))
                writer.transport.abort()
            if script.close is not Close.KEPT:
                return


def _reset_on_close(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@dataclass
class Heard:
    """
    This is what a client got.

    @ivar closed: True if llmux has closed the connection.
    @ivar reset: True if llmux has reset the connection.
    @ivar patient: True if the client waited for all that it could expect.
    """

    data: bytes = b""
    closed: bool = False
    reset: bool = False
    patient: bool = True
    connected: bool = True


async def speak(
    port: int, case: Case, enough: Callable[[bytes], bool], longest: float = _LONGEST
) -> Heard:
    """
    Send a case's stream to a port as the case says.

    @param enough: a function that tells whether a client that stays needs nothing more than
        these bytes.
    @param longest: the seconds for which the client waits for a byte; for all bytes it waits
        three times as long.
    """
    loop = asyncio.get_running_loop()
    heard = Heard()
    sock = socket.socket()
    sock.setblocking(False)
    if case.leaving is Leaving.READS_NOTHING:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reads: asyncio.Task[None] | None = None
    got: list[bytes] = []
    woken = asyncio.Event()
    until = loop.time() + longest
    latest = loop.time() + 3 * longest

    async def read() -> None:
        while True:
            try:
                data = await loop.sock_recv(sock, 65536)
            except OSError:
                heard.closed = heard.reset = True
                break
            if not data:
                heard.closed = True
                break
            got.append(data)
            nonlocal until
            if case.leaving is Leaving.STAYS:
                until = min(latest, loop.time() + longest)
            woken.set()
        woken.set()

    try:
        try:
            await asyncio.wait_for(loop.sock_connect(sock, ("127.0.0.1", port)), longest)
        except (OSError, TimeoutError):
            heard.connected = False
            return heard
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if case.leaving is not Leaving.READS_NOTHING:
            reads = asyncio.create_task(read())

        async def send() -> None:
            for piece in case.pieces:
                if case.pause:
                    await asyncio.sleep(case.pause)
                else:
                    await asyncio.sleep(0)
                await loop.sock_sendall(sock, piece)

        try:
            # A client that never reads may not be able to send all.
            patience = 2.0 if case.leaving is Leaving.READS_NOTHING else longest
            await asyncio.wait_for(send(), patience)
        except OSError:
            pass
        except TimeoutError:
            pass
        if case.leaving is not Leaving.STAYS:
            until = loop.time() + 1.0
        if case.leaving is Leaving.HALF:
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        if case.leaving in (Leaving.STAYS, Leaving.HALF):
            looks_at = 0.0
            while not heard.closed:
                now = loop.time()
                if now >= until:
                    heard.patient = False
                    break
                if case.leaving is Leaving.STAYS and now >= looks_at:
                    if enough(b"".join(got)):
                        # If more than the expected bytes came, they would be seen now.
                        await asyncio.sleep(0.02)
                        break
                    # A look at much data may take long: looks take a tenth of the time at most.
                    looks_at = now + 10 * (loop.time() - now)
                woken.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), min(0.5, until - now))
        elif case.leaving is Leaving.READS_NOTHING:
            await asyncio.sleep(0.3)
        if case.leaving in (Leaving.RESETS, Leaving.READS_NOTHING):
            _reset_on_close(sock)
        heard.data = b"".join(got)
        return heard
    finally:
        if reads is not None:
            reads.cancel()
            await asyncio.gather(reads, return_exceptions=True)
        sock.close()
