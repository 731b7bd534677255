"""
This module reads the rules of llama-swap about which models may be loaded together: groups, and
the matrix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

from llmux.config.error import shown
from llmux.drafting.coexistence import (
    NeedsDraft,
    TooManyCombinations,
    needs_of_conflicts,
    needs_of_sets,
)

__all__ = ["UnknownRule", "needs_of_groups", "needs_of_matrix"]

MOST_COMBINATIONS = 1000
"""An expression may stand for this many sets of models, which is llama-swap's own limit."""

_TOKEN = re.compile(r"\s*(?:([&|()])|(\+?[\w.-]+))")


class UnknownRule(ValueError):
    """A rule cannot be read.  The error's message says which rule, and why."""


def needs_of_groups(models: Sequence[str], groups: Any) -> tuple[NeedsDraft, list[str]]:
    """
    Return what models need so that the models of a group exclude each other if the group says
    C{swap}, and so that exclusive groups exclude each other.

    In llama-swap a model of an exclusive group, when it loads, unloads all other groups that
    are not persistent; a model of a group that is not exclusive unloads no other group.  So a
    model of an exclusive group and one of another group may be loaded together if they load in
    one order, and not in the other.  With llmux they may be awake together in both cases.

    @return: the needs, and remarks about what could not be carried over.
    """
    if not isinstance(groups, dict):
        raise UnknownRule(f"{shown(groups)} is not a mapping of groups")
    remarks = []
    group_of: dict[str, tuple[str, bool, bool]] = {}
    one_way = False
    for name, group in groups.items():
        members = group.get("members") if isinstance(group, dict) else None
        if not isinstance(members, list):
            raise UnknownRule(f"{shown(name)} has no members")
        swaps = group.get("swap", True) is not False
        excludes = group.get("exclusive", True) is not False and not group.get("persistent")
        one_way |= not excludes
        remarks += [
            f"{key} of {shown(name)} has no counterpart"
            for key in group
            if key not in ("swap", "exclusive", "persistent", "members")
        ]
        for member in members:
            if member not in models:
                remarks.append(f"{shown(member)} of {shown(name)} is no model")
            else:
                group_of[member] = (name, swaps, excludes)
    for model in models:
        group_of.setdefault(model, ("", True, True))

    def conflict(first: str, second: str) -> bool:
        (one, swaps, excludes), (other, _, excludes_too) = group_of[first], group_of[second]
        return swaps if one == other else excludes and excludes_too

    conflicts = [frozenset(pair) for pair in combinations(models, 2) if conflict(*pair)]
    if one_way and len(conflicts) < len(models) * (len(models) - 1) // 2:
        remarks.append(
            "groups that are not exclusive, or persistent, stay awake beside all others, in "
            "whichever order models are asked for"
        )
    return needs_of_conflicts(models, conflicts), remarks


def needs_of_matrix(models: Sequence[str], matrix: Any) -> tuple[NeedsDraft, list[str]]:
    """
    Return what models need so that those models fit together that are together in a set of the
    matrix.

    @return: the needs, and remarks about what could not be carried over.
    """
    if not isinstance(matrix, dict) or not isinstance(matrix.get("sets"), dict):
        raise UnknownRule("it has no sets")
    variables = matrix.get("vars") or {}
    if not isinstance(variables, dict):
        raise UnknownRule(f"vars is {shown(variables)}")
    remarks = []
    if matrix.get("evict_costs"):
        remarks.append("evict_costs: llmux measures what switches cost")
    expansion = _Expansion(variables, matrix["sets"])
    sets = []
    for name in matrix["sets"]:
        sets += expansion.of_set(name, ())
    unknown = sorted({model for each in sets for model in each if model not in models})
    if unknown:
        remarks.append(f"{', '.join(map(shown, unknown))}: no such model")
    kept = [[model for model in each if model in models] for each in sets]
    try:
        return needs_of_sets(models, kept), remarks
    except TooManyCombinations:
        raise UnknownRule("it has too many combinations") from None


class _Expansion:
    """
    This class turns the expressions of a matrix into the sets of models that they stand for.

    C{&} binds more tightly than C{|}, and C{+NAME} stands for the set of that name.
    """

    def __init__(self, variables: dict[str, Any], sets: dict[str, Any]) -> None:
        self._variables = variables
        self._sets = sets

    def of_set(self, name: str, within: tuple[str, ...]) -> list[frozenset[str]]:
        text = self._sets.get(name)
        if not isinstance(text, str):
            raise UnknownRule(f"there is no set {shown(name)}")
        if name in within:
            raise UnknownRule(f"the set {shown(name)} refers to itself")
        tokens = self._tokens(text)
        found = self._either(tokens, (*within, name))
        if tokens:
            raise UnknownRule(f"{shown(text)} ends before {shown(tokens[-1])}")
        return found

    def _tokens(self, text: str) -> list[str]:
        """
        Return the tokens of an expression in reverse order, so that the first can be popped
        from the end.
        """
        tokens = []
        at = 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if match is None:
                raise UnknownRule(f"{shown(text)} is no expression")
            tokens.append(match[1] or match[2])
            at = match.end()
        return tokens[::-1]

    def _either(self, tokens: list[str], within: tuple[str, ...]) -> list[frozenset[str]]:
        found = self._together(tokens, within)
        while tokens and tokens[-1] == "|":
            tokens.pop()
            found = found + self._together(tokens, within)
        return self._limited(found)

    def _together(self, tokens: list[str], within: tuple[str, ...]) -> list[frozenset[str]]:
        found = self._atom(tokens, within)
        while tokens and tokens[-1] == "&":
            tokens.pop()
            others = self._atom(tokens, within)
            if len(found) * len(others) > MOST_COMBINATIONS:
                raise UnknownRule("it has too many combinations")
            found = [one | other for one, other in product(found, others)]
        return found

    def _atom(self, tokens: list[str], within: tuple[str, ...]) -> list[frozenset[str]]:
        token = tokens.pop() if tokens else ""
        if token == "(":
            found = self._either(tokens, within)
            if not tokens or tokens.pop() != ")":
                raise UnknownRule("a bracket is not closed")
            return found
        if token in ("", "&", "|", ")"):
            raise UnknownRule(f"a model is missing before {shown(token)}")
        if token.startswith("+"):
            return self.of_set(token[1:], within)
        model = self._variables.get(token, token)
        if not isinstance(model, str):
            raise UnknownRule(f"{shown(token)} stands for {shown(model)}")
        return [frozenset([model])]

    def _limited(self, found: list[frozenset[str]]) -> list[frozenset[str]]:
        if len(found) > MOST_COMBINATIONS:
            raise UnknownRule("it has too many combinations")
        return found
