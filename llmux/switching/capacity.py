"""
The ledger of capacity: which model holds how much of which resource.

A model that may be awake holds what it needs; what a switch will need is
reserved for it.  The ledger is the one truth about room, and it is strict: no
estimate enters it, and nothing is woken without room in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["ONE_SLOT", "Capacity", "CapacityError", "Needs", "Reservation"]

Needs = Mapping[str, int]
"""Amounts by the names of resources."""

ONE_SLOT: Needs = {"gpu": 1}
"""The only resource, where none are configured; then every model needs all of it."""


class CapacityError(RuntimeError):
    """A call would take what there is not: a defect of llmux."""


class Reservation:
    """
    The room for one switch, from what is free and from what its victims hold.

    @ivar target: the name of the model that the room is for.
    @ivar needs: what that model needs.
    @ivar victims: the names of the models that make room.
    """

    __slots__ = ("needs", "target", "victims")

    def __init__(self, target: str, needs: Needs, victims: frozenset[str]) -> None:
        self.target = target
        self.needs = needs
        self.victims = victims


class Capacity:
    """
    Every unit of every resource is held by a model, or claimed by a
    reservation, or free.

    Only models that are found awake at start may hold more than there is;
    while a resource is overdrawn nothing can be reserved of it.
    """

    def __init__(self, total: Needs) -> None:
        self.total = dict(total)
        self._held: dict[str, Needs] = {}
        self._reservations: set[Reservation] = set()

    def holders(self) -> Iterable[str]:
        """The names of the models that hold something."""
        return self._held.keys()

    def held(self, model: str) -> Needs:
        """What the model holds; nothing if it is asleep."""
        return self._held.get(model, {})

    def free(self, resource: str) -> int:
        """What is neither held nor claimed; below 0 only while it is overdrawn at start."""
        held = sum(needs.get(resource, 0) for needs in self._held.values())
        claimed = sum(self._claim(each, resource) for each in self._reservations)
        return self.total[resource] - held - claimed

    def _claim(self, reservation: Reservation, resource: str) -> int:
        """What the reservation needs beyond what its victims hold still."""
        own = sum(self.held(victim).get(resource, 0) for victim in reservation.victims)
        return max(0, reservation.needs.get(resource, 0) - own)

    def overdrawn(self, needs: Needs) -> bool:
        """More is held of one of these resources than there is of it."""
        return any(amount and self.free(name) < 0 for name, amount in needs.items())

    def hold(self, model: str, needs: Needs) -> None:
        """The model may be awake, whether there is room or not: it is found so at start."""
        if model in self._held:
            raise CapacityError(f"{model} holds its needs already")
        self._held[model] = dict(needs)

    def release(self, model: str) -> None:
        """The model is asleep: what it held goes to who has reserved it, or is free."""
        if self._held.pop(model, None) is None:
            raise CapacityError(f"{model} holds nothing")

    def reserve(
        self, target: str, needs: Needs, victims: Iterable[str] = ()
    ) -> Reservation | None:
        """
        Reserve what the target needs: from what is free, and from what the
        victims hold and will give back.

        @return: None if that is not enough, or if a victim makes room for
            another switch already.
        """
        wanted = frozenset(victims)
        if any(wanted & each.victims for each in self._reservations):
            return None
        for name, amount in needs.items():
            own = sum(self.held(victim).get(name, 0) for victim in wanted)
            if amount and self.free(name) + own < amount:
                return None
        reservation = Reservation(target, needs, wanted)
        self._reservations.add(reservation)
        return reservation

    def rebind(self, reservation: Reservation, target: str, needs: Needs) -> bool:
        """
        Have the room serve another target.

        @return: False if the room does not suffice for that; nothing has changed then.
        """
        self._reservations.remove(reservation)
        fits = all(
            self.free(name) + sum(self.held(v).get(name, 0) for v in reservation.victims)
            >= amount
            for name, amount in needs.items()
            if amount
        )
        if fits:
            reservation.target, reservation.needs = target, needs
        self._reservations.add(reservation)
        return fits

    def cancel(self, reservation: Reservation) -> None:
        """The switch does not take place: what was claimed is free."""
        self._reservations.remove(reservation)

    def take(self, reservation: Reservation) -> None:
        """
        The victims are asleep, and the target is about to wake: it holds what
        it needs from here on.

        @raise CapacityError: there is less than it needs.
        """
        self._reservations.remove(reservation)
        for name, amount in reservation.needs.items():
            if amount and self.free(name) < amount:
                raise CapacityError(f"{reservation.target} needs {amount} of {name}")
        self.hold(reservation.target, reservation.needs)
