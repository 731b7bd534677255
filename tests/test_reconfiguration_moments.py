"""
These tests give another configuration in the middle of a start or a switch, or while models do
not go to sleep.
"""

from __future__ import annotations

import pytest

from llmux.errors import ModelNotFound
from llmux.interfaces import ONE_SLOT, HookKind, Phase
from llmux.switching.facts.settings import SwitchSettings
from tests.fakes import FakeHook
from tests.test_reconfiguration import ONE_OF_GPU, arrangement, reconfigure
from tests.world import ALIVE, SLEEP, WAKE, World


def test_a_model_is_woken_by_what_was_configured_while_it_was_asked() -> None:
    world = World(start=False)
    world.hooks.script("a", ALIVE, 2.0, 1)
    world.switcher.start()
    world.advance(1)
    reconfigure(world, own={"a": {"sleep_timeout": 7.0}})
    world.advance(2)
    assert world.phase("a") is Phase.ASLEEP
    assert world.switcher.models["a"].settings.sleep_timeout == 7.0


@pytest.mark.parametrize("added_says_yes", [False, True])
def test_one_of_two_models_that_are_asked_at_a_time_serves(added_says_yes: bool) -> None:
    world = World(models="a", awake="a", start=False)
    world.hooks.script("a", ALIVE, 2.0)
    world.hooks.script("d", ALIVE, 5.0, 0 if added_says_yes else 1)
    world.switcher.start()
    world.advance(1)
    reconfigure(world, "ad")
    client = world.ask("a")
    world.advance(10)
    assert client.served and world.phase("a") is Phase.AWAKE
    assert world.phase("d") is Phase.ASLEEP
    assert world.ran(SLEEP) == (["d sleep"] if added_says_yes else [])


def test_a_model_that_waits_for_room_since_the_start_serves_when_there_is_more() -> None:
    both = dict.fromkeys("ab", ONE_OF_GPU)
    world = World(models="ab", awake="ab", start=False, places=both, always="a")
    world.hooks.script("b", SLEEP, 1.0, 1)
    world.switcher.start()
    world.advance(3)
    assert (world.phase("a"), world.phase("b")) == (Phase.UNKNOWN, Phase.UNCERTAIN)
    reconfigure(world, "ab", {"gpu": 2}, both, own={"a": {"always": True}})
    assert world.ask("a").served


def test_a_model_that_is_removed_while_others_sleep_for_it_is_not_woken() -> None:
    world = World()
    world.wake("a").finish()
    client = world.ask("b")
    world.advance(0.5)
    assert world.phase("a") is Phase.SLEEPING
    reconfigure(world, "ac")
    world.advance(5)
    assert isinstance(client.error, ModelNotFound)
    assert world.ran(WAKE) == ["a wake"] and "b" not in world.switcher.models
    assert not world.switcher.switches()


@pytest.mark.parametrize("busy", [True, False])
def test_a_model_that_changes_before_its_wake_begins_is_woken_as_it_is_then(
    busy: bool,
) -> None:
    world = World()
    client = world.wake("a")
    waiting = world.ask("b")
    if not busy:
        client.finish()
    world.advance(0.5)
    assert world.phase("a") is (Phase.DRAINING if busy else Phase.SLEEPING)
    reconfigure(world, own={"b": {"sleep_timeout": 7.0}})
    if busy:
        client.finish()
    world.advance(5)
    assert waiting.served
    assert world.switcher.models["b"].settings.sleep_timeout == 7.0


def test_the_hooks_of_a_later_configuration_are_told_the_place() -> None:
    places = {"b": ({"gpu": 1}, {"gpu": 1})}
    world = World(places=places)
    world.wake("a").finish()
    world.ask("b")
    world.advance(0.5)
    assert world.phase("a") is Phase.SLEEPING
    world.places.places.clear()
    reconfigure(world, "abc", ONE_SLOT, places)
    world.advance(1)
    assert world.phase("b") is Phase.WAKING and world.places.places == {"b": 0}


def test_models_whose_hooks_end_at_once_can_be_removed_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_of_them = dict.fromkeys("abc", ONE_OF_GPU)
    world = World(resources={"gpu": 3}, places=all_of_them)
    for model in "abc":
        world.wake(model).finish()
    start = world.hooks.start

    def start_and_end(model: str, hook: HookKind) -> FakeHook:
        running = start(model, hook)
        running._exit()
        return running

    monkeypatch.setattr(world.hooks, "start", start_and_end)
    reconfigure(world, "a", {"gpu": 3}, all_of_them)
    assert list(world.switcher.models) == ["a"]


