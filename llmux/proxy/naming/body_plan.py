"""
This module computes what becomes of the keys of a JSON body: the configured steps are combined
once for each name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmux.proxy.naming.json_members import Member
from llmux.web.splicing import Cut

__all__ = ["BodyPlan", "EditStep", "Fate", "body_plan"]

_MODEL = b"model"


@dataclass(frozen=True, slots=True)
class EditStep:
    """
    An L{EditStep} is a set of changes at the top of a JSON object, made in this order.

    @ivar strip: keys that are removed.
    @ivar defaults: members that are added if their key is missing.
    @ivar set: members that replace those with the same key, or are added.
    """

    strip: Sequence[str]
    defaults: Mapping[str, Any]
    set: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fate:
    """
    A fate is what becomes of one key of a JSON body.

    @ivar stays: whether the client's value is kept.
    @ivar given: the value, as JSON, that replaces the client's; None for none.
    @ivar missing: the value, as JSON, if the client gives none; None for none.
    """

    stays: bool
    given: bytes | None
    missing: bytes | None


@dataclass(frozen=True, slots=True)
class BodyPlan:
    """
    A plan has the changes that a request's body gets on its way to the backend.

    @ivar model: what the backend is told as C{model}; None for what the client said.
    @ivar fates: the fate of each key that may change; keys are in UTF-8.
    """

    model: str | None
    fates: Mapping[bytes, Fate]

    @property
    def names_only(self) -> bool:
        """Tell whether nothing changes but the C{model}."""
        return self.fates.keys() <= {_MODEL}

    def cuts(self, members: Sequence[Member], total: int, close: int) -> list[Cut]:
        """
        Return what is to be cut out of a JSON object, and what is to be put there.

        @param members: the members of the object whose keys are among C{fates}, as they come.
        @param total: the number of all members of the object.
        @param close: the position of the closing brace.
        """
        cuts: list[Cut] = []
        removed = 0
        for member in members:
            fate = self.fates[member.key]
            if fate.stays:
                continue
            if fate.given is not None:
                cuts.append(Cut(member.value, member.end, fate.given))
                continue
            if member.ordinal > removed:
                # A member before it stays, so the comma between them is removed as well.
                cuts.append(Cut(member.comma, member.end, b""))
            else:
                is_last = member.ordinal == total - 1
                cuts.append(Cut(member.start, member.end + (not is_last), b""))
            removed += 1
        found = {member.key for member in members}
        added = [
            b"%b:%b" % (json.dumps(key.decode()).encode(), fate.missing)
            for key, fate in self.fates.items()
            if fate.missing is not None and key not in found
        ]
        if added:
            more = b"," if total > removed else b""
            cuts.append(Cut(close, close, more + b",".join(added)))
        return cuts


def body_plan(steps: Iterable[EditStep], model: str | None) -> BodyPlan | None:
    """
    Return the plan for these steps, one after the other, and then the name.

    @param model: what the backend is told as C{model}; None for what the client said.
    @return: the plan; None if nothing changes.
    """
    fates: dict[str, Fate] = {}
    untouched = Fate(True, None, None)
    for step in steps:
        for key in step.strip:
            fates[key] = Fate(False, None, None)
        for key, value in step.defaults.items():
            before = fates.get(key, untouched)
            given = before.given if before.stays or before.given is not None else _json(value)
            missing = _json(value) if before.missing is None else before.missing
            fates[key] = Fate(before.stays, given, missing)
        for key, value in step.set.items():
            fates[key] = Fate(False, _json(value), _json(value))
    if model is not None:
        # Every body that is edited has a model, so no value is needed if it is missing.
        fates["model"] = Fate(False, _json(model), None)
    if not fates:
        return None
    return BodyPlan(model, {key.encode(): fate for key, fate in fates.items()})


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
