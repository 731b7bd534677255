"""
These tests check that sets of models that may be awake together become resources and needs that
say exactly the same.
"""

from __future__ import annotations

from itertools import chain, combinations
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmux.drafting.coexistence import TooManyCombinations, needs_of_sets

MODELS = ("a", "b", "c", "d", "e", "f")

pytestmark = pytest.mark.own_cpu("hypothesis thinks up hundreds of rules between two polls")


def all_parts(models: tuple[str, ...]) -> list[frozenset[str]]:
    sizes = range(len(models) + 1)
    return [
        frozenset(part)
        for part in chain.from_iterable(combinations(models, size) for size in sizes)
    ]


@given(st.lists(st.frozensets(st.sampled_from(MODELS)), max_size=6))
@settings(deadline=None)
def test_exactly_the_parts_of_the_sets_fit(sets: list[frozenset[str]]) -> None:
    result = needs_of_sets(MODELS, sets)
    for part in all_parts(MODELS):
        allowed = len(part) < 2 or any(part <= each for each in sets)
        assert result.fit(part) == allowed, (part, result)


def test_one_at_a_time_is_one_resource() -> None:
    result = needs_of_sets("abc", [])
    assert result.capacities == {"gpu": 1}
    assert result.needs == {"a": {"gpu": 1}, "b": {"gpu": 1}, "c": {"gpu": 1}}


def test_all_together_is_no_resource() -> None:
    result = needs_of_sets("abc", ["abc"])
    assert result.capacities == {}
    assert result.needs == {"a": {}, "b": {}, "c": {}}


def test_several_small_ones_or_a_large_one_is_one_resource() -> None:
    result = needs_of_sets("abcXY", ["abc"])
    assert result.capacities == {"gpu": 3}
    assert result.needs["X"] == {"gpu": 3}
    assert result.needs["a"] == {"gpu": 1}


def test_two_at_most_of_four_is_one_resource() -> None:
    result = needs_of_sets("abcd", combinations("abcd", 2))
    assert result.capacities == {"gpu": 2}
    assert set(map(str, result.needs.values())) == {"{'gpu': 1}"}


def test_one_that_goes_with_each_of_the_others_needs_nothing() -> None:
    result = needs_of_sets("abv", ["av", "bv"])
    assert result.capacities == {"gpu": 1}
    assert result.needs["v"] == {}


def test_a_rule_without_end_is_refused_soon() -> None:
    models = [f"m{at}" for at in range(30)]
    thirds = [
        [model for model in models if model not in (a, b, c)]
        for a, b, c in zip(models[::3], models[1::3], models[2::3], strict=True)
    ]
    began = perf_counter()
    with pytest.raises(TooManyCombinations):
        needs_of_sets(models, thirds)
    assert perf_counter() - began < 10
