"""This module has the Resources of what can be seen: status, events, requests, log, history."""

from __future__ import annotations

from typing import ClassVar

from twisted.web.server import Request

from llmux.admin.administration import Administration
from llmux.admin.event_stream import KINDS, kinds_of
from llmux.admin.listen_address import Role
from llmux.admin.replies import AdminResource, send, send_json
from llmux.admin.roles import Access, Asker
from llmux.admin.stream_reader import StreamReader
from llmux.monitoring.output_ring import OutputLine
from llmux.similar_names import most_similar
from llmux.web.error_reply import ApiError

__all__ = ["EventsView", "HistoryView", "LogView", "RequestsView", "StatusView", "WhoamiView"]

_MOST_TAIL = 100_000
_DEFAULT_TAIL = 200
_DEFAULT_HISTORY = 24 * 3600.0

# A terminal would act upon these characters.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(10, 32), 127)}


class _View(AdminResource):
    """A L{_View} is a Resource that shows something of an administration."""

    def __init__(self, access: Access, administration: Administration) -> None:
        super().__init__(access, administration.refusals)
        self._administration = administration

    def model(self, request: Request) -> tuple[bool, str | None]:
        """
        Return the model that the address names, if it names one.

        @return: whether to go on (if not, there is no such model, and the request has been
            refused), and the model's own name, or None if the address names no model.
        """
        given = _argument(request, "model")
        if given is None:
            return True, None
        names = self._administration.names
        if given in names:
            return True, names[given]
        self._unknown_model(request, given)
        return False, None

    def _unknown_model(self, request: Request, model: str) -> None:
        near = most_similar(model, self._administration.names)
        hint = f" Did you mean {near}?" if near else ""
        self.refuse(
            request,
            ApiError(
                404, f"There is no model {model[:200]!r}.{hint}", "model_not_found", "model"
            ),
        )

    def number(self, request: Request, name: str, default: float, most: float) -> float | None:
        """
        Return a number in the address; None if the value is no number, and then the request has
        been refused.
        """
        text = _argument(request, name)
        if text is None:
            return default
        if text.isascii() and text.isdigit() and len(text) < 12:
            return min(float(text), most)
        self.refuse(
            request,
            ApiError(
                422, f"{name} is {text[:80]!r}; it must be a number.", "wrong_value", name
            ),
        )
        return None


def _argument(request: Request, name: str) -> str | None:
    values = request.args.get(name.encode())
    return values[-1].decode("utf-8", "replace") if values else None


class StatusView(_View):
    """This Resource is the status: C{GET /llmux/status?model=NAME}."""

    def answer(self, request: Request, asker: Asker) -> None:
        """See L{AdminResource.answer}."""
        found, model = self.model(request)
        if found:
            send_json(request, self._administration.status(model))


class WhoamiView(_View):
    """This Resource tells an asker its roles: C{GET /llmux/whoami}."""

    role: ClassVar[Role | None] = None

    def answer(self, request: Request, asker: Asker) -> None:
        """See L{AdminResource.answer}."""
        roles = [role.value for role in Role if role in asker.roles]
        send_json(request, {"name": asker.name, "roles": roles})


class EventsView(_View):
    """This Resource is the stream of events: C{GET /llmux/events?only=model,switch}."""

    methods: ClassVar[tuple[bytes, ...]] = (b"GET",)

    def answer(self, request: Request, asker: Asker) -> None:
        """See L{AdminResource.answer}."""
        only, unknown = kinds_of(request.args.get(b"only", ()))
        if unknown:
            near = most_similar(unknown[0], KINDS)
            hint = f"did you mean {near}?" if near else f"known: {', '.join(KINDS)}"
            self.refuse(
                request,
                ApiError(422, f"only has {unknown[0][:80]!r}: {hint}", "wrong_value", "only"),
            )
            return
        last = request.requestHeaders.getRawHeaders(b"last-event-id", ())
        self._administration.events.follow(
            request, only, last[0].decode("latin-1") if last else None
        )


class RequestsView(_View):
    """This Resource is the list of requests: C{GET /llmux/requests}."""

    def answer(self, request: Request, asker: Asker) -> None:
        """See L{AdminResource.answer}."""
        send_json(request, {"requests": self._administration.request_rows()})


class HistoryView(_View):
    """
    This Resource is what has happened in the last seconds: C{GET /llmux/history?secs=1800}.
    """

    def answer(self, request: Request, asker: Asker) -> None:
        """See L{AdminResource.answer}."""
        secs = self.number(request, "secs", _DEFAULT_HISTORY, _DEFAULT_HISTORY)
        if secs is not None:
            send_json(request, self._administration.history(secs))


class LogView(_View):
    """
    This Resource is what hooks and servers have written: C{GET
    /llmux/log?model=NAME&tail=200&follow=true}.
    """

    methods: ClassVar[tuple[bytes, ...]] = (b"GET",)

    def answer(self, request: Request, asker: Asker) -> None:
        """See L{AdminResource.answer}."""
        administration = self._administration
        found, model = self.model(request)
        if not found:
            return
        tail = self.number(request, "tail", _DEFAULT_TAIL, _MOST_TAIL)
        if tail is None:
            return
        text = b"".join(self._text(line) for line in administration.ring.tail(model, int(tail)))
        if _argument(request, "follow") not in ("true", "1", ""):
            send(request, b"text/plain; charset=utf-8", text)
            return
        reader = StreamReader(request, administration.clock)
        listeners = administration.ring.listeners

        def wrote(line: OutputLine) -> None:
            if model is None or line.model == model:
                reader.write(self._text(line))

        def gone() -> None:
            listeners.remove(wrote)
            administration.log_readers.discard(reader)

        listeners.append(wrote)
        administration.log_readers.add(reader)
        reader.on_gone = gone
        reader.on_caught_up = lambda: reader.write(
            b"... %d lines left out: they were not read in time\n" % reader.missed
        )
        reader.begin(b"text/plain; charset=utf-8")
        reader.write(text)

    def _text(self, line: OutputLine) -> bytes:
        text = line.text.decode("utf-8", "replace").translate(_CONTROLS)
        at = self._administration.moments.of(line.at)
        return f"{at} {line.model} {line.hook} {line.stream}: {text}\n".encode()
