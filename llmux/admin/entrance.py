"""
This module leads to what is under C{/llmux/}, which is made only when somebody first asks.

The module imports nothing that a start of llmux would not import without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.web.resource import IResource

from llmux.admin.listen_address import ListenAddress

if TYPE_CHECKING:
    from llmux.admin.administration import Administration
    from llmux.admin.orders import Verb
    from llmux.control import IControl

__all__ = ["Entrance"]


class Entrance:
    """
    An entrance has the listen addresses, and makes the administration behind them.

    @ivar listen_addresses: all listen addresses.
    @ivar control: the object that carries out commands.
    @ivar generation: the number of configurations so far: 1 at the start, and one more for each
        reload.
    @ivar reload: the result of the last reload, or None if there was none.
    """

    def __init__(
        self,
        make: Callable[[Entrance], Administration],
        nothing: Callable[[], IResource],
        control: IControl,
    ) -> None:
        """
        @param make: a function that makes the administration.
        @param nothing: a function that makes the Resource of C{/llmux} where llmux does not
            serve C{/llmux/}.
        """
        self._make = make
        self._nothing = nothing
        self._made: Administration | None = None
        self.listen_addresses: list[ListenAddress] = []
        self.control = control
        self.generation = 1
        self.reload: Mapping[str, Any] | None = None
        self._more_verbs: list[Callable[[], Iterable[Verb]]] = []

    @property
    def administration(self) -> Administration:
        """Return the administration, which is made at the first call."""
        if self._made is None:
            self._made = self._make(self)
            for make in self._more_verbs:
                for verb in make():
                    self._made.add_verb(verb)
            self._made.reloaded(self.generation, self.reload)
        return self._made

    def call_for_verbs(self, make: Callable[[], Iterable[Verb]]) -> None:
        """Register a function that makes further verbs when the administration is made."""
        self._more_verbs.append(make)

    def reloaded(self, outcome: Mapping[str, Any]) -> None:
        """Record that the configuration was read anew, or could not be."""
        self.reload = outcome
        if outcome["ok"]:
            self.generation += 1
        if self._made is not None:
            self._made.reloaded(self.generation, outcome)
            self._made.events.reloaded(outcome)

    def resource_at(self, listen_address: ListenAddress) -> Callable[[], IResource]:
        """Add an address, and return a function that makes the Resource of C{/llmux} for it."""
        self.listen_addresses.append(listen_address)

        def make() -> IResource:
            if not listen_address.has_admin:
                return self._nothing()
            from llmux.admin.tree import AdminTree

            return AdminTree(self.administration, listen_address)

        return make

    def reconfigured(
        self, policy: str, names: Mapping[str, str], max_wait: float | None
    ) -> None:
        """
        Pass a changed configuration on to the administration.  L{Administration.reconfigured}
        explains the arguments.
        """
        if self._made is not None:
            self._made.reconfigured(policy, names, max_wait)

    def close(self) -> None:
        """End all streams, because llmux has stopped."""
        if self._made is not None:
            self._made.close()
