"""
This module finds which models fit together: the largest sets that can be awake at the same
time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmux.config.room import Room
from llmux.interfaces import Amount, Needs

__all__ = ["largest_sets"]

_MOST_STEPS = 20_000
"""
The search gives up after this many steps, some 50 ms; hundreds of models with different needs
take more.
"""

_MOST_SETS = 20


class _TooManySets(Exception):
    """The search takes too long, or finds more sets than anybody would read."""


def largest_sets(room: Room) -> list[str] | None:
    """
    Find the sets of models that can be awake together, and to which no model can be added.

    Models with the same needs are written as a group: C{2 of chat, code, math}.

    @return: a line for each set, those with the most models first; None if there are too
        many.
    """
    kinds: dict[str, list[str]] = {}
    for model in sorted(room.places):
        kinds.setdefault(repr(room.places[model]), []).append(model)
    groups = sorted(kinds.values(), key=lambda names: (names[0] not in room.always, names))
    try:
        found = list(_SetSearch(room, groups).maximal())
    except _TooManySets:
        return None
    found.sort(key=lambda counts: (-sum(counts), counts))
    return [", ".join(_words(groups, counts)) for counts in found]


def _words(groups: Sequence[Sequence[str]], counts: Sequence[int]) -> Iterator[str]:
    several = sum(1 for count in counts if count) > 1
    for names, count in zip(groups, counts, strict=True):
        if count == len(names):
            yield ", ".join(names)
        elif count:
            some = f"{count} of {', '.join(names)}"
            yield f"({some})" if several else some


class _SetSearch:
    """
    A L{_SetSearch} goes through the numbers of models of each group that may be awake together.
    """

    def __init__(self, room: Room, groups: Sequence[Sequence[str]]) -> None:
        self._resources = list(room.resources)
        self._total = tuple(room.resources.values())
        self._places = [room.places[names[0]] for names in groups]
        self._sizes = [len(names) for names in groups]
        self._least = [sum(name in room.always for name in names) for names in groups]
        self._steps = 0
        self._known: dict[tuple[int, ...], bool] = {}

    def maximal(self) -> Iterator[tuple[int, ...]]:
        """Yield, for each largest set, the number of models of each group."""
        number = 0
        for counts in self._counts((), 0):
            grown = (
                (*counts[:at], count + 1, *counts[at + 1 :])
                for at, count in enumerate(counts)
                if count < self._sizes[at]
            )
            if not any(self._fits(more) for more in grown):
                number += 1
                if number > _MOST_SETS:
                    raise _TooManySets
                yield counts

    def _counts(self, begun: tuple[int, ...], at: int) -> Iterator[tuple[int, ...]]:
        if at == len(self._sizes):
            yield begun
            return
        rest = (0,) * (len(self._sizes) - at - 1)
        for count in range(self._least[at], self._sizes[at] + 1):
            if not self._fits((*begun, count, *rest)):
                break
            yield from self._counts((*begun, count), at + 1)

    def _fits(self, counts: tuple[int, ...]) -> bool:
        known = self._known.get(counts)
        if known is None:
            places = [
                places
                for places, count in zip(self._places, counts, strict=True)
                for _ in range(count)
            ]
            # Models with the fewest places come first, because they leave the least choice.
            places.sort(key=len)
            known = self._known[counts] = self._place(places, 0, self._total)
        return known

    def _place(
        self, models: Sequence[Sequence[Needs]], at: int, left: tuple[Amount, ...]
    ) -> bool:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise _TooManySets
        if at == len(models):
            return True
        for needs in models[at]:
            after = self._without(left, needs)
            if min(after) >= 0 and self._place(models, at + 1, after):
                return True
        return False

    def _without(self, left: tuple[Amount, ...], needs: Needs) -> tuple[Amount, ...]:
        return tuple(
            amount - needs.get(name, 0)
            for name, amount in zip(self._resources, left, strict=True)
        )
