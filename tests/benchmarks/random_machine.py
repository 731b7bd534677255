"""This module draws machines at random, with models that fit on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from llmux.interfaces import Needs

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine:
    """
    A machine has resources, and models with their needs in each of their places.

    @ivar always: the model that is to be awake always, if there is one.
    """

    resources: Needs
    places: Mapping[str, Sequence[Needs]]
    always: str | None = None

    @classmethod
    def drawn(cls, random: Random) -> Machine:
        """Draw a machine at random: one slot now and then, else up to four resources."""
        names = [f"m{number}" for number in range(random.randint(2, 7))]
        if random.random() < 0.15:
            return cls({"gpu": 1}, {name: [{"gpu": 1}] for name in names})
        resources = {f"r{n}": random.choice((1, 4, 24)) for n in range(random.randint(1, 4))}

        def needs() -> Needs:
            some = random.sample(sorted(resources), random.randint(1, len(resources)))
            return {name: random.randint(1, resources[name]) for name in some}

        places: dict[str, list[Needs]] = {}
        for name in names:
            drawn: list[Needs] = [{}] if random.random() < 0.05 else []
            while len(drawn) < random.choice((1, 1, 2, 3)):
                place = needs()
                if place not in drawn:
                    drawn.append(place)
                elif random.random() < 0.5:
                    break
            places[name] = drawn or [needs()]
        if random.random() < 0.3:
            return cls(resources, places)._with_one_kept(random.choice(names))
        return cls(resources, places)

    def _with_one_kept(self, kept: str) -> Machine:
        """
        Return the same machine with a model that is to be awake always, if the others have room
        beside it.
        """
        own = self.places[kept][0]
        places = {
            name: [
                place
                for place in some
                if all(n + own.get(r, 0) <= self.resources[r] for r, n in place.items())
            ]
            for name, some in self.places.items()
        }
        places[kept] = [own]
        if not all(places.values()):
            return self
        return Machine(self.resources, places, kept)
