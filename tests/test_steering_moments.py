"""These tests give commands in the middle of a start, and of a switch."""

from __future__ import annotations

from llmux.errors import NotReady
from llmux.interfaces import Phase
from tests.operators import Operator
from tests.world import ALIVE, SLEEP, WAKE, World


def test_a_pause_with_sleep_is_done_when_the_models_are_found_asleep() -> None:
    world = World(start=False, awake="a")
    for model in "abc":
        world.hooks.script(model, ALIVE, 2.0, 0 if model == "a" else 1)
    world.switcher.start()
    command = Operator(world).pause(sleep=True)
    world.advance(1)
    assert command.waits
    world.advance(4)
    assert command.done and world.ran(SLEEP) == ["a sleep"]


def test_a_pause_with_sleep_wakes_nothing_for_which_others_sleep_already() -> None:
    world = World()
    world.wake("a").finish()
    client = world.ask("b")
    world.advance(0.5)
    assert world.phase("a") is Phase.SLEEPING
    operator = Operator(world)
    command = operator.pause(sleep=True)
    world.advance(5)
    assert command.done and client.waits and world.ran(WAKE) == ["a wake"]
    operator.resume()
    world.advance(3)
    assert client.served


def test_a_model_that_is_put_to_sleep_is_not_woken_by_the_switch_to_it() -> None:
    world = World()
    world.wake("a").finish()
    client = world.ask("b")
    world.advance(0.5)
    assert world.phase("a") is Phase.SLEEPING
    command = Operator(world).sleep("b", abort=True)
    assert command.done and isinstance(client.error, NotReady)
    world.advance(5)
    assert world.ran(WAKE) == ["a wake"] and world.phase("b") is Phase.ASLEEP
    assert world.wake("b").served
