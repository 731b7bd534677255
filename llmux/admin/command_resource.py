"""
This module has the Resource of one verb: C{POST /llmux/VERB} takes a JSON object, and returns
the status.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from llmux.admin.listen_address import Role
from llmux.admin.orders import Verb, parse_order
from llmux.admin.replies import AdminResource, RefusalSink, send_json
from llmux.admin.roles import Access, Asker
from llmux.control import LONGEST_COMMAND, CommandError
from llmux.switching.stories.shutdown import SHUTTING_DOWN
from llmux.web.body import body_of
from llmux.web.error_reply import ApiError, internal_error

__all__ = ["CommandResource", "CommandTrace", "Commanded"]

_LONGEST = 300


class CommandMetrics(Protocol):
    """L{CommandMetrics} count commands."""

    def commanded(self, verb: str, result: str) -> None:
        """Count one more command that has had this result."""


class CommandTrace:
    """
    A command leaves a trace: an event in the log, a count, and a call of the listener.

    @ivar listener: a function that is called with the asker's name, the verb and the result of
        each command; or None.
    """

    _log = Logger()

    def __init__(self, metrics: CommandMetrics) -> None:
        self._metrics = metrics
        self.listener: Callable[[str, str, str], None] | None = None

    def ended(self, who: str, verb: str, result: str, order: str, reason: str = "") -> None:
        """
        Record that a command has ended.

        @param result: C{ok}, or the code of the error.
        @param order: the body of the command, for the log.
        @param reason: why it failed.
        """
        self._metrics.commanded(verb, result)
        self._log.info(
            "command of {who}: {verb}{order}: {result}{reason}",
            event="command",
            who=who,
            verb=verb,
            order=f" {order}" if order else "",
            result=result,
            reason=f" ({reason[:_LONGEST]})" if reason else "",
        )
        if self.listener is not None:
            self.listener(who, verb, result)

    def denied(self, verb: str, result: str) -> None:
        """
        Count a command that was refused before its body was read; the log of refusals has the
        reason.
        """
        self._metrics.commanded(verb, result)


class Commanded(Protocol):
    """
    A L{Commanded} is what commands act upon.

    @ivar trace: the trace that commands leave.
    """

    trace: CommandTrace

    @property
    def is_stopping(self) -> bool:
        """Tell whether llmux is stopping, so that most commands are refused."""

    @property
    def names(self) -> Mapping[str, str]:
        """
        Return all names by which requests may call models, each with the model's own name.
        """

    def status(self) -> Mapping[str, Any]:
        """Return the status, for the answer to a command."""


class CommandResource(AdminResource):
    """A L{CommandResource} is the Resource of one verb."""

    _log = Logger()

    methods: ClassVar[tuple[bytes, ...]] = (b"POST",)
    role: ClassVar[Role | None] = Role.CONTROL

    def __init__(
        self, access: Access, refusals: RefusalSink, commanded: Commanded, verb: Verb
    ) -> None:
        super().__init__(access, refusals)
        self._commanded = commanded
        self._verb = verb

    def deny(self, request: Request, error: ApiError) -> None:
        """See L{AdminResource.deny}."""
        self._commanded.trace.denied(self._verb.name, "denied")
        self.refuse(request, error)

    def answer(self, request: Request, asker: Asker) -> None:
        """See L{AdminResource.answer}."""
        verb = self._verb
        if verb.is_for_socket and not self.access.listen_address.is_socket:
            self.deny(
                request,
                ApiError(
                    403,
                    f"{verb.name} is taken on llmux's Unix socket only.",
                    "control_denied",
                ),
            )
            return
        types = request.requestHeaders.getRawHeaders(b"content-type", ())
        kind = types[0].partition(b";")[0].strip().lower() if len(types) == 1 else b""
        if kind != b"application/json":
            # A page of another origin can send forms and plain text, but for JSON its browser
            # must ask us first (CORS).
            self._commanded.trace.denied(verb.name, "wrong_type")
            self.refuse(
                request,
                ApiError(
                    415,
                    "A command is a JSON object: send it with Content-Type: application/json.",
                    "unsupported_media_type",
                ),
            )
            return
        left: list[Failure] = []
        request.notifyFinish().addErrback(left.append)
        Deferred.fromCoroutine(self._carry_out(request, asker, left)).addErrback(
            lambda failure: self._broke(request, asker, failure, left)
        )

    async def _carry_out(self, request: Request, asker: Asker, left: Sequence[Failure]) -> None:
        """
        Carry the command out, and answer.

        @param left: this holds a failure from the time on when the client has left.
        """
        verb, commanded = self._verb, self._commanded
        who = asker.name or "anybody"
        shown = ""
        answer: Mapping[str, Any] | None = None
        error: CommandError | None = None
        try:
            body = _body(request)
            if not verb.is_secret:
                shown = " ".join(body.decode("utf-8", "replace").split())[:_LONGEST]
            if commanded.is_stopping and not verb.while_stopping:
                raise CommandError(f"{SHUTTING_DOWN}.", 503, "shutting_down")
            order = parse_order(verb, asker, body, commanded.names)
            answer = await verb.run(order)
        except CommandError as refused:
            error = refused
        if error is None:
            commanded.trace.ended(who, verb.name, "ok", shown)
        else:
            commanded.trace.ended(who, verb.name, error.code, shown, str(error))
        if left:
            return
        if error is None:
            send_json(request, commanded.status() if answer is None else answer)
        else:
            wait = 5.0 if error.status == 503 else None
            self.refuse(
                request,
                ApiError(error.status, str(error), error.code, error.param, wait),
            )

    def _broke(
        self, request: Request, asker: Asker, failure: Failure, left: Sequence[Failure]
    ) -> None:
        """Log a defect of llmux, or of whatever carries out commands, and answer with 500."""
        self._commanded.trace.ended(asker.name or "anybody", self._verb.name, "broken", "")
        self._log.failure(
            "a defect while {verb} was carried out", failure, verb=self._verb.name
        )
        if not request.finished and not left:
            self.refuse(request, internal_error())


def _body(request: Request) -> bytes:
    """
    Return the whole body.

    @raise CommandError: the body is too large.
    """
    body = body_of(request)
    try:
        if body.length > LONGEST_COMMAND:
            raise CommandError(
                f"The body is larger than {LONGEST_COMMAND} bytes.", 413, "body_too_large"
            )
        data = body.in_memory()
        if data is not None:
            return data
        with body.open() as stream:
            return stream.read()
    finally:
        if body is not getattr(request, "body", None):
            body.close()
