"""
This module knows the places of models, tells hooks of them, and keeps them in the state
directory.
"""

from __future__ import annotations

from collections.abc import Mapping

from zope.interface import implementer

from llmux.config.room import Room, written
from llmux.hooks.persistence.state import StateDirectory
from llmux.interfaces import HookKind, HookResult, IHookRunner, IPlaceNotes, IRunningHook, Needs

__all__ = ["PlaceKeeping", "Places"]


@implementer(IPlaceNotes)
class Places:
    """
    L{Places} know in which place each model is, or is about to be, and make the variables
    C{LLMUX_RESOURCES}, C{LLMUX_NEEDS} and C{LLMUX_PLACE} of its hooks.

    If the place of a model is not known, the variables have all that the model may hold in any
    place, and there is no C{LLMUX_PLACE}.
    """

    def __init__(self, room: Room, state: StateDirectory | None = None) -> None:
        """
        @param state: the state directory, which keeps the places from one llmux to the next; or
            None.
        """
        self._places = room.places
        self._state = state
        self._chosen: dict[str, int | None] = {}
        self._variables: dict[tuple[str, int | None], Mapping[bytes, bytes]] = {}

    def place_of(self, model: str) -> int | None:
        """See L{IPlaceNotes.place_of}."""
        places = self._places[model]
        if len(places) == 1:
            return 0
        if model not in self._chosen:
            self._chosen[model] = None
            if self._state is not None:
                noted = self._state.noted_place(model)
                for number, needs in enumerate(places):
                    if noted == pairs(needs):
                        self._chosen[model] = number
        return self._chosen[model]

    def choose_place(self, model: str, place: int) -> None:
        """See L{IPlaceNotes.choose_place}."""
        self._chosen[model] = place

    def woke(self, model: str) -> None:
        """Keep the place of a model whose wake hook is about to start."""
        place = self.place_of(model)
        if self._state is not None and place is not None and len(self._places[model]) > 1:
            self._state.note_place(model, pairs(self._places[model][place]))

    def slept(self, model: str) -> None:
        """Forget the place of a model whose sleep hook has succeeded."""
        if self._state is not None and len(self._places[model]) > 1:
            self._state.note_place(model, "")

    def variables(self, model: str) -> Mapping[bytes, bytes]:
        """Return the environment variables that say where the model is."""
        place = self.place_of(model)
        found = self._variables.get((model, place))
        if found is None:
            found = self._variables[model, place] = self._of(model, place)
        return found

    def _of(self, model: str, place: int | None) -> Mapping[bytes, bytes]:
        places = self._places[model]
        needs = places if place is None else [places[place]]
        names = dict.fromkeys(name for each in needs for name in each)
        variables = {
            b"LLMUX_RESOURCES": ",".join(names).encode(),
            b"LLMUX_NEEDS": " ".join(pairs(each) for each in needs).encode(),
        }
        if place is not None:
            variables[b"LLMUX_PLACE"] = b"%d" % (place + 1)
        return variables


@implementer(IHookRunner)
class PlaceKeeping:
    """
    This hook runner has another runner run the hooks, and has the place of a model kept from
    the start of a wake hook until a sleep hook has succeeded.
    """

    def __init__(self, hooks: IHookRunner, places: Places) -> None:
        self._hooks = hooks
        self._places = places

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        """See L{IHookRunner.start}."""
        if hook is HookKind.WAKE:
            # The place is written before the hook starts, because llmux may be killed at any
            # moment.
            self._places.woke(model)
        running: IRunningHook = self._hooks.start(model, hook)
        if hook is HookKind.SLEEP:
            running.exited.addCallback(self._ended, model)
        return running

    def _ended(self, result: HookResult, model: str) -> HookResult:
        if result.ok:
            self._places.slept(model)
        return result


def pairs(needs: Needs) -> str:
    """Write needs as in C{gpu0=22 gpu1=22}."""
    return " ".join(f"{name}={written(amount)}" for name, amount in needs.items())
