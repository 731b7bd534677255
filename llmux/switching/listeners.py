"""
Those who are told of what happens: the policy, and observers after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmux.interfaces import (
    Arrived,
    Completed,
    Failed,
    Forwarded,
    Left,
    Observer,
    PolicyEvent,
    Slept,
    Woke,
)
from llmux.switching.containment import ContainedPolicy

__all__ = ["Listeners"]

_EVERY_EVENT: frozenset[type[Any]] = frozenset(
    {Arrived, Completed, Failed, Forwarded, Left, Slept, Woke}
)
_REQUEST_EVENTS = frozenset({Arrived, Completed, Forwarded})


class Listeners:
    """
    Tells the policy of the events that it wants to know, and observers of all events.

    @ivar of_requests: somebody wants to know of each request.
    """

    def __init__(self, policy: ContainedPolicy, observers: Iterable[Observer]) -> None:
        self.of_requests = False
        self._policy = policy
        self._observers = tuple(observers)
        self._by_kind: dict[type[Any], tuple[Observer, ...]] = {}
        self.choose()

    def choose(self) -> None:
        """The policy is another, or wants to know of other events."""
        observed = self._policy.observed
        self._by_kind = {
            kind: ((self._policy.observe,) if kind in observed else ()) + self._observers
            for kind in _EVERY_EVENT
        }
        self.of_requests = any(self._by_kind[kind] for kind in _REQUEST_EVENTS)

    def add(self, observer: Observer) -> None:
        """Tell this observer of every event from now on."""
        self._observers += (observer,)
        self.choose()

    def remove(self, observer: Observer) -> None:
        """Tell this observer of nothing any more."""
        self._observers = tuple(each for each in self._observers if each != observer)
        self.choose()

    def want(self, kind: type[Any]) -> bool:
        """Tell whether somebody wants to know of such events."""
        return bool(self._by_kind[kind])

    def tell(self, event: PolicyEvent) -> None:
        """Something has happened: tell those who want to know."""
        for listen in self._by_kind[type(event)]:
            try:
                listen(event)
            except Exception:
                self._policy.listener_failed(listen)
