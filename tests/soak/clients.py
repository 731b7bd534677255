"""
This module has the clients of the soak: some stay, some leave, some are slow; each can tell its
own reply from others.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from random import Random
from typing import Any

import h11

from tests.soak.server import reply_of

__all__ = ["ASLEEP", "Outcome", "converse"]

ASLEEP = "a model that sleeps was asked"
"""This is the problem of a reply that came from a model that sleeps."""


@dataclass
class Outcome:
    """
    An outcome is what became of one request.

    @ivar stayed: True if the client waited to the end.
    @ivar status: the status of the reply; 0 if none came.
    @ivar whole: True if the reply has come to its end.
    @ivar problem: what is wrong with the reply; empty if nothing is.
    @ivar end: what the server was told to do in the end.
    @ivar began: the time (ns) at which the request was sent; C{ended} is that of its end.
    @ivar size: the size of the request's body in bytes.
    @ivar life: the number of the daemon's process when the connection was made; C{last_life} is
        that at the end.
    """

    nonce: str
    model: str
    stayed: bool
    end: str
    began: int
    sent: int = 0
    ended: int = 0
    status: int = 0
    whole: bool = False
    problem: str = ""
    error: str = ""
    life: int = 0
    last_life: int = 0
    first_on_connection: bool = True
    size: int = 0

    @property
    def short(self) -> str:
        """Return the outcome in a word or two, for counting."""
        if not self.stayed:
            return "left"
        if self.status and self.whole:
            return f"answered {self.status}"
        return "cut off" if self.status else "no reply"


def _ask(random: Random, model: str, nonce: str) -> dict[str, Any]:
    asked: dict[str, Any] = {"nonce": nonce, "pieces": random.choice((1, 3, 10)), "size": 80}
    asked["delay"] = random.choice((0, 0, 0, 0.02, 0.2, 1.0))
    asked["pause"] = random.choice((0, 0, 0.01, 0.1))
    chance = random.random()
    if chance < 0.03:
        asked["end"] = "silent"
    elif chance < 0.06:
        asked["end"] = "breaks"
    elif chance < 0.07:
        asked["end"] = "dies"
    elif chance < 0.13:
        asked |= {"pieces": 40, "size": 65536, "pause": 0}
    if random.random() < 0.1:
        asked["pad"] = "p" * random.choice((20_000, 1_500_000, 3_000_000))
    return asked | {"model": model}


async def converse(
    port: int, model: str, nonce: str, random: Random, patience: float
) -> list[Outcome]:
    """Make one connection, and send one request or several on it."""
    count = random.choice((1, 1, 1, 2, 4))
    leaves = random.random() < 0.2
    outcomes = []
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection("127.0.0.1", port, limit=2**16), patience
        )
    except (OSError, TimeoutError) as error:
        one = Outcome(nonce, model, not leaves, "", time.time_ns(), ended=time.time_ns())
        one.error = repr(error)
        return [one]
    try:
        client = h11.Connection(h11.CLIENT)
        for number in range(count):
            asked = _ask(random, model, f"{nonce}-{number}")
            body = json.dumps(asked).encode()
            end = asked.get("end", "")
            outcome = Outcome(asked["nonce"], model, True, end, time.time_ns())
            outcome.first_on_connection = number == 0
            outcome.size = len(body)
            outcomes.append(outcome)
            going = leaves and number == count - 1
            if going:
                outcome.stayed = False
            try:
                await _exchange(reader, writer, client, body, outcome, random, patience, going)
            except (OSError, EOFError, h11.ProtocolError) as error:
                outcome.error = repr(error)
                if isinstance(error, h11.RemoteProtocolError) and "peer" not in str(error):
                    outcome.problem = f"no HTTP: {error}"
            except TimeoutError:
                outcome.problem = "no answer"
            outcome.ended = time.time_ns()
            if not outcome.whole or client.our_state is not h11.DONE:
                break
            if client.their_state is not h11.DONE:
                break
            client.start_next_cycle()
    finally:
        writer.transport.abort() if leaves else writer.close()
    return outcomes


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    client: h11.Connection,
    body: bytes,
    outcome: Outcome,
    random: Random,
    patience: float,
    going: bool,
) -> None:
    fields = [("Host", "localhost"), ("Content-Length", str(len(body)))]
    fields.append(("X-Nonce", outcome.nonce))
    head = client.send(h11.Request(method="POST", target="/v1/x", headers=fields))
    client.send(h11.Data(data=body))
    client.send(h11.EndOfMessage())
    assert head is not None
    slow = random.random() < 0.1
    leaves_in = random.choice((0.0, 0.02, 0.3, 1.0, 3.0)) if going else None
    reads_nothing = going and random.random() < 0.3

    async def send() -> None:
        writer.write(head)
        if slow:
            step = max(1, len(body) // 12)
            for at in range(0, len(body), step):
                writer.write(body[at : at + step])
                await writer.drain()
                await asyncio.sleep(0.15)
        else:
            writer.write(body)
            await writer.drain()
        outcome.sent = time.time_ns()

    async def read() -> None:
        got = []
        reply: h11.Response | None = None
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(65536)
                if not data and reply is None:
                    raise EOFError("closed without a reply")
                client.receive_data(data)
            elif isinstance(event, h11.Response):
                reply = event
                outcome.status = event.status_code
            elif isinstance(event, h11.Data):
                got.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert reply is not None
                outcome.whole = True
                outcome.problem = _problem(reply, b"".join(got), body, outcome.nonce)
                return
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError("closed")

    if leaves_in is not None:
        if reads_nothing:
            with_nothing = asyncio.create_task(send())
            await asyncio.wait([with_nothing], timeout=4.0)
            with_nothing.cancel()
            await asyncio.gather(with_nothing, return_exceptions=True)
            return
        try:
            async with asyncio.timeout(leaves_in):
                await send()
                await read()
        except TimeoutError:
            pass
        return
    sending = asyncio.create_task(send())
    try:
        # A refusal may come before all is sent.
        await asyncio.wait_for(read(), patience)
    finally:
        sending.cancel()
        for error in await asyncio.gather(sending, return_exceptions=True):
            if isinstance(error, Exception) and not outcome.whole and not outcome.error:
                outcome.error = repr(error)


def _problem(reply: h11.Response, got: bytes, body: bytes, nonce: str) -> str:
    fields = {bytes(n): bytes(v) for n, v in reply.headers}
    if reply.status_code == 200:
        if fields.get(b"x-nonce") != nonce.encode():
            return f"another's reply: {fields.get(b'x-nonce')!r}"
        return "" if got == reply_of(body) else f"a changed reply: {got[:100]!r}"
    if got == b"asleep\n":
        return ASLEEP
    try:
        error = json.loads(got)["error"]
        if not error["message"] or not error["code"]:
            return f"no clear error: {got[:200]!r}"
    except (ValueError, KeyError, TypeError):
        return f"no clear error: {reply.status_code} {got[:200]!r}"
    if reply.status_code == 503 and b"retry-after" not in fields:
        return f"503 without Retry-After: {error['message'][:60]}"
    if reply.status_code == 500:
        return f"500: {error['message'][:200]}"
    return ""
