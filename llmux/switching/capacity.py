"""
The ledger of capacity: which model holds how much of which resource.

A model that may be awake holds what it needs; what a switch will need is
reserved for it.  The ledger is the one truth about room, and it is strict: no
estimate enters it, and nothing is woken without room in it.
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
    """Add up the places: what a model holds whose place nobody knows."""
    if len(places) == 1:
        return places[0]
    total: dict[str, Amount] = {}
    for needs in places:
        for name, amount in needs.items():
            total[name] = total.get(name, 0) + amount
    return total


class CapacityError(RuntimeError):
    """A call would take what there is not: a defect of llmux."""


class Reservation:
    """
    The room for one switch, from what is free and from what its victims hold.

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
    Every unit of every resource is held by a model, or claimed by a
    reservation, or free.

    Only models that are found awake at start may hold more than there is;
    while a resource is overdrawn nothing can be reserved of it.

    @ivar total: how much there is of each resource.
    """

    def __init__(self, total: Needs) -> None:
        self.total = dict(total)
        self._held: dict[str, Needs] = {}
        # Of each resource what is not held: kept up to date, not added up at each question.
        self._left: dict[str, Amount] = dict(total)
        self._reservations: set[Reservation] = set()

    def holders(self) -> Collection[str]:
        """The names of the models that hold something, in the order in which they took it."""
        return self._held.keys()

    def held(self, model: str) -> Needs:
        """What the model holds; nothing if it is asleep."""
        return self._held.get(model, {})

    def free(self, resource: str) -> Amount:
        """What is neither held nor claimed; below 0 only while it is overdrawn at start."""
        left = self._left[resource]
        for each in self._reservations:
            left -= self._claim(each, resource)
        return left

    def _claim(self, reservation: Reservation, resource: str) -> Amount:
        """What the reservation needs beyond what its victims hold still."""
        needed = reservation.needs.get(resource, 0)
        return max(0, needed - self._given(reservation.victims, resource)) if needed else 0

    def _given(self, victims: Iterable[str], resource: str) -> Amount:
        """What the victims hold of the resource, and will give back."""
        return sum(self.held(victim).get(resource, 0) for victim in victims)

    def overdrawn(self, needs: Needs) -> bool:
        """More is held of one of these resources than there is of it."""
        return any(amount and self.free(name) < 0 for name, amount in needs.items())

    def overdrawn_resources(self) -> list[str]:
        """The resources of which more is held, or claimed, than there is."""
        return [name for name in self._left if self.free(name) < 0]

    def resize(self, total: Needs) -> None:
        """
        There is so much from now on.  More may be held than there is; a resource that is
        no more is kept, with nothing left of it, for as long as something is held of it.
        """
        used = {name for held in self._held.values() for name in held}
        used.update(name for each in self._reservations for name in each.needs)
        self.total = {**dict.fromkeys(sorted(used), 0), **total}
        self._left = dict(self.total)
        for held in self._held.values():
            for name, amount in held.items():
                self._left[name] -= amount

    def can_take(self, reservation: Reservation) -> bool:
        """There is what was reserved; less may be there after L{resize}."""
        self._reservations.remove(reservation)
        fits = self._suffices(reservation.needs, frozenset())
        self._reservations.add(reservation)
        return fits

    def hold(self, model: str, needs: Needs) -> None:
        """The model may be awake, whether there is room or not: it is found so at start."""
        if model in self._held:
            raise CapacityError(f"{model} holds its needs already")
        self._held[model] = dict(needs)
        for name, amount in needs.items():
            self._left[name] -= amount

    def release(self, model: str) -> None:
        """The model is asleep: what it held goes to who has reserved it, or is free."""
        held = self._held.pop(model, None)
        if held is None:
            raise CapacityError(f"{model} holds nothing")
        for name, amount in held.items():
            self._left[name] += amount
        for reservation in self._reservations:
            # What the model may hold later, awake once more, is not for this switch.
            reservation.victims -= {model}

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
        Have a reservation serve another target, or get its room from other victims.

        @return: False if that room does not suffice; nothing has changed then.
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
