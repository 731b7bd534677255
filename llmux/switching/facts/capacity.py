"""
This module has the ledger of capacity, which knows how much of which resource each model holds.

A model that may be awake holds what it needs; what a switch will need is reserved for the
switch.  Only the ledger decides whether there is room.  It contains no estimates, and no model
is woken without room in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from llmux.scheduling import ONE_SLOT, Amount, Needs

__all__ = [
    "ONE_SLOT",
    "Capacity",
    "CapacityError",
    "Needs",
    "Reservation",
    "all_places",
]


def all_places(places: Sequence[Needs]) -> Needs:
    """Return the sum of all places, which a model holds if its place is not known."""
    if len(places) == 1:
        return places[0]
    total: dict[str, Amount] = {}
    for needs in places:
        for name, amount in needs.items():
            total[name] = total.get(name, 0) + amount
    return total


class CapacityError(RuntimeError):
    """A call would take more than there is, which is a defect of llmux."""


class Reservation:
    """
    A reservation is the room for one switch, from what is free and from what its victims hold.

    @ivar target: the name of the model that the room is for.
    @ivar needs: what that model needs.
    @ivar victims: the names of the models that make room, and have not slept yet.
    """

    __slots__ = ("needs", "target", "victims")

    def __init__(self, target: str, needs: Needs, victims: frozenset[str]) -> None:
        self.target = target
        self.needs = needs
        self.victims = victims


class Capacity:
    """
    L{Capacity} is the ledger: every unit of every resource is held by a model, or claimed by a
    reservation, or free.

    Only models that are found awake at start may hold more than there is;
    while a resource is overdrawn nothing can be reserved of it.

    @ivar total: the capacity of each resource.
    """

    def __init__(self, total: Needs) -> None:
        self.total = dict(total)
        self._held: dict[str, Needs] = {}
        # The amount of each resource that is not held; it is kept up to date, so that no
        # question has to add it up.
        self._left: dict[str, Amount] = dict(total)
        self._reservations: set[Reservation] = set()

    def holders(self) -> Collection[str]:
        """
        Return the names of the models that hold something, in the order in which they took it.
        """
        return self._held.keys()

    def held(self, model: str) -> Needs:
        """Return what the model holds; nothing if it is asleep."""
        return self._held.get(model, {})

    def free(self, resource: str) -> Amount:
        """
        Return what is neither held nor claimed; below 0 only while the resource is overdrawn.
        """
        left = self._left[resource]
        for each in self._reservations:
            left -= self._claim(each, resource)
        return left

    def _claim(self, reservation: Reservation, resource: str) -> Amount:
        """Return what the reservation needs beyond what its victims still hold."""
        needed = reservation.needs.get(resource, 0)
        return max(0, needed - self._given(reservation.victims, resource)) if needed else 0

    def _given(self, victims: Iterable[str], resource: str) -> Amount:
        """Return what the victims hold of the resource, and will give back."""
        return sum(self.held(victim).get(resource, 0) for victim in victims)

    def overdrawn(self, needs: Needs) -> bool:
        """Tell whether more is held of one of these resources than there is of it."""
        return any(amount and self.free(name) < 0 for name, amount in needs.items())

    def overdrawn_resources(self) -> list[str]:
        """Return the resources of which more is held, or claimed, than there is."""
        return [name for name in self._left if self.free(name) < 0]

    def resize(self, total: Needs) -> None:
        """
        Set how much there is from now on.  More may be held than there is.  A resource that is
        removed is kept, with a capacity of 0, as long as something is held of it.
        """
        used = {name for held in self._held.values() for name in held}
        used.update(name for each in self._reservations for name in each.needs)
        self.total = {**dict.fromkeys(sorted(used), 0), **total}
        self._left = dict(self.total)
        for held in self._held.values():
            for name, amount in held.items():
                self._left[name] -= amount

    def can_take(self, reservation: Reservation) -> bool:
        """Tell whether there still is what was reserved; after L{resize} there may be less."""
        self._reservations.remove(reservation)
        fits = self._suffices(reservation.needs, frozenset())
        self._reservations.add(reservation)
        return fits

    def hold(self, model: str, needs: Needs) -> None:
        """
        Enter what a model holds that may be awake, whether there is room or not, as it was
        found at start.
        """
        if model in self._held:
            raise CapacityError(f"{model} holds its needs already")
        self._held[model] = dict(needs)
        for name, amount in needs.items():
            self._left[name] -= amount

    def release(self, model: str) -> None:
        """
        Release what a model held that is asleep now; the reservations of switches get it, or it
        is free.
        """
        held = self._held.pop(model, None)
        if held is None:
            raise CapacityError(f"{model} holds nothing")
        for name, amount in held.items():
            self._left[name] += amount
        for reservation in self._reservations:
            # If the model is awake once more and holds something, that is not for this switch.
            reservation.victims -= {model}

    def reserve(
        self, target: str, needs: Needs, victims: Iterable[str] = ()
    ) -> Reservation | None:
        """
        Reserve what the target needs: from what is free, and from what the
        victims hold and will give back.

        @return: the reservation; None if the room is not enough, or if a victim makes room for
            another switch already.
        """
        wanted = frozenset(victims)
        if not self._suffices(needs, wanted):
            return None
        reservation = Reservation(target, needs, wanted)
        self._reservations.add(reservation)
        return reservation

    def _suffices(self, needs: Needs, victims: frozenset[str]) -> bool:
        if any(victims & each.victims for each in self._reservations):
            return False
        return all(
            self.free(name) + self._given(victims, name) >= amount
            for name, amount in needs.items()
            if amount
        )

    def rebind(
        self, reservation: Reservation, target: str, needs: Needs, victims: Iterable[str]
    ) -> bool:
        """
        Change a reservation to another target, or to other victims.

        @return: whether the room suffices; if it does not, nothing has changed.
        """
        wanted = frozenset(victims)
        self._reservations.remove(reservation)
        fits = self._suffices(needs, wanted)
        if fits:
            reservation.target, reservation.needs = target, needs
            reservation.victims = wanted
        self._reservations.add(reservation)
        return fits

    def cancel(self, reservation: Reservation) -> None:
        """Free what was claimed, because the switch does not take place."""
        self._reservations.remove(reservation)

    def take(self, reservation: Reservation) -> None:
        """
        Enter that the target, which is about to wake, holds what it needs; its victims are
        asleep.

        @raise CapacityError: there is less than it needs.
        """
        self._reservations.remove(reservation)
        for name, amount in reservation.needs.items():
            if amount and self.free(name) < amount:
                raise CapacityError(f"{reservation.target} needs {amount} of {name}")
        self.hold(reservation.target, reservation.needs)
