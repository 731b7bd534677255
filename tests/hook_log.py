"""This module keeps what hooks have had written to the log."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

__all__ = ["HookLog"]


@implementer(ILogObserver)
class HookLog:
    """
    This observer keeps the log of hooks while it is the context of a C{with}.

    @ivar events: everything logged in this namespace and those below it.
    @ivar keep_lines: false to only count the output.
    @ivar characters: how many hooks have written, ends of lines left out.
    @ivar left_out: how many lines were not logged.
    """

    def __init__(self, namespace: str = "llmux.hooks") -> None:
        self._namespace = namespace
        self.events: list[LogEvent] = []
        self.keep_lines = True
        self.characters = 0
        self.left_out = 0
        self._wanted: list[tuple[str, Deferred[None]]] = []

    def __enter__(self) -> HookLog:
        globalLogPublisher.addObserver(self)
        return self

    def __exit__(self, *exception: object) -> None:
        globalLogPublisher.removeObserver(self)

    def __call__(self, event: LogEvent) -> None:
        if not str(event.get("log_namespace")).startswith(self._namespace):
            return
        if event.get("event") == "output_left_out":
            self.left_out += event["count"]
        self.characters += len(event.get("line", ""))
        if self.keep_lines or "line" not in event:
            self.events.append(event)
        ready = [d for line, d in self._wanted if line == event.get("line")]
        self._wanted = [(line, d) for line, d in self._wanted if line != event.get("line")]
        for deferred in ready:
            deferred.callback(None)

    def lines(self, stream: str = "stdout") -> list[str]:
        """Find what hooks wrote to a stream of theirs."""
        return [
            event["line"]
            for event in self.events
            if event.get("stream") == stream and "line" in event
        ]

    def outcomes(self) -> list[dict[str, Any]]:
        """Find the structured events, but for those about output."""
        return [e for e in self.events if e.get("event") not in (None, "output_left_out")]

    def line(self, line: str) -> Deferred[None]:
        """Make a Deferred that fires when a hook has written this line."""
        deferred: Deferred[None] = Deferred()
        if any(event.get("line") == line for event in self.events):
            deferred.callback(None)
        else:
            self._wanted.append((line, deferred))
        return deferred
