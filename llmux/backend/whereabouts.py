"""
The addresses at which backends listen now, by names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

__all__ = ["Address", "Whereabouts", "address_text"]

Address: TypeAlias = tuple[str, int]
"""A host and a port; the port is 0 as long as nobody knows it."""


class Whereabouts:
    """
    The whereabouts of backends, which may move while nobody uses them: when
    their models wake.

    @ivar addresses: where each backend is now; a view that always tells the truth.
    """

    def __init__(self, configured: Mapping[str, Address]) -> None:
        """
        @param configured: where each backend is until it moves.
        """
        self._configured = dict(configured)
        self._now = dict(configured)
        self._moved: list[Callable[[str, Address], None]] = []
        self._vacated: list[Callable[[str, int], None]] = []
        self.addresses: Mapping[str, Address] = self._now

    def call_when_moved(self, moved: Callable[[str, Address], None]) -> None:
        """Have a function called, when a backend has moved, with its name and new address."""
        self._moved.append(moved)

    def call_when_vacated(self, vacated: Callable[[str, int], None]) -> None:
        """Have a function called with the host and the port where no backend is any more."""
        self._vacated.append(vacated)

    def configure(self, configured: Mapping[str, Address]) -> None:
        """
        Backends are to be found at these addresses: those that are new at once, the others
        after L{reset}.
        """
        self._configured.update(configured)
        for name, address in configured.items():
            self._now.setdefault(name, address)

    def forget(self, name: str) -> None:
        """A backend is no more."""
        self._configured.pop(name, None)
        address = self._now.pop(name, None)
        if address is not None and address not in self._now.values():
            for vacated in self._vacated:
                vacated(*address)

    def move(self, name: str, address: Address) -> None:
        """A backend is at this address from now on."""
        before = self._now[name]
        if address == before:
            return
        self._now[name] = address
        for moved in self._moved:
            moved(name, address)
        if before not in self._now.values():
            for vacated in self._vacated:
                vacated(*before)

    def reset(self, name: str) -> None:
        """A backend is where it was configured to be."""
        self.move(name, self._configured[name])


def address_text(address: Address) -> str:
    """Write an address as C{HOST:PORT}, with brackets where the host needs them."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
