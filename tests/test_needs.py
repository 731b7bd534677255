"""
These tests check resources and needs in a configuration: the amounts, and how mistakes are
told.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from llmux.app import build_policy
from llmux.command.checking.check import describe
from llmux.command.checking.fitting import largest_sets
from llmux.config import Config, ConfigError, config_from_mapping, parse_config
from llmux.config.room import Room, room_of, written
from llmux.interfaces import ONE_SLOT

TWO = {"gpu0": 24, "gpu1": 24}
EMBED = {"needs": {"gpu0": 2}, "keep": "always"}


def configure(resources: Any, /, **models: Any) -> Config:
    """Make a configuration with these resources, and models with these needs (or more keys)."""
    document: dict[str, Any] = {"models": {}}
    if resources is not None:
        document["resources"] = resources
    for number, (name, given) in enumerate(models.items()):
        keys = given if isinstance(given, dict) and "keep" in given else {"needs": given}
        document["models"][name] = {
            "port": 4000 + number,
            "wake": "true",
            "sleep": "true",
        } | keys
    return config_from_mapping(document)


def room(resources: Any, /, **models: Any) -> Room:
    return room_of(configure(resources, **models))


def test_without_resources_each_model_needs_the_one_slot() -> None:
    config = config_from_mapping({"models": {"a": {"port": 1, "wake": "w", "sleep": "s"}}})
    assert room_of(config) == Room(ONE_SLOT, {"a": (ONE_SLOT,)}, frozenset(), False)


def test_each_form_of_needs_is_read() -> None:
    found = room(
        TWO,
        embed=EMBED,
        chat=[{"gpu0": 20}, {"gpu1": 20}],
        big={"gpu0": 22, "gpu1": 22},
        whole="gpu1",
        nothing={},
        rest=None,
    )
    assert found.places == {
        "embed": ({"gpu0": 2},),
        "chat": ({"gpu0": 20}, {"gpu1": 20}),
        "big": ({"gpu0": 22, "gpu1": 22},),
        "whole": ({"gpu1": 24},),
        "nothing": ({},),
        "rest": ({"gpu0": 22, "gpu1": 24},),
    }
    assert found.always == {"embed"}


def test_a_list_of_resources_means_one_of_each_and_names_may_be_whole_numbers() -> None:
    found = room([0, 1], a=0, b=[0, 1], c={0: 1, 1: 1})
    assert found.resources == {"0": 1, "1": 1}
    assert found.places["b"] == ({"0": 1}, {"1": 1})
    assert found.places["c"] == ({"0": 1, "1": 1},)
    text = b"""
resources: {0: 24, 1: 24}
models:
  a: {port: 1, wake: w, sleep: s, needs: {0: 20}}
  b: {port: 2, wake: w, sleep: s, needs: [{0: 20}, {1: 20}]}
