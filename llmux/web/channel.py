"""
This module has the server's side of a client's connection.  Requests are parsed by llhttp;
replies are written either through twisted.web's Request, or as the bytes that are sent.

A connection has a phase.  Bytes that have come and have not been parsed are in C{_ahead};
requests that are parsed and wait for their turn are in the queue::

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
    A connection is in one of these phases; the module's docstring has the table.

    @ivar after: the phases that may come next.  The steps of a request that is alone, from IDLE
        to ANSWERING and back, are not checked.
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
    A channel is one client's connection.  Its requests use it as they would use an
    L{twisted.web.http.HTTPChannel}.

    While a request of the connection waits or is in flight, the connection is read, whatever
    the client sends, because only reading shows that the client has left.  If a client sends
    more than C{MOST_AHEAD} bytes ahead, a refusal follows in its turn, after the replies to
    earlier requests.
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
        # A request that comes in one piece, with a head that the memo knows, needs no reader.
        self._reader: RequestReader | None = None
        # Bytes that have come, and up to where they have been parsed.
        self._ahead = b""
        self._at = 0
        # How many bytes of that the storage has counted.
        self._charged = 0
        # The present request came in one piece, and nothing has happened since.
        self._alone = False
        # Whether reading from the transport is paused.
        self._paused = False
        # Whether L{_work} runs now, and the call that runs it in the next turn of the reactor.
        self._working = False
        self._later: IDelayedCall | None = None
        self._lingers_until = 0.0
        self._send: Callable[[bytes], int] | None = None
        # For the sweep: whether something has happened since the last look, and when that was
        # noticed.
        self._touched = True
        self._since = 0.0
        # While a request comes: when the present window began, whether the head was coming
        # then, and how many bytes of the body had come.
        self._window: tuple[float, bool, int] | None = None
        self._unsent_before = 0

    def _enter(self, phase: ChannelPhase) -> None:
        assert phase in self._phase.after, (self._phase, phase)
        self._phase = phase

    # ------------------------------------------------------------- protocol

    @property
    def factory(self) -> ChannelOwner:
        """Return the site, which Requests ask for by this name in order to log."""
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
                    self._start(head, RequestBody(body, len(body)))
                    return
            # Empty lines before a request are allowed, but do not count as a sign that the
            # client is active.
            data = data.lstrip(b"\r\n")
            if not data:
                return
            self._enter(_READING)
        elif phase is _LINGERING or phase is _CLOSED:
            self._touched = True
            return
        self._touched = True
        self._alone = False
        reader = self._reader
        if reader is None:
            site = self.site
            self._reader = RequestReader(
                self._queue, site.limits, site.heads, site.scan, site.access, site.storage
            )
        elif reader.closed:
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
        if self._reader is not None:
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
        Parse the bytes that have come, and answer the requests that can be answered, for as
        long as one turn of the reactor may take; the rest is done in the next turn.
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
        """
        Work until C{is_overdue}, and tell whether something is left that could be done at once.
        """
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
            elif (
                reader is not None
                and self._ahead
                and reader.ready_for_more
                and not self._is_blocked()
            ):
                if fed and is_overdue():
                    return True
                fed += 1
                self._feed(reader, is_overdue)
            else:
                return False

    def _is_blocked(self) -> bool:
        """
        Tell whether the client takes no replies, and no request of it waits for anything else.
        """
        return self._full and self._current is None

    def _feed(self, reader: RequestReader, is_overdue: Callable[[], bool]) -> None:
        ahead = self._ahead
        try:
            self._at = reader.feed(ahead, self._at, is_overdue)
        except Exception:
            self.site.reading_failed(Failure())
            reader.refuse(Refusal(500, "The request could not be read.", "internal_error"))
        if self._at >= len(ahead) or reader.closed:
            self._ahead = b""
            self._at = 0

    def _settle(self) -> None:
        """Set the phase, and whether the transport is read, by what is left to do."""
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
            if reader is not None and ahead > (
                READ_AHEAD if storage.memory_is_full else MOST_AHEAD
            ):
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
            if reader is not None and reader.expecting:
                reader.expecting = False
                self.write_reply(_CONTINUE)
            if reader is None or not reader.in_message:
                self._enter(_IDLE)
        too_much = ahead > READ_AHEAD and not is_busy
        if too_much != self._paused:
            self._paused = too_much
            if too_much:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _charge(self, size: int) -> None:
        """Tell the storage how many bytes that have not been parsed are kept here."""
        self.site.storage.in_memory += size - self._charged
        self._charged = size

    def _reply_over(self) -> None:
        """Go on after the reply to the present request."""
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
        """
        Answer bytes that are no sound request, and close the connection when the client has had
        time to read the reply.
        """
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
            # Our side of the connection is ended, so that the client sees the end of the reply.
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
            # With TLS, a client that reads nothing must not keep the connection open by not
            # sending its close_notify, for which a server need not wait (RFC 8446 6.1).
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
        elif (
            (reader := self._reader) is not None
            and reader.in_message
            and not (self._paused or self._queue)
        ):
            self._look_at_upload(reader, now, quiet)
        elif quiet >= site.idle_timeout:
            unsent = self.unsent()
            if not unsent:
                self._close()
            elif unsent == self._unsent_before:
                self.abortConnection()
            self._unsent_before = unsent
            self._since = now

    def _look_at_upload(self, reader: RequestReader, now: float, quiet: float) -> None:
        """
        Refuse a head that is not complete within C{read_timeout} seconds, and a body that comes
        more slowly than C{min_upload_rate} bytes per second for as long.  Sizes of chunks,
        their extensions, trailers and empty lines do not count.
        """
        site = self.site
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
        """
        Take no further request: close now if the connection is idle, else after the present
        reply.
        """
        self.keeps_alive = False
        if self._phase is _IDLE:
            self._close()

    # -------------------------------------------------- IReplyChannel

    def begin_reply(self, request: Any, producer: IPushProducer) -> None:
        """See L{IReplyChannel.begin_reply}."""
        self._producer = producer
        # The channel writes these fields of the request itself, here and in end_reply: two
        # methods of the request would cost 550 of 108,000 instructions per request.
        request.startedWriting = 1
        if self._full:
            producer.pauseProducing()

    def write_reply(self, data: bytes) -> None:
        """See L{IReplyChannel.write_reply}."""
        transport = self.transport
        send = self._send
        if send is None or transport.dataBuffer or transport._tempDataBuffer:
            transport.write(data)
            return
        try:
            sent = send(data)
        except OSError:
            # Either the socket is full, or the reactor will find out what is wrong.
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
        """Go on after a Request that has been finished."""
        self._reply_over()

    def loseConnection(self) -> None:
        """Close the connection when all that was written has been sent."""
        if self._phase is not _CLOSED:
            self._close()

    def abortConnection(self) -> None:
        """Close the connection at once."""
        self._enter(_CLOSED)
        self._alone = False
        self._drop_what_was_read()
        self.transport.abortConnection()

    # -------------------------------------------------- IPushProducer

    def pauseProducing(self) -> None:
        """Pause the producer, because the transport has enough for now."""
        self._full = True
        self._alone = False
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """Resume the producer, because the transport takes more."""
        self._full = False
        if self._producer is not None:
            self._producer.resumeProducing()
        elif self._current is None:
            self._work()

    def stopProducing(self) -> None:
        """Stop the producer, because the transport takes no more."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
