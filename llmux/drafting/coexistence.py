"""
This module turns a rule about which models may be awake together into what each of them needs.

The rule is a list of sets of models: those of a set, and of any part of a set, may be awake
together.  The result is resources and needs that allow exactly these sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

__all__ = ["NeedsDraft", "TooManyCombinations", "needs_of_conflicts", "needs_of_sets"]

MOST_COMPARISONS = 3_000_000
"""Sets are compared with each other at most this many times, which takes about a second."""

Conflict = frozenset[str]
"""The models of a conflict may not all be awake, but they may if any one of them is not."""


class TooManyCombinations(Exception):
    """A rule has more combinations than are worth writing down."""


@dataclass(frozen=True)
class NeedsDraft:
    """
    L{NeedsDraft} say which resources there are, and what each model needs of them.

    @ivar capacities: the capacity of each resource.
    @ivar needs: the amount that each model needs of each resource; nothing for a model that may
        be awake beside all others.
    """

    capacities: Mapping[str, int]
    needs: Mapping[str, Mapping[str, int]]

    def fit(self, models: Iterable[str]) -> bool:
        """Tell whether these models may be awake together."""
        chosen = list(models)
        return all(
            sum(self.needs[model].get(name, 0) for model in chosen) <= capacity
            for name, capacity in self.capacities.items()
        )


def needs_of_sets(models: Sequence[str], sets: Iterable[Iterable[str]]) -> NeedsDraft:
    """
    Return needs by which models fit together exactly if one of the sets holds them all.  A
    model that is in no set is awake alone.

    @raise TooManyCombinations: there are too many combinations to exclude.
    """
    allowed = [frozenset(each) for each in sets] + [frozenset([model]) for model in models]
    largest = [each for each in set(allowed) if not any(each < other for other in allowed)]
    return needs_of_conflicts(models, _conflicts(models, largest))


def _conflicts(models: Sequence[str], largest: list[frozenset[str]]) -> list[Conflict]:
    """
    Return the smallest sets that no allowed set holds: those that have, for each allowed set, a
    model outside of it.  They are the minimal transversals of a hypergraph, which Berge's
    algorithm lists (C. Berge, Hypergraphs, 1989).
    """
    everything = frozenset(models)
    found: set[Conflict] = {frozenset()}
    comparisons = len(largest)
    for allowed in sorted(largest, key=sorted):
        outside = everything - allowed
        hit = {each for each in found if each & outside}
        grown = {each | {model} for each in found - hit for model in outside}
        comparisons += len(grown) * (len(hit) + len(grown))
        if comparisons > MOST_COMPARISONS:
            raise TooManyCombinations
        grown = {each for each in grown if not any(other <= each for other in hit)}
        found = hit | {each for each in grown if not any(other < each for other in grown)}
    return sorted(found, key=lambda each: (len(each), sorted(each)))


def needs_of_conflicts(models: Sequence[str], conflicts: Iterable[Conflict]) -> NeedsDraft:
    """Return needs by which models fit together exactly if they hold no conflict."""
    pairs = {each for each in conflicts if len(each) == 2}
    larger = {each for each in conflicts if len(each) > 2}
    rules: list[tuple[int, dict[str, int]]] = []
    while pairs:
        capacity, rule = _best_rule(models, pairs)
        pairs = {each for each in pairs if sum(rule.get(m, 0) for m in each) <= capacity}
        rules.append((capacity, rule))
    while larger:
        first = min(larger, key=lambda each: (len(each), sorted(each)))
        together = _at_most(models, first, larger)
        larger = {each for each in larger if not (len(each) == len(first) and each <= together)}
        rules.append((len(first) - 1, dict.fromkeys(sorted(together), 1)))
    names = ["gpu"] if len(rules) == 1 else [f"rule{at + 1}" for at in range(len(rules))]
    return NeedsDraft(
        {name: capacity for name, (capacity, _) in zip(names, rules, strict=True)},
        {
            model: {
                name: rule[model]
                for name, (_, rule) in zip(names, rules, strict=True)
                if model in rule
            }
            for model in models
        },
    )


def _best_rule(models: Sequence[str], pairs: set[Conflict]) -> tuple[int, dict[str, int]]:
    """
    Return the capacity and the needs of a resource that excludes as many of the pairs as
    one resource can be found to exclude, and no other pair.

    Some models need all of the resource, so they exclude each other.  Others need one unit
    each, and the capacity is the number of these others, so they exclude those that need all,
    but not each other.
    """
    everyone = _neighbours(models, pairs)
    best: tuple[int, int, dict[str, int]] = (0, 1, {})
    for seed in models:
        whole = [seed]
        while True:
            common = frozenset.intersection(*(everyone[model] for model in whole))
            apart = _apart(models, common, everyone)
            capacity = max(1, len(apart))
            rule = dict.fromkeys(whole, capacity) | dict.fromkeys(apart, 1)
            excluded = len(whole) * (len(whole) - 1) // 2 + len(whole) * len(apart)
            if excluded > best[0]:
                best = (excluded, capacity, rule)
            if not common:
                break
            whole.append(
                max(
                    (model for model in models if model in common),
                    key=lambda model: len(everyone[model] & common),
                )
            )
    return best[1], best[2]


def _neighbours(models: Sequence[str], pairs: set[Conflict]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {model: set() for model in models}
    for first, second in map(sorted, pairs):
        found[first].add(second)
        found[second].add(first)
    return {model: frozenset(others) for model, others in found.items()}


def _apart(
    models: Sequence[str], among: frozenset[str], everyone: Mapping[str, frozenset[str]]
) -> list[str]:
    """Return some of the models, of which no two exclude each other."""
    chosen: list[str] = []
    for model in sorted(
        (model for model in models if model in among),
        key=lambda model: len(everyone[model] & among),
    ):
        if not everyone[model] & set(chosen):
            chosen.append(model)
    return chosen


def _at_most(models: Sequence[str], first: Conflict, conflicts: set[Conflict]) -> Conflict:
    """
    Return as many models as possible such that any of them, as many as in C{first}, are a
    conflict.
    """
    together = first
    for model in models:
        if model not in together and all(
            frozenset({*rest, model}) in conflicts
            for rest in combinations(sorted(together), len(first) - 1)
        ):
            together |= {model}
    return together
