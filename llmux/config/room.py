"""
This module checks what the models of a configuration need and what resources there are, in
exact amounts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from llmux.config.error import Path, shown
from llmux.interfaces import ONE_SLOT, Amount, Needs
from llmux.scheduling import fit_together
from llmux.similar_names import most_similar

__all__ = [
    "RESOURCE_NAME",
    "Room",
    "RoomError",
    "needs_as_written",
    "resources_as_written",
    "room_of",
    "written",
]

RESOURCE_NAME = r"\A[^\s,=]+\Z"
"""
A resource's name has no blank, comma or C{=}, because hooks get amounts as in C{gpu0=22
gpu1=22}, and names as in C{gpu0,gpu1}.
"""


class RoomError(Exception):
    """
    A L{RoomError} says why the models' needs cannot be met.

    @ivar path: the key at which the error stands.
    """

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.path = path
        self.problem = problem
        self.remedy = remedy


class _ModelKeys(Protocol):
    @property
    def needs(self) -> Any: ...
    @property
    def keep(self) -> Any: ...


class _RoomKeys(Protocol):
    """
    This protocol has the keys of a configuration that say what there is and what is needed.
    """

    @property
    def resources(self) -> Any: ...
    @property
    def models(self) -> Mapping[str, _ModelKeys]: ...


class Room(Struct, frozen=True):
    """
    A L{Room} says which resources there are, and what each model needs of them.

    @ivar resources: the capacity of each resource.
    @ivar places: the places of each model, in the file's order.
    @ivar always: the models with C{keep: always}.
    @ivar is_configured: whether the file names resources; if not, one model is awake at a time.
    """

    resources: Needs
    places: Mapping[str, Sequence[Needs]]
    always: frozenset[str]
    is_configured: bool

    def problem_of(self, models: Iterable[str]) -> str | None:
        """
        Say why these models cannot be awake at once, beside those that are always kept awake;
        None if they can be.
        """
        names = list(dict.fromkeys([*sorted(self.always), *models]))
        places = [self.places[name] for name in names]
        if fit_together(self.resources, places):
            return None
        if all(len(each) == 1 for each in places):
            for resource, capacity in self.resources.items():
                users = [name for name in names if self.places[name][0].get(resource)]
                total = sum(self.places[name][0][resource] for name in users)
                if total > capacity:
                    return (
                        f"these need {written(total)} of {resource} "
                        f"({_each(users, self.places, resource)}), and there is "
                        f"{written(capacity)}"
                    )
        return f"{_names(names)} do not fit together, in whichever places"


def room_of(config: _RoomKeys) -> Room:
    """
    Read and check what there is, and what each model needs.

    @raise RoomError: the values make no sense, or a model can never be awake.
    """
    if config.resources is None and not any(
        model.needs is not None or model.keep for model in config.models.values()
    ):
        return Room(ONE_SLOT, dict.fromkeys(config.models, (ONE_SLOT,)), frozenset(), False)
    resources = ONE_SLOT if config.resources is None else _resources(config.resources)
    always = frozenset(name for name, model in config.models.items() if model.keep)
    places: dict[str, Sequence[Needs]] = {}
    for name, model in config.models.items():
        if model.needs is not None:
            places[name] = _places(("models", name, "needs"), model.needs, resources)
        elif name in always:
            places[name] = (resources,)
    for name in always:
        if len(places[name]) != 1:
            raise RoomError(
                ("models", name, "needs"),
                f"{name} is kept awake always, and has {len(places[name])} places",
                "choose one of them",
            )
    kept = sorted(always)
    left = {
        resource: capacity - sum(places[name][0].get(resource, 0) for name in kept)
        for resource, capacity in resources.items()
    }
    _check_kept(kept, places, resources, left)
    for name in config.models:
        if name not in places:
            if kept and not any(left.values()):
                raise RoomError(
                    ("models", name, "needs"),
                    f"{name} needs all that is left, and {_names(kept)} leave nothing",
                    f"say what {name} needs, with less for those that are kept awake",
                )
            places[name] = ({resource: amount for resource, amount in left.items() if amount},)
        elif name not in always:
            for needs in places[name]:
                _check_fits(name, needs, kept, places, resources, left)
    return Room(
        resources,
        {name: places[name] for name in config.models},
        always,
        config.resources is not None,
    )


def resources_as_written(raw: object) -> object:
    """
    Check the value of C{resources} without regard to the models' needs.

    @return: C{raw}, with every name a string.
    @raise RoomError: the value makes no sense.
    """
    if raw is not None:
        _resources(raw)
    return _named(raw)


def needs_as_written(path: Path, raw: object) -> object:
    """
    Check the value of one C{needs} without regard to the resources that there are.

    @return: C{raw}, with every name a string.
    @raise RoomError: the value makes no sense.
    """
    if raw is not None:
        _places(path, raw, None)
    return _named(raw)


def _named(raw: object) -> object:
    if isinstance(raw, Mapping):
        return {str(key): value for key, value in raw.items()}
    if isinstance(raw, list):
        return [_named(each) for each in raw]
    return str(raw) if isinstance(raw, int) else raw


def written(amount: Amount) -> str:
    """
    Write an amount as people do, as in C{20} or C{1.5}, and as a fraction, C{1/3}, if no short
    decimal is equal to it.
    """
    if isinstance(amount, int):
        return str(amount)
    decimal = f"{float(amount):g}"
    return decimal if _exact(float(decimal)) == amount else str(amount)


def _exact(number: float) -> Amount:
    """Return a number exactly as the file writes it, so that 0.1 is one tenth."""
    if isinstance(number, int) or number.is_integer():
        return int(number)
    from fractions import Fraction

    return Fraction(repr(number))


def _resources(raw: object) -> dict[str, Amount]:
    path: Path = ("resources",)
    pairs: Iterable[tuple[object, object]]
    if isinstance(raw, Mapping):
        pairs = raw.items()
    elif isinstance(raw, list):
        pairs = ((name, 1) for name in raw)
    else:
        raise RoomError(
            path,
            f"{shown(raw)} is neither a mapping nor a list",
            "write it as in {gpu0: 24, gpu1: 24}",
        )
    resources: dict[str, Amount] = {}
    for key, value in pairs:
        name = _name(path, key)
        if name in resources:
            raise RoomError(path, f"{name} is listed twice", "remove one of the two")
        amount = _amount((*path, name), value)
        if not amount:
            raise RoomError((*path, name), "there is 0 of it", "give a number above 0")
        resources[name] = amount
    if not resources:
        raise RoomError(path, "there are none", "name one, or leave the key out")
    return resources


def _name(path: Path, raw: object) -> str:
    if isinstance(raw, int) and not isinstance(raw, bool):
        raw = str(raw)
    if not isinstance(raw, str):
        raise RoomError(path, f"{shown(raw)} is not a resource's name", "put it in quotes")
    if not re.match(RESOURCE_NAME, raw) or not raw.isprintable():
        raise RoomError(
            path, f"{shown(raw)} is not a resource's name", "use no blank, comma or ="
        )
    return raw


def _amount(path: Path, raw: object) -> Amount:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise RoomError(path, f"{shown(raw)} is not a number", "give one, 0 or more")
    if not 0 <= raw < 2**63:
        raise RoomError(path, f"{shown(raw)} is out of range", "give a number, 0 or more")
    return _exact(raw)


def _places(path: Path, raw: object, resources: Needs | None) -> Sequence[Needs]:
    if not isinstance(raw, list):
        return (_place(path, raw, resources),)
    if not raw:
        raise RoomError(path, "there is no place", "list one, or write {} for no needs")
    places: list[Needs] = []
    for at, one in enumerate(raw):
        place = _place((*path, at), one, resources)
        if place in places:
            raise RoomError((*path, at), "this place is listed twice", "remove one of the two")
        places.append(place)
    return tuple(places)


def _place(path: Path, raw: object, resources: Needs | None) -> Needs:
    if isinstance(raw, str | int) and not isinstance(raw, bool):
        name = _known(path, raw, resources)
        return {name: 1 if resources is None else resources[name]}
    if not isinstance(raw, Mapping):
        raise RoomError(
            path,
            f"{shown(raw)} does not say what is needed",
            "write it as in {gpu0: 20}, or a resource's name for all of it",
        )
    place = {}
    for key, value in raw.items():
        name = _known(path, key, resources)
        amount = _amount((*path, name), value)
        if amount:
            place[name] = amount
    return place


def _known(path: Path, raw: object, resources: Needs | None) -> str:
    name = _name(path, raw)
    if resources is not None and name not in resources:
        near = most_similar(name, resources)
        known = f"did you mean {near}?" if near else f"known: {', '.join(resources)}"
        if resources is ONE_SLOT:
            known = f'name it in "resources:" at the top level, as in {{{name}: 24}}'
        raise RoomError(path, f"there is no resource {name}", known)
    return name


def _check_kept(
    kept: Sequence[str],
    places: Mapping[str, Sequence[Needs]],
    resources: Needs,
    left: Needs,
) -> None:
    for resource, amount in left.items():
        if amount < 0:
            users = [name for name in kept if places[name][0].get(resource)]
            parts = _each(users, places, resource)
            total = sum(places[name][0][resource] for name in users)
            raise RoomError(
                ("models", users[-1], "needs"),
                f"the models that are kept awake need {written(total)} of {resource} "
                f"({parts}), and there is {written(resources[resource])}",
                f"lower their needs, or give {resource} more",
            )


def _check_fits(
    name: str,
    needs: Needs,
    kept: Sequence[str],
    places: Mapping[str, Sequence[Needs]],
    resources: Needs,
    left: Needs,
) -> None:
    for resource, amount in needs.items():
        if amount <= left[resource]:
            continue
        there_is = written(resources[resource])
        users = [other for other in kept if places[other][0].get(resource)]
        if users:
            parts = _each(users, places, resource)
            sums = f"; {there_is} less {parts} leaves {written(left[resource])}"
        else:
            sums = f", and there is {there_is}"
        raise RoomError(
            ("models", name, "needs"),
            f"{name} needs {written(amount)} of {resource}{sums}",
            f"lower what it needs, or give {resource} more",
        )


def _each(users: Sequence[str], places: Mapping[str, Sequence[Needs]], resource: str) -> str:
    """Return the needs of some models in words, as in C{embed's 2 and rerank's 4}."""
    parts = [f"{name}'s {written(places[name][0][resource])}" for name in users]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _names(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
