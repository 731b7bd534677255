"""
This module makes rows for people from requests: those that are open, and the last that are
over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmux.admin.reports.moments import Moments
from llmux.monitoring.request_journal import Ended, OpenRequest, RequestJournal
from llmux.switching.switcher import ModelSwitcher

__all__ = ["RequestRows"]


class RequestRows:
    """L{RequestRows} make rows from a journal.  A row holds nothing of a body."""

    def __init__(
        self, journal: RequestJournal, switcher: ModelSwitcher, moments: Moments
    ) -> None:
        self._journal = journal
        self._switcher = switcher
        self._moments = moments

    def open(self) -> list[OpenRequest]:
        """Return the requests that wait or are in flight, the oldest first."""
        found: list[OpenRequest] = list(self._journal.waiting)
        for model in self._switcher.models.values():
            for guard in model.guards:
                holder: Any = getattr(guard, "holder", None)
                if holder is not None:
                    found.append(holder)
        return sorted(found, key=lambda request: request.number)

    def find(self, number: int) -> OpenRequest | None:
        """
        Return the request with this number that waits or is in flight; None if there is none.
        """
        return next((each for each in self.open() if each.number == number), None)

    def all(self, now: float) -> list[dict[str, Any]]:
        """
        Return rows of the open requests, the oldest first, and then of those that are over, the
        latest first.
        """
        rows = [self.of_open(request, now) for request in self.open()]
        return rows + self.of_ended(reversed(self._journal.ended))

    def of_open(self, request: OpenRequest, now: float) -> dict[str, Any]:
        """Return the row of a request that waits or is in flight."""
        method, path = request.what
        status, first_byte, size = request.progress
        waits = not request.has_guard
        began = request.started if request.granted is None else request.granted
        return self._row(
            request.number,
            request.model,
            method,
            path,
            status,
            request.started,
            now - request.started if waits else began - request.started,
            first_byte,
            None if waits else now - began,
            size,
            "waiting" if waits else "in_flight",
            self._caused(request.model, request.started, request.granted),
        )

    def of_ended(self, ended: Iterable[Ended]) -> list[dict[str, Any]]:
        """Return the rows of requests that are over."""
        rows = []
        for number, model, method, path, status, at, granted, first, end, size, how in ended:
            # A request that never got its turn has waited until its end.
            waited = (end if granted is None else granted) - at
            service = None if granted is None else end - granted
            rows.append(
                self._row(
                    number,
                    model,
                    method,
                    path,
                    status,
                    at,
                    waited,
                    first,
                    service,
                    size,
                    how,
                    self._caused(model, at, granted),
                )
            )
        return rows

    def _row(
        self,
        number: int,
        model: str,
        method: bytes,
        path: bytes,
        status: int,
        at: float,
        waited: float,
        first_byte: float,
        service: float | None,
        size: int,
        outcome: str,
        switch: int | None,
    ) -> dict[str, Any]:
        return {
            "id": str(number),
            "at": self._moments.of(at),
            "key": None,
            "model": model,
            "name": model,
            "method": method.decode("ascii", "replace"),
            "path": path.decode("ascii", "replace"),
            "status": status or None,
            "waited_secs": round(waited, 4),
            "first_byte_secs": None if first_byte < 0 else round(first_byte, 4),
            "service_secs": None if service is None else round(service, 4),
            "bytes": size,
            "outcome": outcome,
            "switch": switch,
        }

    def _caused(self, model: str, at: float, granted: float | None) -> int | None:
        """
        Return the number of the switch that the request waited for; None if its model was
        awake.
        """
        if granted is None or granted == at:
            return None
        for record in reversed(self._switcher.chronicle.switches):
            if record.ended is None or record.ended < at:
                return None
            if record.target == model and record.ended <= granted + 0.001:
                return record.number
        return None
