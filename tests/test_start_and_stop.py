"""
These tests check that llmux finds out what is awake when it starts, and leaves nothing undone
when it stops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmux.errors import HookFailed, NotReady
from llmux.interfaces import HookKind, Phase
from llmux.switching.facts.model import Model
from llmux.switching.stories.sequences import HookSequence
from tests.conftest import LoggedFailures
from tests.world import ALIVE, SLEEP, WAKE, Active, Switching, World, under_each_policy

make = under_each_policy


# ------------------------------------------------------------- llmux starts


def test_start_adopts_what_is_awake(make: Callable[..., World]) -> None:
    world = make(awake="b")
    assert world.state() == Active("b")
    assert world.ask("b").served
    assert world.ran() == ["a alive", "b alive", "c alive"]


def test_models_found_awake_at_the_start_sleep_before_another_wakes(
    make: Callable[..., World],
) -> None:
    world = make(awake="ac")
    assert world.state() == Switching("a", None)
    client = world.ask("c")
    assert client.waits
    world.advance(4)
    assert client.served
    assert world.ran(SLEEP, WAKE) == ["a sleep", "c sleep", "c wake"]


def test_start_counts_unknown_as_awake(make: Callable[..., World]) -> None:
    """A model whose alive does not answer is put to sleep; one whose alive says yes is kept."""
    world = make(awake="b", start=False)
    world.hooks.limits = {ALIVE: 5.0}
    for _ in range(2):
        world.hooks.once("a", ALIVE, None)
    client = world.ask("b")
    world.advance(5.5)
    assert client.waits and world.ran(SLEEP) == [], "it is asked a second time"
    world.advance(5)
    assert client.waits
    world.advance(1)
    assert client.served
    assert world.ran(SLEEP, WAKE) == ["a sleep"]


# ------------------------------------------------------- llmux is told to stop


def test_stop_refuses_those_who_wait_and_lets_those_in_flight_finish(
    make: Callable[..., World],
) -> None:
    world = make()
    flying = world.wake("a")
    waiting = world.ask("b")
    done = world.stop()
    assert isinstance(waiting.error, NotReady)
    assert isinstance(world.ask("a").error, NotReady)
    assert done == [] and flying.aborted == []
    world.advance(29)
    flying.finish()
    assert done == [None]
    assert world.ran(SLEEP) == [], "the awake model is left awake"
    world.nothing_left()


def test_stop_aborts_what_does_not_finish(make: Callable[..., World]) -> None:
    world = make(shutdown_timeout=7.0)
    flying = world.wake("a")
    done = world.stop()
    world.advance(6.9)
    assert flying.aborted == []
    world.advance(0.2)
    assert len(flying.aborted) == 1
    assert done == [None]
    world.nothing_left()


def test_stop_lets_a_sleep_hook_finish(make: Callable[..., World]) -> None:
    world = make()
    world.wake("a").finish()
    world.ask("b")
    world.advance(0.5)
    done = world.stop()
    assert done == []
    world.advance(0.5)
    assert done == [None]
    assert world.ran()[-1] == "a sleep"
    world.nothing_left()


def test_stop_kills_a_wake_hook_and_cleans_up(make: Callable[..., World]) -> None:
    world = make()
    world.hooks.script("a", WAKE, 50.0)
    client = world.ask("a")
    world.advance(5)
    done = world.stop()
    assert isinstance(client.error, NotReady)
    (running,) = world.hooks.running
    assert running.killed
    world.advance(0.1)
    assert world.ran()[-1] == "a sleep"
    world.advance(1)
    assert done == [None]
    world.nothing_left()


def test_stop_while_alive_is_polled(make: Callable[..., World]) -> None:
    world = make()
    world.hooks.script("a", ALIVE, 0.0, 1)
    world.ask("a")
    world.advance(3.3)
    done = world.stop()
    world.advance(2)
    assert done == [None]
    assert world.ran()[-1] == "a sleep"
    world.nothing_left()


def test_stop_calls_off_a_drain(make: Callable[..., World]) -> None:
    world = make(drain_timeout=10.0)
    flying = world.wake("a")
    world.ask("b")
    done = world.stop()
    world.advance(20)
    assert flying.aborted == []
    flying.finish()
    assert done == [None]
    assert world.ran(SLEEP) == []
    world.nothing_left()


def test_stop_while_what_is_awake_is_not_known(make: Callable[..., World]) -> None:
    world = make(start=False)
    world.hooks.script("a", ALIVE, 5.0)
    client = world.ask("b")
    done = world.stop()
    world.settle()
    assert isinstance(client.error, NotReady)
    assert done == [None]
    world.nothing_left()


def test_stop_while_a_backend_is_in_doubt(make: Callable[..., World]) -> None:
    world = make()
    client = world.wake("a")
    world.hooks.script("a", ALIVE, 3.0, 1)
    answers = client.report_dead()
    done = world.stop()
    world.advance(3)
    assert world.ran()[-1] == "a sleep", "it is dead: clean up"
    world.advance(1)
    assert answers == [True]
    assert done == [None]
    world.nothing_left()


def test_stop_while_nothing_may_be_woken(make: Callable[..., World]) -> None:
    world = make()
    world.hooks.once("a", WAKE, 1.0, 1)
    world.hooks.script("a", SLEEP, 0.0, 1)
    world.hooks.script("a", ALIVE, 0.0, 0)
    world.ask("a")
    world.advance(2)
    done = world.stop()
    world.advance(1)
    assert done == [None]
    world.nothing_left()


def test_stop_puts_the_model_to_sleep_if_asked_to(make: Callable[..., World]) -> None:
    world = make(sleep_on_exit=True)
    flying = world.wake("a")
    done = world.stop()
    world.advance(5)
    flying.finish()
    assert done == []
    world.advance(1)
    assert done == [None]
    assert world.ran()[-1] == "a sleep"
    world.nothing_left()


def test_stop_puts_the_model_to_sleep_even_if_exchanges_had_to_be_aborted(
    make: Callable[..., World],
) -> None:
    world = make(sleep_on_exit=True, shutdown_timeout=5.0)
    flying = world.wake("a")
    done = world.stop()
    world.advance(5.5)
    assert len(flying.aborted) == 1
    world.advance(1)
    assert done == [None]
    assert world.ran()[-1] == "a sleep"


@pytest.mark.parametrize("moment", [0.2, 1.5, 2.5])
def test_a_second_signal_aborts_now(make: Callable[..., World], moment: float) -> None:
    """
    The signal aborts whatever runs at that moment: a drain, the sleep hook, the wake hook.
    """
    world = make()
    flying = world.wake("a")
    world.hooks.script("a", SLEEP, 1.0)
    world.hooks.script("b", WAKE, 100.0)
    world.ask("b")
    if moment > 1:
        flying.finish()
    world.advance(moment - 0.5 if moment > 1 else moment)
    done = world.stop()
    world.switcher.abort()
    world.settle()
    assert done == [None]
    world.nothing_left()


def test_stop_twice_and_in_every_moment(make: Callable[..., World]) -> None:
    for tenths in range(60):
        world = make(awake="ab")
        clients = [world.ask(model) for model in "abc"]
        for _ in range(tenths):
            world.advance(0.1)
            for client in clients:
                if client.served:
                    client.finish()
        done, again = world.stop(), world.stop()
        for client in clients:
            if client.served:
                client.finish()
        world.advance(40)
        assert done == again == [None], tenths
        assert not any(client.waits for client in clients)
        world.nothing_left()


def test_a_hook_runner_that_raises_is_a_failed_hook(
    make: Callable[..., World], logged_failures: LoggedFailures
) -> None:
    """
    A hook runner must not raise, but a defect there must not leave requests waiting for ever.
    """
    world = make()
    start = world.hooks.start

    def broken(model: str, hook: HookKind) -> Any:
        if hook is WAKE:
            raise RuntimeError("broken runner")
        return start(model, hook)

    world.hooks.start = broken  # type: ignore[method-assign]  # that is the point
    client = world.ask("a")
    world.advance(2)
    assert isinstance(client.error, HookFailed)
    assert len(logged_failures.flush(RuntimeError)) == 1


def test_who_listens_to_the_history_and_raises_holds_up_no_switch(
    logged_failures: LoggedFailures,
) -> None:
    world = World()
    told: list[object] = []

    def broken(news: object) -> None:
        raise RuntimeError("a defect")

    world.switcher.chronicle.listeners += [broken, told.append]
    world.wake("a").finish()
    assert told and len(logged_failures.flush(RuntimeError)) == len(told)
    world.nothing_left()


def test_the_history_hears_of_a_defect_in_a_switch(
    monkeypatch: pytest.MonkeyPatch, logged_failures: LoggedFailures
) -> None:
    """
    A switch that a defect has ended is over, as failed, and its model is cleaned up, which
    whoever reads the history can see.
    """
    world = World()
    told: list[Phase] = []
    world.switcher.chronicle.listeners.append(
        lambda news: told.append(news.phase) if isinstance(news, Model) else None
    )

    async def broken(sequence: HookSequence, model: str, settings: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(HookSequence, "wake", broken)
    client = world.ask("a")
    assert len(logged_failures.flush(RuntimeError)) == 1
    assert told[:2] == [Phase.WAKING, Phase.UNCERTAIN]
    chronicle = world.switcher.chronicle
    phases = [phase for _, phase, _ in chronicle.steps("a")]
    assert phases[-2:] == [Phase.WAKING, Phase.UNCERTAIN]
    assert [record.result for record in chronicle.switches] == ["failed"]
    monkeypatch.undo()
    world.advance(30)
    assert told[2:] == [Phase.ASLEEP, Phase.WAKING, Phase.AWAKE]
    client.finish()
    world.nothing_left()
