"""
What is to become of the keys of a JSON body: the configured steps, worked out once
for each name.
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
    Changes to the top of a JSON object, made in this order.

    @ivar strip: keys that go.
    @ivar defaults: members that are added where their key is not there.
    @ivar set: members that are put in place of those with their key, or added.
    """

    strip: Sequence[str]
    defaults: Mapping[str, Any]
    set: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fate:
    """
    What is to become of one key of a JSON body.

    @ivar stays: the client's value is kept.
    @ivar given: the value, as JSON, in place of the client's; None for none.
    @ivar missing: the value where the client gives none; None for none.
    """

    stays: bool
    given: bytes | None
    missing: bytes | None


@dataclass(frozen=True, slots=True)
class BodyPlan:
    """
    The changes that a request's body gets on its way to the backend.

    @ivar model: what the backend is told as C{model}; None: what the client said.
    @ivar fates: for each key that may change, in UTF-8, what becomes of it.
    """

    model: str | None
    fates: Mapping[bytes, Fate]

    @property
    def names_only(self) -> bool:
        """Nothing changes but the C{model}."""
        return self.fates.keys() <= {_MODEL}

    def cuts(self, members: Sequence[Member], total: int, close: int) -> list[Cut]:
        """
        Work out what to cut out of a JSON object, and what to put there.

        @param members: those of its members whose keys are among C{fates}, as they come.
        @param total: how many members the object has in all.
        @param close: where its closing brace is.
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
                # Something stays before it: the comma between them goes as well.
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
    Work out what these steps, one after the other, and then the name amount to.

    @param model: what the backend is told; None: what the client said.
    @return: None if nothing changes.
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
        # A body without a model never comes here.
        fates["model"] = Fate(False, _json(model), None)
    if not fates:
        return None
    return BodyPlan(model, {key.encode(): fate for key, fate in fates.items()})


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
