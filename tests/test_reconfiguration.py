"""These tests give a switcher that runs another configuration, in every phase of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from twisted.python.failure import Failure

from llmux.control import CommandError
from llmux.errors import ModelNotFound
from llmux.interfaces import (
    ONE_SLOT,
    Decision,
    IScheduleView,
    Needs,
    Phase,
    Stay,
    Why,
)
from llmux.policy.fifo import FifoPolicy
from llmux.switching.facts.settings import ModelSettings, SwitchSettings
from llmux.switching.reconfiguration import Arrangement
from llmux.switching.wishes.idleness import DefaultModel
from tests.world import ALIVE, SLEEP, WAKE, World, eager_cost_aware

ONE_OF_GPU: Sequence[Needs] = ({"gpu": 1},)


def arrangement(
    models: Sequence[str] = "abc",
    resources: Needs = ONE_SLOT,
    places: Mapping[str, Sequence[Needs]] | None = None,
    own: Mapping[str, Any] | None = None,
    **more: Any,
) -> Arrangement:
    settings = {
        name: ModelSettings(
            100.0, places=(places or {}).get(name, (resources,)), **(own or {}).get(name, {})
        )
        for name in models
    }
    return Arrangement(settings, more.pop("settings", SwitchSettings()), resources, **more)


def reconfigure(world: World, *arguments: Any, **more: Any) -> None:
    for model in arguments[0] if arguments else "abc":
        world.hooks.script(model, WAKE, 1.0)
        world.hooks.script(model, SLEEP, 1.0)
    world.switcher.reconfiguration.begin(arrangement(*arguments, **more), None)
    world.settle()


def test_a_model_that_is_added_can_be_asked_for_at_once() -> None:
    world = World()
    awake = world.wake("a")
    reconfigure(world, "abcd")
    client = world.ask("d")
    world.advance(3)
    assert awake.served and client.waits
    awake.finish()
    world.advance(3)
    assert client.served


def test_a_model_that_is_added_and_awake_is_adopted_if_it_fits() -> None:
    world = World(resources={"gpu": 2}, places=dict.fromkeys("abc", ONE_OF_GPU))
    world.wake("a")
    world.hooks.awake.add("d")
    reconfigure(world, "abcd", {"gpu": 2}, dict.fromkeys("abcd", ONE_OF_GPU))
    world.advance(1)
    assert world.phase("d") is Phase.AWAKE and world.phase("a") is Phase.AWAKE


def test_a_model_that_is_added_and_awake_and_does_not_fit_is_put_to_sleep() -> None:
    world = World()
    world.wake("a")
    world.hooks.awake.add("d")
    reconfigure(world, "abcd")
    world.advance(3)
    assert world.phase("d") is Phase.ASLEEP and world.phase("a") is Phase.AWAKE


def test_what_is_in_flight_to_a_removed_model_finishes_and_then_the_model_sleeps() -> None:
    world = World()
    client = world.wake("a")
    waiting = world.ask("b")
    reconfigure(world, "bc")
    assert isinstance(world.ask("a").error, ModelNotFound)
    world.advance(10)
    assert not client.aborted and world.ran(SLEEP) == []
    client.finish()
    world.advance(5)
    assert "a" not in world.switcher.models and waiting.served
    assert world.ran(SLEEP) == ["a sleep"]


def test_who_waits_for_a_removed_model_is_told_so() -> None:
    world = World()
    world.wake("a")
    waiting = world.ask("b")
    reconfigure(world, "ac")
    assert isinstance(waiting.error, ModelNotFound)
    world.advance(1)
    assert world.phase("a") is Phase.AWAKE and "b" not in world.switcher.models


def test_a_wake_of_a_removed_model_is_called_off_and_cleaned_up_after() -> None:
    world = World()
    waiting = world.ask("a")
    world.advance(0.5)
    reconfigure(world, "bc")
    assert isinstance(waiting.error, ModelNotFound)
    world.advance(5)
    assert "a" not in world.switcher.models and world.ran(SLEEP) == ["a sleep"]
    assert world.wake("b").served


def test_a_removed_model_is_known_until_the_switch_is_over_for_which_it_sleeps() -> None:
    world = World()
    world.wake("a").finish()
    waiting = world.ask("b")
    world.advance(0.5)
    reconfigure(world, "bc")
    world.advance(1)
    world.ask("c")
    assert world.phase("b") is Phase.WAKING and "a" in world.switcher.models
    world.advance(1)
    assert waiting.served and "a" not in world.switcher.models


def test_a_model_that_comes_back_before_it_sleeps_serves_on() -> None:
    world = World()
    client = world.wake("a")
    reconfigure(world, "bc")
    world.advance(1)
    reconfigure(world, "abc")
    client.finish()
    world.advance(5)
    later = world.ask("a")
    world.advance(5)
    assert later.served


def test_a_command_for_a_model_that_is_removed_is_told_so_and_wakes_nothing() -> None:
    world = World()
    client = world.wake("a")
    refused: list[str] = []

    def note(failure: Failure) -> None:
        assert isinstance(failure.value, CommandError)
        refused.append(failure.value.code)

    world.switcher.steering.switch("b", False, "socket").addErrback(note)
    world.settle()
    reconfigure(world, "ac")
    client.finish()
    world.advance(5)
    assert refused == ["superseded"] and "b" not in world.switcher.models
    assert world.wake("c").served and "b wake" not in world.ran(WAKE)


def test_a_model_with_a_pin_is_not_removed() -> None:
    world = World()
    world.switcher.steering.pin("a", None, False, "socket")
    world.advance(3)
    with pytest.raises(ValueError, match="llmux unpin a"):
        reconfigure(world, "bc")
    assert world.ask("a").served


def test_limits_of_a_model_that_is_awake_change_at_its_next_wake() -> None:
    world = World()
    client = world.wake("a")
    reconfigure(world, own={"a": {"sleep_timeout": 7.0}})
    model = world.switcher.models["a"]
    assert model.settings.sleep_timeout == 300.0
    client.finish()
    world.wake("b").finish()
    assert model.settings.sleep_timeout == 7.0


def test_where_there_is_less_room_models_are_put_to_sleep_the_idle_ones_first() -> None:
    places = dict.fromkeys("abc", ONE_OF_GPU)
    world = World(resources={"gpu": 3}, places=places)
    busy, other = world.wake("a"), world.wake("b")
    world.wake("c").finish()
    other.finish()
    reconfigure(world, "abc", {"gpu": 1}, places)
    world.advance(5)
    phases = {model: world.phase(model) for model in "abc"}
    assert phases == {"a": Phase.AWAKE, "b": Phase.ASLEEP, "c": Phase.ASLEEP}
    assert not busy.aborted


def test_a_switch_whose_room_is_gone_is_called_off_and_its_waiters_wait_on() -> None:
    places = {"a": [{"gpu": 1}], "b": [{"gpu": 2}], "c": [{"gpu": 1}]}
    world = World(resources={"gpu": 2}, places=places)
    world.wake("a").finish()
    waiting = world.ask("b")
    world.advance(0.5)
    assert world.phase("a") is Phase.SLEEPING
    reconfigure(world, "abc", {"gpu": 1}, places | {"b": [{"gpu": 1}]})
    world.advance(5)
    assert waiting.served


def test_what_waits_keeps_its_age_under_another_policy() -> None:
    world = World(eager_cost_aware)
    client = world.wake("a")
    first = world.ask("b")
    world.advance(5)
    second = world.ask("c")
    policy = FifoPolicy()
    world.switcher.reconfiguration.begin(arrangement(), (policy, False))
    client.finish()
    world.advance(3)
    assert world.switcher.policy is policy
    assert first.served and second.waits
    first.finish()
    world.advance(3)
    assert second.served


def test_a_default_model_and_idle_sleep_can_be_configured_later() -> None:
    world = World()
    world.wake("a").finish()
    reconfigure(world, own={"a": {"idle_sleep": 10.0}}, default=DefaultModel("b", 30.0))
    world.advance(11)
    assert world.phase("a") is Phase.ASLEEP
    world.advance(25)
    assert world.phase("b") is Phase.AWAKE


def test_a_configuration_that_comes_before_the_start_leaves_no_timer_behind() -> None:
    world = World(start=False, default=DefaultModel("b", 30.0))
    world.hooks.script("a", ALIVE, 5.0)
    world.switcher.start()
    reconfigure(world, default=DefaultModel("b", 30.0))
    world.advance(10)
    world.stop()
    world.advance(5)
    world.nothing_left()


def test_the_last_decision_goes_with_the_policy_that_made_it() -> None:
    world = World()
    world.wake("a").finish()
    assert world.switcher.latest_decision is not None
    reconfigure(world)
    assert world.switcher.latest_decision is not None
    world.switcher.reconfiguration.begin(arrangement(), (FifoPolicy(), False))
    assert world.switcher.latest_decision is None


def test_a_model_can_be_kept_awake_from_now_on() -> None:
    world = World(resources={"gpu": 2}, places=dict.fromkeys("abc", ONE_OF_GPU))
    world.wake("b").finish()
    reconfigure(
        world,
        "abc",
        {"gpu": 2},
        dict.fromkeys("abc", ONE_OF_GPU),
        own={"a": {"always": True}},
    )
    world.advance(3)
    assert world.phase("a") is Phase.AWAKE
    world.wake("c").finish()
    assert world.phase("a") is Phase.AWAKE and world.phase("b") is Phase.ASLEEP


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
def test_the_same_configuration_changes_nothing_in_the_middle_of_a_switch(
    seconds: float,
) -> None:
    world = World()
    world.wake("a").finish()
    waiting = world.ask("b")
    world.advance(seconds)
    reconfigure(world)
    world.advance(5)
    assert waiting.served and world.ran(ALIVE, WAKE).count("b wake") == 1


def keys_that_name(name: str, start: object) -> Iterator[str]:
    """
    Yield, for each mapping or set of the switcher's objects that has a key with this name, the
    attributes that lead there.
    """
    seen: set[int] = set()
    todo = [("", start)]
    while todo:
        path, found = todo.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        inner: list[tuple[str, object]] = []
        if isinstance(found, Mapping):
            inner = [(f"[{key!r}]", value) for key, value in found.items()]
        elif isinstance(found, list | tuple | set | frozenset):
            inner = [("[]", value) for value in found]
        elif type(found).__module__.startswith("llmux.switching"):
            slots = getattr(type(found), "__slots__", ())
            names = [*getattr(found, "__dict__", ()), *(s for s in slots if hasattr(found, s))]
            inner = [(f".{each}", getattr(found, each)) for each in names]
        if isinstance(found, Mapping | set | frozenset) and any(
            key == name or (isinstance(key, tuple) and name in key) for key in found
        ):
            yield path
        todo += [(path + step, value) for step, value in inner]


class LingersOnce(FifoPolicy):
    """This policy is FIFO, but says once, when told to, that C{a} lingers."""

    lingers = False

    def decide(self, view: IScheduleView) -> Decision:
        if self.lingers:
            self.lingers = False
            return Stay(why=Why("lingers", "a", {"until_at": 1e6}))
        return super().decide(view)


def test_a_removed_model_is_named_nowhere_any_more() -> None:
    policy = LingersOnce()
    world = World(lambda: policy, own={"idle_sleep": 1000.0})
    world.hooks.once("a", SLEEP, 1.0, 1)
    world.wake("a").finish()
    failed = world.ask("b")
    world.advance(2)
    assert failed.error is not None
    client = world.ask("b")
    policy.lingers = True
    world.ask("c").leave()
    world.advance(30)
    client.finish()
    # Several ways may lead to an object: only the last step is the same for all of them.
    named = {way.rpartition(".")[2] for way in keys_that_name("a", world.switcher)}
    assert named >= {
        "_said_held_until",
        "_said_lingers",
        "_idle_since",
        "wake_secs",
        "_averages",
    }
    reconfigure(world, "bc")
    world.advance(5)
    assert "a" not in world.switcher.models
    assert set(keys_that_name("a", world.switcher)) == set()


def test_two_hundred_reconfigurations_under_load_lose_nothing() -> None:
    world = World()
    clients = []
    for number in range(200):
        clients.append(world.ask("abc"[number % 3]))
        world.advance(0.7)
        for client in clients:
            if client.served and client.guard is not None and not client.guard.released:
                client.finish()
        extra = "d" if number % 2 else "e"
        reconfigure(world, f"abc{extra}")
    world.advance(600)
    for _ in range(50):
        for client in clients:
            if client.served and client.guard is not None and not client.guard.released:
                client.finish()
        world.advance(10)
    assert [client.error for client in clients if not client.served] == []
    reconfigure(world)
    world.advance(10)
    assert sorted(world.switcher.models) == ["a", "b", "c"]
    world.stop()
    world.advance(5)
    world.nothing_left()
