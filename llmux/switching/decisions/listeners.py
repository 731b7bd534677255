"""This module tells events to the policy, and after it to observers."""

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
from llmux.switching.decisions.containment import ContainedPolicy

__all__ = ["Listeners"]

_EVERY_EVENT: frozenset[type[Any]] = frozenset(
    {Arrived, Completed, Failed, Forwarded, Left, Slept, Woke}
)
_REQUEST_EVENTS = frozenset({Arrived, Completed, Forwarded})


class Listeners:
    """
    L{Listeners} tell the policy the events that it wants to know, and observers all events.

    @ivar of_requests: whether the policy or an observer wants to know of each request.
    """

    def __init__(self, policy: ContainedPolicy, observers: Iterable[Observer]) -> None:
        self.of_requests = False
        self._policy = policy
        self._observers = tuple(observers)
        self._by_kind: dict[type[Any], tuple[Observer, ...]] = {}
        self.choose()

    def choose(self) -> None:
        """Choose again who is told which event, because the policy is another one."""
        observed = self._policy.observed
        self._by_kind = {
            kind: ((self._policy.observe,) if kind in observed else ()) + self._observers
            for kind in _EVERY_EVENT
        }
        self.of_requests = any(self._by_kind[kind] for kind in _REQUEST_EVENTS)

    def add(self, observer: Observer) -> None:
        """Tell this observer every event from now on."""
        self._observers += (observer,)
        self.choose()

    def remove(self, observer: Observer) -> None:
        """Tell this observer nothing any more."""
        self._observers = tuple(each for each in self._observers if each != observer)
        self.choose()

    def tell(self, event: PolicyEvent) -> None:
        """Tell an event to all that want to know it."""
        for listen in self._by_kind[type(event)]:
            try:
                listen(event)
            except Exception:
                self._policy.listener_failed(listen)
