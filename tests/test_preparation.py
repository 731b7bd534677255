"""These tests check the prepare hook beside a switch: when it starts, and when it is ended."""

from __future__ import annotations

from typing import Any

from llmux.interfaces import HookKind
from tests.world import ALIVE, SLEEP, WAKE, World

PREPARE = HookKind.PREPARE


def world(**settings: Any) -> World:
    world = World(own={"prepares": True}, **settings)
    for model in "abc":
        world.hooks.never(model, PREPARE)
    return world


def prepares(world: World) -> list[str]:
    """Return the models whose prepare hook runs and has not been told to end."""
    return [run.model for run in world.hooks.running if run.hook is PREPARE and not run.killed]


def test_the_preparation_runs_beside_drain_and_wake_and_ends_when_the_model_is_awake() -> None:
    w = world()
    client = w.wake("a")
    assert prepares(w) == []
    waiter = w.ask("b")
    w.advance(10)
    assert client.served and prepares(w) == ["b"], "the drain has not ended"
    client.finish()
    w.advance(0.5)
    assert w.ran()[-1] == "a sleep"
    w.advance(1)
    assert w.ran()[-1] == "b wake" and prepares(w) == ["b"]
    w.advance(1)
    assert waiter.served and prepares(w) == []
    assert w.ran(PREPARE) == ["a prepare", "b prepare"]
    waiter.finish()
    w.advance(0)
    w.nothing_left()


def test_a_switch_that_is_called_off_ends_it() -> None:
    w = world()
    client = w.wake("a")
    waiter = w.ask("b")
    w.advance(1)
    assert prepares(w) == ["b"]
    waiter.leave()
    w.advance(0)
    assert prepares(w) == []
    client.finish()
    w.advance(1)
    w.nothing_left()


def test_a_switch_that_leads_to_another_target_prepares_that_one() -> None:
    w = world()
    client = w.wake("a")
    first, second = w.ask("b"), w.ask("c")
    w.advance(1)
    assert prepares(w) == ["b"]
    first.leave()
    w.advance(0)
    assert prepares(w) == ["c"]
    client.finish()
    w.advance(5)
    assert second.served
    second.finish()
    w.advance(1)
    w.nothing_left()


def test_a_preparation_that_fails_changes_nothing() -> None:
    w = world()
    w.hooks.script("a", PREPARE, 0.5, 1)
    client = w.ask("a")
    w.advance(5)
    assert client.served
    assert w.ran(WAKE, ALIVE, PREPARE)[-3:] == ["a prepare", "a wake", "a alive"]


def test_the_preparation_ends_with_a_failed_wake_and_with_a_victim_that_does_not_sleep() -> (
    None
):
    w = world()
    w.hooks.script("a", WAKE, 1.0, 3)
    w.ask("a")
    w.advance(0.5)
    assert prepares(w) == ["a"]
    w.advance(5)
    assert prepares(w) == []
    w.wake("b").finish()
    w.hooks.script("b", SLEEP, 1.0, 1)
    w.ask("c")
    w.advance(0.5)
    assert prepares(w) == ["c"]
    w.advance(2)
    assert prepares(w) == []


def test_the_end_of_llmux_ends_it() -> None:
    w = world()
    w.hooks.never("a", WAKE)
    w.ask("a")
    w.advance(1)
    assert prepares(w) == ["a"]
    stopped = w.stop()
    w.advance(100)
    assert stopped and prepares(w) == []


def test_a_model_without_such_a_hook_has_none_started() -> None:
    w = World()
    w.wake("a")
    assert w.ran(PREPARE) == []


def test_a_runner_that_raises_harms_no_switch(logged_failures: Any) -> None:
    w = world()
    start: Any = w.hooks.start

    def broken(model: str, hook: HookKind) -> Any:
        if hook is PREPARE:
            raise RuntimeError("broken")
        return start(model, hook)

    w.hooks.start = broken  # type: ignore[method-assign]
    assert w.wake("a").served
    assert len(logged_failures.flush()) == 1
