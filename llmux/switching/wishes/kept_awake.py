"""
This module has the models that must always be awake: llmux wakes them by itself, and reserves
their room while they are asleep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llmux.interfaces import Phase
from llmux.switching.facts.capacity import Capacity, Reservation
from llmux.switching.facts.model import INFINITY, Model

__all__ = ["KeptAwake"]


class KeptAwake:
    """
    L{KeptAwake} are the models with C{keep: always}.

    While such a model is asleep its room is reserved, so that no other model takes the room
    between the death of its backend and its next wake.
    """

    def __init__(self, models: Mapping[str, Model], capacity: Capacity) -> None:
        """
        @param models: all models; the switcher changes this mapping, and then calls L{changed}.
        """
        self._all = models
        self._models: list[Model] = []
        self._capacity = capacity
        self._reserved: dict[str, Reservation] = {}
        self.changed()

    def changed(self) -> None:
        """Reserve anew, because other models are kept awake, or they need something else."""
        for reservation in self._reserved.values():
            self._capacity.cancel(reservation)
        self._reserved.clear()
        self._models = [
            model for model in self._all.values() if model.settings.always and not model.leaving
        ]

    def hold_room(self) -> list[Model]:
        """
        Reserve room for the models that have come to be asleep, if there is room.

        @return: the models that are asleep, and for which there is no room, or which are about
            to wake in the room of others.
        """
        asleep = [model for model in self._models if model.phase is Phase.ASLEEP]
        for model in asleep:
            if not model.busy:
                self._hold(model)
        return [model for model in asleep if model.name not in self._reserved]

    def _hold(self, model: Model) -> None:
        if model.name not in self._reserved:
            reservation = self._capacity.reserve(model.name, model.settings.places[0])
            if reservation is not None:
                self._reserved[model.name] = reservation

    def due(self, now: float) -> Iterator[tuple[Model, Reservation]]:
        """
        Yield the models that are to wake now, each with its reservation, which is removed here.
        """
        for model in self._models:
            if (
                model.phase is Phase.ASLEEP
                and not model.busy
                and model.wake_backoff.until <= now
                and model.name in self._reserved
            ):
                yield model, self._reserved.pop(model.name)

    def next_time(self, now: float) -> float:
        """Return the time at which the next back-off of such a model ends."""
        return min(
            (m.wake_backoff.until for m in self._models if m.wake_backoff.until > now),
            default=INFINITY,
        )

    def __bool__(self) -> bool:
        return bool(self._models)