"""
    assert room_of(parse_config(text, "c.yaml")).places["b"] == ({"0": 20}, {"1": 20})
    with pytest.raises(ConfigError, match="the key 1 in line 2 is a number in YAML"):
        parse_config(b"models:\n  1: {port: 1, wake: w, sleep: s}", "c.yaml")


def test_fractions_of_resources_are_exact() -> None:
    found = room({"gpu": 1.5}, a={"gpu": 0.1}, b={"gpu": 1.4})
    assert found.resources == {"gpu": Fraction(3, 2)}
    assert found.places == {"a": ({"gpu": Fraction(1, 10)},), "b": ({"gpu": Fraction(7, 5)},)}
    assert room({"gpu": 0.3}, a={"gpu": 0.1}, keep={"needs": {"gpu": 0.2}, "keep": "always"})
    assert [written(x) for x in (20, Fraction(3, 2), Fraction(1, 3))] == ["20", "1.5", "1/3"]


@pytest.mark.parametrize(
    ("resources", "models", "said"),
    [
        (
            TWO,
            {"embed": EMBED, "big": {"gpu0": 23}},
            "models.big.needs: big needs 23 of gpu0; 24 less embed's 2 leaves 22; lower",
        ),
        (
            TWO,
            {"big": {"gpu0": 25}},
            "models.big.needs: big needs 25 of gpu0, and there is 24;",
        ),
        (
            TWO,
            {"a": EMBED, "b": EMBED | {"needs": {"gpu0": 1}}, "big": [{"gpu1": 1}, "gpu0"]},
            "models.big.needs: big needs 24 of gpu0; 24 less a's 2 and b's 1 leaves 21;",
        ),
        (
            TWO,
            {"a": EMBED, "b": EMBED | {"needs": {"gpu0": 23}}},
            "models.b.needs: the models that are kept awake need 25 of gpu0 (a's 2 and "
            "b's 23), and there is 24;",
        ),
        (
            TWO,
            {"a": EMBED | {"needs": ["gpu0", "gpu1"]}},
            "models.a.needs: a is kept awake always, and has 2 places; choose one of them",
        ),
        (
            TWO,
            {"a": EMBED | {"needs": None}, "b": None},
            "models.b.needs: b needs all that is left, and a leave nothing;",
        ),
        (TWO, {"a": {"gpuo": 1}}, "models.a.needs: there is no resource gpuo; did you mean"),
        (TWO, {"a": "tpu"}, "models.a.needs: there is no resource tpu; known: gpu0, gpu1"),
        (
            None,
            {"a": {"gpu0": 1}},
            'models.a.needs: there is no resource gpu0; name it in "resources:"',
        ),
        (TWO, {"a": []}, "models.a.needs: there is no place; list one, or write {}"),
        (TWO, {"a": ["gpu0", "gpu0"]}, "models.a.needs[1]: this place is listed twice;"),
        (TWO, {"a": {"gpu0": "20GB"}}, 'models.a.needs.gpu0: "20GB" is not a number;'),
        (TWO, {"a": {"gpu0": -1}}, "models.a.needs.gpu0: -1 is out of range;"),
        (TWO, {"a": {"gpu0": True}}, "models.a.needs.gpu0: true is not a number;"),
        (TWO, {"a": 1.5}, "models.a.needs: 1.5 does not say what is needed;"),
        (TWO, {"a": [["gpu0"]]}, "models.a.needs[0]: a list does not say what is needed;"),
        (TWO, {"a": EMBED | {"keep": "yes"}}, 'models.a.keep: the string "yes" is not a way'),
        ({"gpu0": 0}, {"a": {}}, "resources.gpu0: there is 0 of it;"),
        ({}, {"a": {}}, "resources: there are none;"),
        ("gpu0", {"a": {}}, 'resources: "gpu0" is neither a mapping nor a list;'),
        (["a", "a"], {"a": {}}, "resources: a is listed twice;"),
        (["a b"], {"a": {}}, 'resources: "a b" is not a resource\'s name; use no blank'),
        ([1.5], {"a": {}}, "resources: 1.5 is not a resource's name;"),
        ({"a": None}, {"a": {}}, "resources.a: null is not a number;"),
        ({"a": 1e300}, {"a": {}}, "resources.a: 1e+300 is out of range;"),
    ],
)
def test_a_mistake_is_one_line_with_the_sum(
    resources: Any, models: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(resources, **models)
    assert str(caught.value).startswith(f"configuration: {said}")
    assert "\n" not in str(caught.value)


def test_parallel_wakes_and_the_room_reach_the_policy() -> None:
    document = {
        "resources": TWO,
        "policy": {"name": "fifo", "parallel_wakes": 2},
        "models": {"a": {"port": 1, "wake": "w", "sleep": "s", "needs": "gpu0"}},
    }
    config = config_from_mapping(document)
    context = config.policy_context()
    assert (context.parallel_wakes, context.resources) == (2, TWO)
    assert context.places == {"a": ({"gpu0": 24},)}
    assert build_policy(config)
    with pytest.raises(ConfigError, match="parallel_wakes: 0 is not a whole number"):
        config_from_mapping(document | {"policy": {"parallel_wakes": 0}})


# ---------------------------------------------------------------------- llmux check


def test_check_prints_the_largest_sets_that_fit_together() -> None:
    either = [{"gpu0": 20}, {"gpu1": 20}]
    config = configure(
        TWO,
        embed=EMBED,
        chat=either,
        code=either,
        math=either,
        big={"gpu0": 22, "gpu1": 22},
        small={"gpu1": 1.5},
    )
    assert largest_sets(room_of(config)) == [
        "embed, (2 of chat, code, math), small",
        "embed, big, small",
    ]
    lines = list(describe(config))
    assert "resources         24 of gpu0, 24 of gpu1" in lines
    assert "awake together    embed, (2 of chat, code, math), small" in lines
    assert "            or    embed, big, small" in lines
    assert "  needs   20 of gpu0 or 20 of gpu1" in lines
    assert "  needs   1.5 of gpu1" in lines
    assert "  awake always" in lines


def test_check_says_when_the_sets_are_too_many() -> None:
    many = {f"m{n}": {"gpu0": 1 + n / 100} for n in range(60)}
    assert largest_sets(room(TWO, **many)) is None
    assert "awake together    too many sets to list" in describe(configure(TWO, **many))


def test_check_says_nothing_of_resources_where_there_are_none() -> None:
    text = "\n".join(describe(configure(None, a=None, b=None)))
    assert "resources" not in text and "needs" not in text
