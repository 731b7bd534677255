"""
These tests check what happens when a backend refuses a request or has died.  Each row of the
design's table holds under every policy.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmux.interfaces import Failed
from llmux.switching.facts.phases import Phase
from tests.world import ALIVE, Active, World, under_each_policy

make = under_each_policy


# ------------------------------------------------------ the backend is dead


def test_a_backend_refuses_but_is_alive(make: Callable[..., World]) -> None:
    world = make()
    client, bystander = world.wake("a"), world.ask("a")
    world.hooks.once("a", ALIVE, 0.5, 0)
    answers = client.report_dead()
    late = world.ask("a")
    assert late.waits, "arrivals wait for the answer"
    world.advance(0.5)
    assert answers == [False]
    assert late.served and bystander.aborted == []
    assert world.state() == Active("a")


def test_a_backend_refuses_and_is_dead(make: Callable[..., World]) -> None:
    world = make()
    client, bystander = world.wake("a"), world.ask("a")
    world.hooks.once("a", ALIVE, 0.5, 1)
    world.hooks.awake.discard("a")
    before = len(world.hooks.started)
    answers = client.report_dead()
    world.advance(0.5)
    assert answers == [True]
    assert len(bystander.aborted) == 1
    again = client.retry(world.clock.seconds())
    world.advance(10)
    assert again.served
    assert world.ran()[before:] == ["a alive", "a sleep", "a wake", "a alive"]


@pytest.mark.parametrize("code", [75, 126, 127, None])
@pytest.mark.parametrize("lives", [True, False])
def test_a_backend_refuses_and_alive_gives_no_answer(
    make: Callable[..., World], code: int | None, lives: bool
) -> None:
    """A missing answer does not mean death: alive is asked again until it says something."""
    world = make()
    client, bystander = world.wake("a"), world.ask("a")
    for _ in range(3):
        world.hooks.once("a", ALIVE, 0.0, code)
    if not lives:
        world.hooks.awake.discard("a")
    asked = len(world.ran(ALIVE))
    answers = client.report_dead()
    late = world.ask("a")
    world.advance(3.4)
    assert world.phase("a") is Phase.CHECKING
    assert answers == [] and late.waits and bystander.aborted == []
    world.advance(0.2)
    assert len(world.ran(ALIVE)) == asked + 4, "after 0.5, 1 and 2 s"
    assert answers == [not lives]
    world.advance(5)
    assert late.served
    assert len(bystander.aborted) == (0 if lives else 1)


def test_a_backend_whose_alive_never_answers_is_cleaned_up_in_the_end(
    make: Callable[..., World],
) -> None:
    world = make(wake_limit=30.0)
    client = world.wake("a")
    world.hooks.script("a", ALIVE, 0.0, 75)
    answers = client.report_dead()
    world.advance(29)
    assert answers == []
    world.advance(2)
    assert answers == [True]
    assert world.ran()[-1] == "a sleep"


def test_many_refused_requests_share_one_alive_check(make: Callable[..., World]) -> None:
    world = make()
    clients = [world.wake("a"), *(world.ask("a") for _ in range(9))]
    asked = len(world.ran(ALIVE))
    answers = [client.report_dead() for client in clients]
    world.settle()
    assert answers == [[False]] * 10
    assert len(world.ran(ALIVE)) == asked + 1


def test_a_backend_that_dies_after_good_service_is_woken_without_delay(
    make: Callable[..., World],
) -> None:
    world = make()
    world.wake("a").finish()
    client = world.ask("a")
    world.hooks.awake.discard("a")
    client.report_dead()
    world.settle()
    again = client.retry(world.clock.seconds())
    world.advance(2)
    assert again.served
    assert any(isinstance(e, Failed) and e.hook is None for e in world.events)


def test_bystanders_of_a_dead_backend_may_wait_again(make: Callable[..., World]) -> None:
    world = make()
    client, bystander = world.wake("a"), world.ask("a")
    guard = bystander.guard
    assert guard is not None
    may: list[bool] = []
    guard.on_abort = lambda _: may.append(guard.may_wait_again)
    world.hooks.awake.discard("a")
    client.report_dead()
    world.settle()
    assert may == [True]


def test_a_policy_chooses_after_a_backend_has_died(make: Callable[..., World]) -> None:
    world = make(min_active=1000.0)
    client = world.wake("a")
    other = world.ask("b")
    world.hooks.awake.discard("a")
    client.report_dead()
    world.advance(3)
    assert other.served, "a dead model has no right to its minimum"
