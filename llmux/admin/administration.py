"""
This module has what all listen addresses share: the status, the commands, the events, and who
may come in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime

from llmux.admin.command_resource import CommandTrace
from llmux.admin.event_stream import EventStream
from llmux.admin.listen_address import ListenAddress
from llmux.admin.login import Login
from llmux.admin.orders import Key, Order, Verb, WrongValue, control_verbs, text_of
from llmux.admin.replies import RefusalSink
from llmux.admin.reports.moments import Moments
from llmux.admin.reports.request_rows import RequestRows
from llmux.admin.reports.status_report import StatusReport
from llmux.admin.stream_reader import StreamReader
from llmux.control import CommandError, IControl
from llmux.monitoring.metrics import Metrics
from llmux.monitoring.output_ring import OutputRing
from llmux.monitoring.request_journal import RequestJournal
from llmux.switching.facts.model import Model
from llmux.switching.switcher import ModelSwitcher

__all__ = ["Administration"]


class Administration:
    """
    The administration has all that operators see and do; L{Entrance} makes the administration
    when somebody first asks.

    @ivar control: the object that carries out commands.
    @ivar verbs: the commands that there are, by name.
    @ivar trace: the trace that commands leave.
    @ivar login: the tokens and cookies of browsers.
    @ivar report: the maker of statuses.
    @ivar names: see L{Commanded.names<llmux.admin.command_resource.Commanded>}.
    @ivar listen_addresses: the addresses, of which one may be for browsers.
    @ivar events: the stream of what changes.
    @ivar ring: the last lines that hooks and servers have written.
    @ivar log_readers: the readers that follow the log.
    """

    def __init__(
        self,
        switcher: ModelSwitcher,
        metrics: Metrics,
        refusals: RefusalSink,
        journal: RequestJournal,
        ring: OutputRing,
        clock: IReactorTime,
        listen_addresses: Sequence[ListenAddress],
        *,
        started: float,
        policy: str,
        backends: Mapping[str, tuple[str, int | None]],
        names: Mapping[str, str],
        max_wait: float | None = None,
        control: IControl,
    ) -> None:
        """
        @param started: when llmux started, on the switcher's clock.
        @param policy: the policy's name.
        @param names: all names by which requests may call models, each with the model's own
            name.
        @param max_wait: the longest time that a request is to wait, in seconds, if the policy
            has one.
        @param control: the object that carries out commands.
        """
        self.switcher = switcher
        self.metrics = metrics
        self.refusals = refusals
        self.journal = journal
        self.ring = ring
        self.listen_addresses = listen_addresses
        self.names = names
        self.control = control
        self.login = Login(clock.seconds)
        self.trace = CommandTrace(metrics)
        self.moments = Moments(switcher.clock.seconds)
        self.report = StatusReport(
            switcher,
            metrics,
            self.moments,
            policy,
            backends,
            names,
            started=started,
            max_wait=max_wait,
        )
        self.clock = clock
        self._rows = RequestRows(journal, switcher, self.moments)
        self.events = EventStream(
            switcher,
            clock,
            self.moments,
            self.report,
            self.status,
            self._entries,
            journal,
            self._rows,
            ring,
            self.trace,
        )
        self.log_readers: set[StreamReader] = set()
        self.verbs: dict[str, Verb] = {}
        for verb in control_verbs(self.control):
            self.add_verb(verb)
        self.add_verb(
            Verb(
                "cancel",
                {"request": Key(_number_of, is_required=True)},
                self._cancel,
                while_stopping=True,
            )
        )
        self.add_verb(Verb("open", {}, self._open, is_for_socket=True, is_secret=True))

    def add_verb(self, verb: Verb) -> None:
        """Accept commands with this verb from now on."""
        self.verbs[verb.name] = verb

    def reconfigured(
        self, policy: str, names: Mapping[str, str], max_wait: float | None
    ) -> None:
        """Report another policy, other names, and another longest wait from now on."""
        self.names = names
        self.report.reconfigured(policy, names, max_wait)

    def reloaded(self, generation: int, outcome: Mapping[str, Any] | None) -> None:
        """Report the result of the last reload, and the number of configurations so far."""
        self.report.generation = generation
        self.report.reload = outcome

    def close(self) -> None:
        """End all streams, because llmux has stopped."""
        self.events.close()
        for reader in list(self.log_readers):
            reader.end()

    # ------------------------------------------------------------- Commanded

    @property
    def is_stopping(self) -> bool:
        """See L{Commanded.is_stopping<llmux.admin.command_resource.Commanded>}."""
        return self.switcher.stopping

    def status(self, model: str | None = None) -> Mapping[str, Any]:
        """
        Return the status, as an object that can be written as JSON.

        @param model: the only model that the status is to have; None for all models.
        """
        return self.report.of_all(self.control, model)

    def _entries(self, models: list[Model]) -> list[dict[str, Any]]:
        return self.report.of_models(models, self.control, self.switcher.clock.seconds())

    def request_rows(self) -> list[dict[str, Any]]:
        """Return a row for each request that is open, and for the last that are over."""
        return self._rows.all(self.switcher.clock.seconds())

    def history(self, secs: float) -> dict[str, Any]:
        """Return what has happened to models, and in switches, in the last C{secs} seconds."""
        return self.report.history(self.switcher.clock.seconds() - secs)

    # ------------------------------------------------------------- own verbs

    def _cancel(self, order: Order) -> Deferred[None]:
        request = self._rows.find(order["request"])
        if request is None:
            return fail(
                CommandError(
                    f"There is no request {order['request']} in flight or waiting.",
                    404,
                    "request_not_found",
                    "request",
                )
            )
        request.cancel()
        return succeed(None)

    def _open(self, order: Order) -> Deferred[Mapping[str, Any]]:
        url = next((at.url for at in self.listen_addresses if at.url and at.has_admin), None)
        if url is None:
            return fail(
                CommandError(
                    "No browser can reach this llmux: it listens on Unix sockets only. Set "
                    "admin.listen in its configuration, as in tcp:3001:interface=127.0.0.1",
                    409,
                    "no_address",
                )
            )
        return succeed({"url": f"{url}/llmux/?token={self.login.new_token()}"})


def _number_of(value: object) -> int:
    """Read the number of a request, which may be given as text."""
    text = text_of(str(value) if isinstance(value, int) else value)
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise WrongValue("the number of a request, as /llmux/requests has it")
    return int(text)
