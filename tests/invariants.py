"""
This module checks what must be true of a switcher at every moment, whatever its hooks and its
policy do.
"""

from __future__ import annotations

from collections import Counter

from llmux.interfaces import Phase
from llmux.switching.switcher import ModelSwitcher

__all__ = ["check_invariants"]

GIVE_GUARDS = frozenset({Phase.AWAKE, Phase.DRAINING, Phase.CHECKING})


def check_invariants(switcher: ModelSwitcher) -> None:
    """
    Raise L{AssertionError} if something is true that must never be.

    The function looks at every model, every holder and every story, and adds up each sum by
    itself.
    """
    capacity = switcher.capacity
    models = switcher.models
    holders = set(capacity.holders())
    for name, model in models.items():
        asleep = model.phase is Phase.ASLEEP
        assert (name in holders) != asleep, f"{name} is {model.phase} and holds {holders}"
        if not asleep:
            assert capacity.held(name) == model.needs, f"{name} holds another place's needs"
        assert model.open == (model.open and model.phase is Phase.AWAKE)
        if model.open:
            assert not model.waiting, f"somebody waits for {name}, which is awake"
        if switcher.settings.drain_before_switch and model.guards:
            assert model.phase in GIVE_GUARDS, f"guards of {name}, which is {model.phase}"
    stories = switcher.stories
    moved = Counter(model.name for story in stories for model in story.models)
    assert all(number == 1 for number in moved.values()), f"in several stories: {moved}"
    assert {name for name, model in models.items() if model.busy} == set(moved)
    reservations = capacity._reservations
    victims = Counter(victim for each in reservations for victim in each.victims)
    assert all(number == 1 for number in victims.values()), f"victims of several: {victims}"
    for resource, total in capacity.total.items():
        held = sum(capacity.held(name).get(resource, 0) for name in holders)
        claimed = sum(
            max(
                0,
                each.needs.get(resource, 0)
                - sum(capacity.held(victim).get(resource, 0) for victim in each.victims),
            )
            for each in reservations
        )
        assert capacity.free(resource) == total - held - claimed, f"{resource} has leaked"
    if not stories:
        waits = [each.target for each in reservations]
        assert all(models[name].settings.always for name in waits), f"claimed for {waits}"


def check_a_wake(switcher: ModelSwitcher, model: str) -> None:
    """Check, as a wake hook starts, that all that is held fits, with the model's own needs."""
    capacity = switcher.capacity
    assert switcher.models[model].phase is Phase.WAKING
    for resource in capacity.held(model):
        held = sum(capacity.held(name).get(resource, 0) for name in capacity.holders())
        assert held <= capacity.total[resource], f"{model} wakes with {held} of {resource}"
