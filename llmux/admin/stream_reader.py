"""This module writes a stream to a client that may read slowly, and for as long as it likes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

__all__ = ["PATIENCE", "StreamReader"]

PATIENCE = 60.0
"""A reader that takes no data for this many seconds is disconnected."""


@implementer(IPushProducer)
class StreamReader:
    """
    A L{StreamReader} is one reader of a stream.  Whatever is written while the reader takes no
    data is lost; after L{PATIENCE} seconds the connection is aborted.

    @ivar missed: how many pieces were lost since the reader last took data.
    @ivar on_caught_up: a function that is called when the reader takes data again after some
        pieces were lost; the function may write.
    @ivar on_gone: a function that is called once, when the reader has left or was disconnected.
    """

    def __init__(self, request: Request, clock: IReactorTime) -> None:
        self._request = request
        self._clock = clock
        self._blocked = False
        self._gone = False
        self._cut_off: IDelayedCall | None = None
        self.missed = 0
        self.on_caught_up: Callable[[], None] = lambda: None
        self.on_gone: Callable[[], None] = lambda: None

    def begin(self, content_type: bytes) -> None:
        """Send the head of the reply."""
        request = self._request
        request.setHeader(b"Content-Type", content_type)
        request.setHeader(b"Cache-Control", b"no-store")
        # Without this header nginx keeps events back until its buffer is full.
        request.setHeader(b"X-Accel-Buffering", b"no")
        request.setHeader(b"X-Content-Type-Options", b"nosniff")
        request.notifyFinish().addBoth(self._finished)
        request.registerProducer(self, True)
        # Writing an empty piece sends the head.
        request.write(b"")

    def write(self, data: bytes) -> None:
        """Send a piece; if the reader is behind, the piece is lost."""
        if self._gone:
            return
        if self._blocked:
            self.missed += 1
        else:
            self._request.write(data)

    def end(self) -> None:
        """End the stream."""
        if not self._gone:
            self._request.unregisterProducer()
            self._request.finish()

    def _finished(self, result: Failure | None) -> None:
        if not self._gone:
            self._gone = True
            self._stop_timer()
            self.on_gone()

    def _stop_timer(self) -> None:
        timer, self._cut_off = self._cut_off, None
        if timer is not None and timer.active():
            timer.cancel()

    # ------------------------------------------------------------ IPushProducer

    def pauseProducing(self) -> None:
        """See L{IPushProducer.pauseProducing}."""
        self._blocked = True
        if self._cut_off is None and not self._gone:
            self._cut_off = self._clock.callLater(PATIENCE, self._give_up)

    def resumeProducing(self) -> None:
        """See L{IPushProducer.resumeProducing}."""
        self._blocked = False
        self._stop_timer()
        if self.missed and not self._gone:
            self.on_caught_up()
            self.missed = 0

    def stopProducing(self) -> None:
        """See L{IProducer.stopProducing}; L{_finished} is called next."""

    def _give_up(self) -> None:
        self._cut_off = None
        transport: Any = self._request.transport
        transport.abortConnection()
