"""
The way to what is under C{/llmux/}, which is made when somebody first asks.

This module imports nothing that a start would not import anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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
    @ivar control: carries out commands; set it before the first request.
    @ivar verbs: further verbs; add them before the first request.
    """

    def __init__(
        self, make: Callable[[Entrance], Administration], nothing: Callable[[], IResource]
    ) -> None:
        """
        @param make: makes the administration.
        @param nothing: makes the Resource that stands where a door does not lead here.
        """
        self._make = make
        self._nothing = nothing
        self._made: Administration | None = None
        self.doors: list[Door] = []
        self.control: IControl | None = None
        self.verbs: list[Verb] = []

    @property
    def administration(self) -> Administration:
        """What is behind the doors."""
        if self._made is None:
            self._made = self._make(self)
        return self._made

    def behind(self, door: Door) -> Callable[[], IResource]:
        """Give what makes the Resource of C{/llmux} behind this door."""
        self.doors.append(door)

        def make() -> IResource:
            if not door.has_admin:
                return self._nothing()
            from llmux.admin.tree import AdminTree

            return AdminTree(self.administration, door)

        return make

    def close(self) -> None:
        """llmux has stopped: nobody is told anything any more."""
        if self._made is not None:
            self._made.close()
