"""This module knows the addresses at which backends listen now, by names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

__all__ = ["Address", "Whereabouts", "address_text"]

Address: TypeAlias = tuple[str, int]
"""An address is a host and a port; the port is 0 as long as it is not known."""


class Whereabouts:
    """
    L{Whereabouts} are the addresses of backends, which may change while nobody uses them, when
    their models wake.

    @ivar addresses: the present address of each backend; this mapping changes when a backend
        moves.
    """

    def __init__(self, configured: Mapping[str, Address]) -> None:
        """@param configured: the address of each backend until it moves."""
        self._configured = dict(configured)
        self._now = dict(configured)
        self._moved: list[Callable[[str, Address], None]] = []
        self._vacated: list[Callable[[str, int], None]] = []
        self.addresses: Mapping[str, Address] = self._now

    def call_when_moved(self, moved: Callable[[str, Address], None]) -> None:
        """
        Register a function to be called with a backend's name and new address when it has
        moved.
        """
        self._moved.append(moved)

    def call_when_vacated(self, vacated: Callable[[str, int], None]) -> Callable[[], None]:
        """
        Register a function to be called with a host and a port at which there is no backend any
        more.

        @return: a function to be called once, when C{vacated} is not to be called any more.
        """
        self._vacated.append(vacated)
        return lambda: self._vacated.remove(vacated)

    def configure(self, configured: Mapping[str, Address]) -> None:
        """
        Set the configured addresses of backends.  Backends that are new are there at once, the
        others after L{reset}.
        """
        self._configured.update(configured)
        for name, address in configured.items():
            self._now.setdefault(name, address)

    def forget(self, name: str) -> None:
        """Remove a backend that does not exist any more."""
        self._configured.pop(name, None)
        address = self._now.pop(name, None)
        if address is not None and address not in self._now.values():
            for vacated in self._vacated:
                vacated(*address)

    def move(self, name: str, address: Address) -> None:
        """Note that a backend is at this address from now on."""
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
        """Note that a backend is at its configured address."""
        self.move(name, self._configured[name])


def address_text(address: Address) -> str:
    """Write an address as C{HOST:PORT}; an IPv6 address gets brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
