"""
The channel is the server's side of a client's connection: requests come in by
llhttp, replies go out either through twisted.web's Request or as the very
bytes that are sent.

A connection has a phase.  What has come and has not been parsed lies in
C{_ahead}; what is parsed and waits for its turn, in the queue::

    phase       a request is answered   what the next bytes are
    IDLE        no                      the beginning of a request
    READING     no                      what follows those that wait to be parsed
    ANSWERING   yes                     sent ahead by a client that pipelines
    LINGERING   no (refused)            not looked at: the client shall read its reply
    CLOSED      perhaps, until told     not looked at
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from time import perf_counter
from typing import Any, Protocol

from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
    ITransport,
)
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from zope.interface import implementer

from llmux.web.access import AccessRules
from llmux.web.body import BodyStorage, RequestBody, ScanFactory
from llmux.web.error_reply import ApiError, raw_reply
from llmux.web.head_memo import HeadMemo
from llmux.web.limits import (
    LINGER,
    LINGER_QUIET,
    MOST_AHEAD,
    READ_AHEAD,
    REPLIES_A_TURN,
    TURN,
    Limits,
)
from llmux.web.reader import Item, Refusal, RequestReader
from llmux.web.reply_channel import IReplyChannel
from llmux.web.request import LlmuxRequest
from llmux.web.request_head import RequestHead
from llmux.web.transport import RequestTransport, unsent

__all__ = ["ChannelOwner", "LlhttpChannel"]

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ChannelOwner(Protocol):
    """
    The owner of channels is the site, as far as a channel knows it; see
    L{LlmuxSite<llmux.web.site.LlmuxSite>}.
    """

    heads: HeadMemo
    limits: Limits
    clock: IReactorTime
    scan: ScanFactory | None
    access: AccessRules | None
    storage: BodyStorage
    stopping: bool
    read_timeout: float
    idle_timeout: float
    min_upload_rate: float
    request_factory: Callable[..., LlmuxRequest]

    def opened(self, channel: Any) -> None: ...
    def lost(self, channel: Any) -> None: ...
    def refused(self, error: ApiError) -> None: ...
    def reading_failed(self, failure: Failure) -> None: ...


class ChannelPhase(Enum):
    """
    The phases of a connection: see above.

    @ivar after: the phases that may come next.  The way of a request that is
        alone, from IDLE to ANSWERING and back, is not checked.
    """

    after: tuple[ChannelPhase, ...]

    IDLE = "idle"
    READING = "reading"
    ANSWERING = "answering"
    LINGERING = "lingering"
    CLOSED = "closed"


_IDLE, _READING, _ANSWERING, _LINGERING, _CLOSED = ChannelPhase
_IDLE.after = (_READING, _CLOSED)
_READING.after = (_IDLE, _ANSWERING, _LINGERING, _CLOSED)
_ANSWERING.after = (_READING, _CLOSED)
_LINGERING.after = (_CLOSED,)
_CLOSED.after = (_CLOSED,)


@implementer(IProtocol, IReplyChannel, IPushProducer)
class LlhttpChannel(RequestTransport):
    """
    A channel is one client's connection.  To the requests that it makes it is
    what L{twisted.web.http.HTTPChannel} is.

    While a request of the connection waits or is in flight the connection is
    read, whatever the client sends: an end that nobody reads is an end that
    nobody sees.  What a client sends beyond C{MOST_AHEAD} is refused in its
    turn, after the replies to what came before.
    """

    __slots__ = (
        "_ahead",
        "_alone",
        "_at",
        "_charged",
        "_current",
        "_heads",
        "_later",
        "_lingers_until",
        "_max_body",
        "_paused",
        "_phase",
        "_queue",
        "_reader",
        "_send",
        "_since",
        "_touched",
        "_unsent_before",
        "_window",
        "_working",
        "site",
    )

    def __init__(self, site: ChannelOwner) -> None:
        self.site = site
        super().__init__()
        self._heads = site.heads
        self._max_body = site.limits.body
        self._phase = _IDLE
        # The request being answered, and those read after it.
        self._current: LlmuxRequest | None = None
        self._queue: list[Item] = []
        self._reader = RequestReader(
            self._queue, site.limits, site.heads, site.scan, site.access, site.storage
        )
        # What has not been parsed, and up to where of it has.
        self._ahead = b""
        self._at = 0
        # How much of that the storage has been told of.
        self._charged = 0
        # The present request came whole, and nothing has happened since.
        self._alone = False
        # The transport is not read.
        self._paused = False
        # L{_work} is running; it is to run in the next turn of the reactor.
        self._working = False
        self._later: IDelayedCall | None = None
        self._lingers_until = 0.0
        self._send: Callable[[bytes], int] | None = None
        # For the sweep: something has happened; when that was noticed.
        self._touched = True
        self._since = 0.0
        # While a request comes: since when, whether its head was coming then, and how much
        # of its body had come.
        self._window: tuple[float, bool, int] | None = None
        self._unsent_before = 0

    def _enter(self, phase: ChannelPhase) -> None:
        assert phase in self._phase.after, (self._phase, phase)
        self._phase = phase

    # ------------------------------------------------------------- protocol

    @property
    def factory(self) -> ChannelOwner:
        """The site, which Requests ask for by this name in order to log."""
        return self.site

    def logPrefix(self) -> str:
        """See L{ILoggingContext.logPrefix}."""
        return "LlhttpChannel"

    def makeConnection(self, transport: ITransport) -> None:
        """See L{IProtocol.makeConnection}."""
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """See L{IProtocol.connectionMade}."""
        transport = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        if isinstance(transport, Connection) and not transport.TLS:
            self._send = transport.socket.send
        transport.registerProducer(self, True)
        self.site.opened(self)

    def dataReceived(self, data: bytes) -> None:
        """See L{IProtocol.dataReceived}."""
        phase = self._phase
        if phase is _IDLE:
            found = self._heads.whole_request(data)
            if found is not None:
                head, body = found
                if len(body) <= self._max_body:
                    self._touched = True
                    self._alone = True
                    self._start(head, RequestBody(body))
                    return
            # Empty lines before a request are allowed, but show no life.
            data = data.lstrip(b"\r\n")
            if not data:
                return
            self._enter(_READING)
        elif phase is _LINGERING or phase is _CLOSED:
            self._touched = True
            return
        self._touched = True
        self._alone = False
        if self._reader.closed:
            return
        if self._ahead:
            self._ahead = self._ahead[self._at :] + data
            self._at = 0
        else:
            self._ahead = data
        self._work()

    def connectionLost(self, reason: Failure) -> None:
        """See L{IProtocol.connectionLost}."""
        self._send = None
        self._enter(_CLOSED)
        self.site.lost(self)
        self._drop_what_was_read()
        self.stopProducing()
        request, self._current = self._current, None
        if request is not None:
            request.connectionLost(reason)

    def _drop_what_was_read(self) -> None:
        self._reader.close()
        for item in self._queue:
            if not isinstance(item, Refusal):
                item[1].close()
        self._queue.clear()
        self._ahead = b""
        self._at = 0
        self._charge(0)
        later, self._later = self._later, None
        if later is not None:
            later.cancel()

    # -------------------------------------------------- requests, in order

    def _start(self, head: RequestHead, body: RequestBody) -> None:
        site = self.site
        self._phase = _ANSWERING
        self._window = None
        self.keeps_alive = head.keep_alive and not site.stopping
        self.client_is_http_1_0 = head.is_http_1_0
        request = self._current = site.request_factory(self, head, body)
        request.process()

    def _work(self) -> None:
        """
        Parse what has come and answer what can be answered, for as long as
        one turn of the reactor may take; the rest is done in the next.
        """
        if self._working:
            return
        if self._later is None:
            self._working = True
            end = perf_counter() + TURN
            if self._work_until(lambda: perf_counter() > end):
                self._later = self.site.clock.callLater(0, self._work_on)
            self._working = False
        self._settle()

    def _work_on(self) -> None:
        self._later = None
        self._work()

    def _work_until(self, is_overdue: Callable[[], bool]) -> bool:
        """Return whether something is left that could be done at once."""
        queue, reader = self._queue, self._reader
        begun = fed = 0
        while True:
            if queue and self._phase is _READING and not self._full:
                if begun and (begun >= REPLIES_A_TURN or is_overdue()):
                    return True
                begun += 1
                item = queue.pop(0)
                if isinstance(item, Refusal):
                    self._refuse(
                        ApiError(item.status, item.message, item.code),
                        with_body=not item.is_head,
                    )
                else:
                    self._enter(_ANSWERING)
                    self._start(*item)
            elif self._ahead and reader.ready_for_more and not self._is_blocked():
                if fed and is_overdue():
                    return True
                fed += 1
                self._feed(is_overdue)
            else:
                return False

    def _is_blocked(self) -> bool:
        """The client takes no replies, and nothing of it waits for anything else."""
        return self._full and self._current is None

    def _feed(self, is_overdue: Callable[[], bool]) -> None:
        ahead = self._ahead
        try:
            self._at = self._reader.feed(ahead, self._at, is_overdue)
        except Exception:
            self.site.reading_failed(Failure())
            self._reader.refuse(
                Refusal(500, "The request could not be read.", "internal_error")
            )
        if self._at >= len(ahead) or self._reader.closed:
            self._ahead = b""
            self._at = 0

    def _settle(self) -> None:
        """Have the phase and the reading of the transport agree with what is left to do."""
        phase = self._phase
        if phase is _LINGERING or phase is _CLOSED:
            return
        reader = self._reader
        ahead = len(self._ahead) - self._at
        is_busy = self._current is not None
        if ahead != self._charged:
            self._charge(ahead)
        if is_busy:
            storage = self.site.storage
            if ahead > (READ_AHEAD if storage.memory_is_full else MOST_AHEAD):
                refusal = Refusal(
                    429,
                    "Too many requests were sent ahead of their replies on this "
                    "connection: wait for replies, or use several connections.",
                    "too_many_requests",
                )
                coming = self._ahead[self._at : self._at + 64]
                refusal.is_head = reader.is_asked_for_head(coming)
                self._ahead = b""
                self._at = 0
                self._charge(0)
                reader.refuse(refusal)
        elif not (ahead or self._queue or self._full):
            if reader.expecting:
                reader.expecting = False
                self.write_reply(_CONTINUE)
            if not reader.in_message:
                self._enter(_IDLE)
        too_much = ahead > READ_AHEAD and not is_busy
        if too_much != self._paused:
            self._paused = too_much
            if too_much:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _charge(self, size: int) -> None:
        """Tell the storage how much is kept here that has not been parsed."""
        self.site.storage.in_memory += size - self._charged
        self._charged = size

    def _reply_over(self) -> None:
        """The present request has been answered."""
        self._current = None
        self._producer = None
        self._touched = True
        if self._phase is _CLOSED:
            return
        self._enter(_READING)
        if not self.keeps_alive:
            self._close()
        else:
            self._work()

    def _refuse(self, error: ApiError, *, with_body: bool = True) -> None:
        """Answer what is no request, and close once the client can have read it."""
        self._enter(_LINGERING)
        self.site.refused(error)
        self.write_reply(raw_reply(error, with_body=with_body))
        self._drop_what_was_read()
        self._touched = True
        self._lingers_until = self.site.clock.seconds() + LINGER
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()
        if self._send is not None:
            # Our side ends, so that the client sees the end of the reply.
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()

    def _close(self) -> None:
        self._enter(_CLOSED)
        self._alone = False
        self._drop_what_was_read()
        transport = self.transport
        transport.unregisterProducer()
        transport.loseConnection()
        if not (
            isinstance(transport, Connection) or getattr(transport, "_appSendBuffer", True)
        ):
            # TLS: a client that reads nothing now must not keep the connection open by
            # owing us its close_notify, for which nobody need wait (RFC 8446 6.1).
            transport.transport.loseConnection()

    # -------------------------------------------------- as time goes by

    def look(self, now: float) -> None:
        """Close the connection if too little has happened on it for too long."""
        if self._touched:
            self._touched = False
            self._since = now
        quiet = now - self._since
        site = self.site
        phase = self._phase
        if phase is _LINGERING or phase is _CLOSED:
            if phase is _LINGERING and (quiet >= LINGER_QUIET or now >= self._lingers_until):
                self.abortConnection()
        elif phase is _ANSWERING:
            self._window = None
        elif self._reader.in_message and not (self._paused or self._queue):
            self._look_at_upload(now, quiet)
        elif quiet >= site.idle_timeout:
            unsent = self.unsent()
            if not unsent:
                self._close()
            elif unsent == self._unsent_before:
                self.abortConnection()
            self._unsent_before = unsent
            self._since = now

    def _look_at_upload(self, now: float, quiet: float) -> None:
        """
        Refuse a head that has not come whole within C{read_timeout}, and a
        body of which less than C{min_upload_rate} comes for so long.  Sizes of
        chunks, their extensions, trailers and empty lines are no part of it.
        """
        site, reader = self.site, self._reader
        window = self._window
        if window is None or window[1] is not reader.in_head:
            self._window = now, reader.in_head, reader.content
            return
        began, in_head, before = window
        passed = now - began
        if in_head:
            if passed >= site.read_timeout:
                message = f"The request did not arrive: {site.read_timeout:g} s passed."
                self._refuse(ApiError(408, message))
            return
        came = reader.content - before
        if quiet >= site.read_timeout or (
            passed >= site.read_timeout and came < max(1, site.min_upload_rate * passed)
        ):
            self._refuse(
                ApiError(
                    408,
                    f"The request's body did not arrive: of it came {came} bytes in the last "
                    f"{max(passed, quiet):.0f} s; {site.min_upload_rate:g} a second are "
                    "expected (min_upload_bytes_per_sec in the server's configuration).",
                )
            )
        elif passed >= site.read_timeout:
            self._window = now, in_head, reader.content

    def stop(self) -> None:
        """Take no further request: close now if idle, else with the present reply."""
        self.keeps_alive = False
        if self._phase is _IDLE:
            self._close()

    # -------------------------------------------------- IReplyChannel

    def begin_reply(self, request: Any, producer: IPushProducer) -> None:
        """See L{IReplyChannel.begin_reply}."""
        self._producer = producer
        request.startedWriting = 1
        if self._full:
            producer.pauseProducing()

    def write_reply(self, data: bytes) -> None:
        """See L{IReplyChannel.write_reply}."""
        transport = self.transport
        if self._send is None or transport.dataBuffer or transport._tempDataBuffer:
            transport.write(data)
            return
        try:
            sent = self._send(data)
        except OSError:
            # Either it would block, or the reactor will find out why not.
            sent = 0
        if sent != len(data):
            transport.write(data[sent:])

    def unsent(self) -> int:
        """See L{IReplyChannel.unsent}."""
        return unsent(self.transport)

    def end_reply(self, request: Any) -> None:
        """See L{IReplyChannel.end_reply}."""
        request.finished = 1
        if request.touched or request.body.held is not None:
            request.let_go(None)
        if self._alone and self.keeps_alive:
            self._current = self._producer = None
            self._phase = _IDLE
            self._touched = True
        else:
            self._reply_over()

    def abort_reply(self, request: IRequest) -> None:
        """See L{IReplyChannel.abort_reply}."""
        self._producer = None
        self.abortConnection()

    # ------------------------------- what twisted.web's Requests ask for

    def requestDone(self, request: LlmuxRequest) -> None:
        """The Request has been finished."""
        self._reply_over()

    def loseConnection(self) -> None:
        """Close once what has been written is out."""
        if self._phase is not _CLOSED:
            self._close()

    def abortConnection(self) -> None:
        """Close at once, uncleanly."""
        self._enter(_CLOSED)
        self._alone = False
        self._drop_what_was_read()
        self.transport.abortConnection()

    # -------------------------------------------------- IPushProducer

    def pauseProducing(self) -> None:
        """The transport has enough for now."""
        self._full = True
        self._alone = False
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """The transport takes more."""
        self._full = False
        if self._producer is not None:
            self._producer.resumeProducing()
        elif self._current is None:
            self._work()

    def stopProducing(self) -> None:
        """The transport takes no more, ever."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