def test_a_model_that_is_to_be_kept_awake_gets_the_room_that_others_hold() -> None:
    world = World(models="ab", resources={"gpu": 2}, places=dict.fromkeys("ab", ONE_OF_GPU))
    world.wake("a").finish()
    world.wake("b").finish()
    every = dict.fromkeys("abc", ONE_OF_GPU)
    reconfigure(world, "abc", {"gpu": 2}, every, own={"c": {"always": True}})
    world.advance(5)
    assert world.phase("c") is Phase.AWAKE
    assert (world.phase("a"), world.phase("b")) == (Phase.ASLEEP, Phase.AWAKE)


def test_a_model_that_sleeps_before_its_requests_have_ended_is_forgotten_after_them() -> None:
    settings = SwitchSettings(drain_before_switch=False)
    world = World(drain_before_switch=False)
    client = world.wake("a")
    reconfigure(world, "bc", settings=settings)
    world.advance(3)
    assert world.phase("a") is Phase.ASLEEP and client.aborted == []
    assert not world.switcher.others_wait("a")
    world.switcher.backend_in_doubt("a")
    client.finish()
    assert "a" not in world.switcher.models


@pytest.mark.parametrize("is_removed", [True, False])
def test_a_model_that_does_not_sleep_for_a_configuration_is_tried_after_its_back_off(
    is_removed: bool,
) -> None:
    both = dict.fromkeys("ab", ONE_OF_GPU)
    world = World(models="ab", resources={"gpu": 2}, places=both)
    world.wake("a").finish()
    world.wake("b").finish()
    arranged = arrangement("b", {"gpu": 2}, both) if is_removed else arrangement("ab")
    world.hooks.script("a", SLEEP, 0.1, 1)
    world.hooks.script("b", SLEEP, 0.1, 1)
    world.switcher.reconfiguration.begin(arranged, None)
    world.advance(60)
    tries = len(world.ran(SLEEP))
    assert 4 <= tries <= 12
    world.hooks.script("a", SLEEP, 0.1)
    world.advance(60)
    assert world.phase("b") is Phase.AWAKE and "a" not in world.hooks.awake
    world.hooks.script("b", SLEEP, 0.1, 1)
    world.switcher.reconfiguration.begin(arrangement("a"), None)
    world.advance(1)
    world.stop()
    world.nothing_left()


@pytest.mark.parametrize("models", ["a", "ab"])
def test_a_model_that_waits_for_room_that_will_not_come_is_put_to_sleep(models: str) -> None:
    places = {"a": ({"gpu": 1},), "b": ({"gpu": 2},)}
    world = World(
        models="ab", resources={"gpu": 2}, awake="ab", start=False, places=places, always="b"
    )
    world.hooks.script("a", SLEEP, 0.1, 1)
    world.switcher.start()
    world.advance(1)
    assert (world.phase("a"), world.phase("b")) == (Phase.UNCERTAIN, Phase.UNKNOWN)
    reconfigure(world, models, {"gpu": 1}, dict.fromkeys("ab", ONE_OF_GPU))
    world.advance(100)
    client = world.ask("a")
    world.advance(5)
    assert client.served


def test_others_make_room_for_a_model_that_is_found_awake_and_is_to_be_kept_so() -> None:
    world = World(models="ab", resources={"gpu": 2}, places=dict.fromkeys("ab", ONE_OF_GPU))
    world.wake("a").finish()
    world.wake("b").finish()
    world.hooks.awake.add("c")
    every = dict.fromkeys("abc", ONE_OF_GPU)
    reconfigure(world, "abc", {"gpu": 2}, every, own={"c": {"always": True}})
    world.advance(5)
    assert world.phase("c") is Phase.AWAKE
    assert (world.phase("a"), world.phase("b")) == (Phase.ASLEEP, Phase.AWAKE)


def test_who_does_not_sleep_for_a_model_that_is_to_be_kept_awake_is_tried_later() -> None:
    world = World(models="a")
    world.wake("a").finish()
    world.hooks.script("a", SLEEP, 0.1, 1)
    world.switcher.reconfiguration.begin(arrangement("ab", own={"b": {"always": True}}), None)
    world.advance(60)
    assert 3 <= len(world.ran(SLEEP)) <= 6
    world.hooks.script("a", SLEEP, 0.1)
    world.advance(60)
    assert world.phase("b") is Phase.AWAKE
