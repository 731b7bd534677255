"""
C{python -m tests.soak.server MODEL PORT DIRECTORY KIND}: a model server that writes down what
is true.

A server that is awake holds a lock on the file C{gpu}, which the kernel takes back when the
process dies: a server that finds the lock taken writes down that two models are awake.
Everything that happens gets a line in the file C{truth}: the time (ns), what happened, to which
model, and who it was.

A server of the kind C{process} is awake as long as it runs.  A server of the kind C{resident}
sleeps at first, and wakes and sleeps by C{POST /wake} and C{POST /sleep}.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["Server", "digest", "main", "reply_of"]


def digest(body: bytes) -> str:
    """Return what an honest reply to a request with this body ends with."""
    return hashlib.sha256(body).hexdigest()


def reply_of(body: bytes) -> bytes:
    """Return the whole body of an honest reply."""
    asked = json.loads(body)
    nonce = asked["nonce"]
    pieces = [f"{nonce}:{i}:".ljust(asked["size"], ".") for i in range(asked["pieces"])]
    return "".join([*pieces, digest(body)]).encode()


class Server:
    """A server has one model."""

    def __init__(self, model: str, directory: Path, kind: str) -> None:
        self.model = model
        self.kind = kind
        self._truth = os.open(
            directory / "truth", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
        )
        self._gpu = directory / "gpu"
        self._lock: int | None = None
        self._load = directory / f"{model}.load"

    def say(self, what: str, who: object = "") -> None:
        """Write a line into the file C{truth}."""
        line = f"{time.time_ns()} {what} {self.model} {who or os.getpid()}\n"
        os.write(self._truth, line.encode())

    @property
    def awake(self) -> bool:
        """Tell whether this server has the GPU's memory."""
        return self._lock is not None

    def wake(self) -> None:
        """Take the GPU's memory."""
        if self._lock is not None:
            return
        lock = os.open(self._gpu, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 100, 0).decode().split("\n")[0].replace(" ", "/")
            self.say("TWO", f"beside-{holder}-{os.getpid()}")
        else:
            os.pwrite(lock, f"{self.model} {os.getpid()}\n".ljust(40).encode(), 0)
        self._lock = lock
        self.say("up")

    def sleep(self) -> None:
        """Give the GPU's memory back."""
        if self._lock is not None:
            self.say("down")
            os.close(self._lock)
            self._lock = None

    async def serve(self, port: int) -> None:
        """Serve until somebody sends SIGTERM."""
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, told.set)
        if self.kind == "process":
            self.wake()
            # The model loads: the memory is taken, and nobody is answered.
            try:
                await asyncio.sleep(float(self._load.read_text()))
            except (OSError, ValueError):
                pass
        server = await asyncio.start_server(self._accept, "127.0.0.1", port, backlog=512)
        await told.wait()
        server.close()
        self.sleep()
        # The process ends at once: replies in flight break off.
        os._exit(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        fields = {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines)}
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        _, path, _ = first.split(" ")
        if path == "/health":
            self._answer(writer, 200 if self.awake else 503)
        elif path == "/wake":
            self.wake()
            self._answer(writer, 200)
        elif path == "/sleep":
            self.sleep()
            self._answer(writer, 200)
        else:
            return await self._model(writer, body)
        return True

    @staticmethod
    def _answer(writer: asyncio.StreamWriter, status: int, text: str = "x\n") -> None:
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
        )

    async def _model(self, writer: asyncio.StreamWriter, body: bytes) -> bool:
        asked: dict[str, Any] = json.loads(body)
        nonce = asked["nonce"]
        self.say("begin", nonce)
        if not self.awake:
            self.say("asleep", nonce)
            self._answer(writer, 500, "asleep\n")
            return True
        end = asked.get("end", "")
        await asyncio.sleep(asked.get("delay", 0))
        if end == "silent":
            self.say("crashed", nonce)
            return False
        if end == "dies":
            self.say("died", nonce)
            os._exit(1)
        reply = reply_of(body)
        writer.write(
            b"HTTP/1.1 200 OK\r\nX-Nonce: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
            % nonce.encode()
        )
        size = asked["size"]
        pieces = [reply[i : i + size] for i in range(0, len(reply) - 64, size)]
        for i, piece in enumerate(pieces):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            if i == 0:
                self.say("first", nonce)
            if end == "breaks" and i == len(pieces) // 2:
                self.say("broke", nonce)
                return False
            await asyncio.sleep(asked.get("pause", 0))
        # This line comes before the last byte: from then on the model may be put to sleep.
        self.say("end", nonce)
        writer.write(b"40\r\n%b\r\n0\r\n\r\n" % reply[-64:])
        await writer.drain()
        return True


def main() -> None:
    """Run the server, as the module's docstring says."""
    model, port, directory, kind = sys.argv[1:]
    asyncio.run(Server(model, Path(directory), kind).serve(int(port)))


if __name__ == "__main__":
    main()
