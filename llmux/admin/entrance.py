"""
The way to what is under C{/llmux/}, which is made when somebody first asks.

This module imports nothing that a start would not import anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.web.resource import IResource

from llmux.admin.doors import Door

if TYPE_CHECKING:
    from llmux.admin.administration import Administration
    from llmux.admin.orders import Verb
    from llmux.control import IControl

__all__ = ["Entrance"]


class Entrance:
    """
    Doors, and the administration behind them.

    @ivar doors: the ways in.
    @ivar control: carries out commands.
    @ivar generation: counts configurations, from 1: each reload is one more.
    @ivar reload: what came of the last reload, or None.
    """

    def __init__(
        self,
        make: Callable[[Entrance], Administration],
        nothing: Callable[[], IResource],
        control: IControl,
    ) -> None:
        """
        @param make: makes the administration.
        @param nothing: makes the Resource that stands where a door does not lead here.
        """
        self._make = make
        self._nothing = nothing
        self._made: Administration | None = None
        self.doors: list[Door] = []
        self.control = control
        self.generation = 1
        self.reload: Mapping[str, Any] | None = None
        self._more_verbs: list[Callable[[], Iterable[Verb]]] = []

    @property
    def administration(self) -> Administration:
        """What is behind the doors."""
        if self._made is None:
            self._made = self._make(self)
            for make in self._more_verbs:
                for verb in make():
                    self._made.add_verb(verb)
            self._made.reloaded(self.generation, self.reload)
        return self._made

    def call_for_verbs(self, make: Callable[[], Iterable[Verb]]) -> None:
        """Have further verbs made when somebody first asks."""
        self._more_verbs.append(make)

    def reloaded(self, outcome: Mapping[str, Any]) -> None:
        """The configuration was read anew, or could not be."""
        self.reload = outcome
        if outcome["ok"]:
            self.generation += 1
        if self._made is not None:
            self._made.reloaded(self.generation, outcome)
            self._made.events.reloaded(outcome)

    def behind(self, door: Door) -> Callable[[], IResource]:
        """Give what makes the Resource of C{/llmux} behind this door."""
        self.doors.append(door)

        def make() -> IResource:
            if not door.has_admin:
                return self._nothing()
            from llmux.admin.tree import AdminTree

            return AdminTree(self.administration, door)

        return make

    def reconfigured(
        self, policy: str, names: Mapping[str, str], max_wait: float | None
    ) -> None:
        """The configuration has changed.  See L{Administration} for the arguments."""
        if self._made is not None:
            self._made.reconfigured(policy, names, max_wait)

    def close(self) -> None:
        """llmux has stopped: nobody is told anything any more."""
        if self._made is not None:
            self._made.close()
