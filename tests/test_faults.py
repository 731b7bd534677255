"""
These tests check what can go wrong, row by row of the design's table, and what must happen
then.  Each row holds under every policy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from llmux.errors import HookFailed, SwitchTimeout
from llmux.interfaces import HookKind, Left, LeftReason
from llmux.switching.facts.phases import Phase
from tests.world import ALIVE, SLEEP, WAKE, Active, Idle, Switching, World, under_each_policy

make = under_each_policy


# ------------------------------------------------------- the sleep hook fails


def test_sleep_fails_but_alive_says_no(make: Callable[..., World]) -> None:
    world = make()
    world.wake("a").finish()
    world.hooks.once("a", SLEEP, 1.0, 1)
    world.hooks.once("a", ALIVE, 0.0, 1)
    client = world.ask("b")
    world.advance(2)
    assert client.served
    assert world.ran()[-4:] == ["a sleep", "a alive", "b wake", "b alive"]


def test_sleep_fails_and_alive_says_yes(make: Callable[..., World]) -> None:
    world = make()
    world.wake("a").finish()
    world.hooks.once("a", SLEEP, 20.0, 1)
    busy = world.ask("a")
    client = world.ask("b")
    busy.finish()
    world.advance(20)
    assert isinstance(client.error, HookFailed)
    assert "exit status 1" in str(client.error)
    assert client.error.retry_after == pytest.approx(20, abs=0.1)
    assert "b wake" not in world.ran(), "never two awake at once"
    assert world.state() == Active("a")
    assert world.ask("a").served, "the old model serves on"


@pytest.mark.parametrize("code", [75, 126, 127, None])
@pytest.mark.parametrize("sleeps", [True, False])
def test_sleep_fails_and_alive_gives_no_answer(
    make: Callable[..., World], code: int | None, sleeps: bool
) -> None:
    """No request is sent to a model of which nobody knows whether it sleeps."""
    world = make()
    world.wake("a").finish()
    world.hooks.once("a", SLEEP, 5.0, 1)
    for _ in range(3):
        world.hooks.once("a", ALIVE, 0.0, code)
    client = world.ask("b")
    world.advance(5)
    assert isinstance(client.error, HookFailed)
    assert world.phase("a") is Phase.CHECKING
    own, other = world.ask("a"), world.ask("b")
    world.advance(1)
    assert own.waits and other.waits, "arrivals wait, for either model"
    assert world.phase("a") is Phase.CHECKING
    if sleeps:
        world.hooks.awake.discard("a")
    world.advance(3)
    if sleeps:
        assert "a sleep" in world.ran()[-4:], "to be sure"
        world.advance(5)
        assert own.served or other.served
    else:
        assert own.served, "alive said yes in the end"


def test_the_back_off_of_a_failed_sleep_holds_for_all_models(
    make: Callable[..., World],
) -> None:
    """
    The back-off holds for all targets, lasts as long as the failed try took, and arrivals wait
    for its end.
    """
    world = make()
    world.wake("a").finish()
    world.hooks.once("a", SLEEP, 20.0, 1)
    world.ask("b")
    world.advance(21)
    sleeps = world.ran(SLEEP)
    late = world.ask("c")
    world.advance(18)
    assert late.waits and world.ran(SLEEP) == sleeps
    world.advance(4)
    assert late.served


# -------------------------------------------------------- the wake hook fails


@pytest.mark.parametrize(
    ("hook", "delay", "code", "words"),
    [
        (WAKE, 1.0, 3, "exit status 3"),
        (WAKE, 1.0, None, "killed by signal 9"),
        (ALIVE, 0.0, 1, "time limit of 100 s"),
        (ALIVE, None, 0, "time limit of 100 s"),
    ],
    ids=["exit status", "signal", "alive stays no", "alive hangs"],
)
def test_a_failed_wake_is_told_to_all_who_wait_and_cleaned_up(
    make: Callable[..., World],
    hook: HookKind,
    delay: float | None,
    code: int | None,
    words: str,
) -> None:
    world = make()
    world.hooks.limits = {ALIVE: 10.0}
    world.hooks.script("a", hook, delay, code, stderr="the secret of the hook")
    clients = [world.ask("a") for _ in range(3)]
    for _ in range(120):
        world.advance(1)
        if not clients[0].waits:
            break
    for client in clients:
        assert isinstance(client.error, HookFailed)
        assert words in str(client.error)
        assert "secret" not in str(client.error)
        took = 100.0 if "100 s" in words else 1.0
        assert client.error.retry_after is not None
        assert took <= client.error.retry_after <= took + 10, "as long as the failed try"
        assert client.error.retry_after >= 2.0
    assert world.ran()[-1] == "a sleep", "it is cleaned up"
    world.advance(1)
    assert world.state() == Idle()


def test_others_are_not_held_back_by_a_failed_wake(make: Callable[..., World]) -> None:
    world = make()
    world.hooks.script("a", WAKE, 1.0, 1)
    world.ask("a")
    world.advance(1)
    world.ask("a")
    other = world.ask("b")
    world.advance(2)
    assert other.served, "as soon as the clean-up is done"


def test_the_back_off_of_a_wake_doubles(make: Callable[..., World]) -> None:
    world = make()
    world.hooks.script("a", WAKE, 0.0, 1)
    world.hooks.script("a", SLEEP, 0.0)
    tries: list[float] = []
    client = world.ask("a")
    while len(tries) < 8:
        if ("a", WAKE) in world.hooks.started:
            tries.append(world.clock.seconds())
            world.hooks.started.clear()
        if not client.waits:
            client = world.ask("a")
        world.clock.advance(0.01)
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert gaps == pytest.approx([2, 4, 8, 16, 32, 60, 60], abs=0.2)


def test_clean_up_fails_after_a_failed_wake(make: Callable[..., World]) -> None:
    """No model is woken until the clean-up succeeds; it is tried again with back-off."""
    world = make()
    world.hooks.once("a", WAKE, 1.0, 1)
    for _ in range(3):
        world.hooks.once("a", SLEEP, 0.0, 1)
        world.hooks.once("a", ALIVE, 0.0, 0)
    client = world.ask("a")
    world.advance(1)
    assert isinstance(client.error, HookFailed)
    other = world.ask("b")
    times = []
    for _ in range(400):
        if ("a", SLEEP) in world.hooks.started:
            times.append(world.clock.seconds())
            world.hooks.started.clear()
        if other.served:
            break
        assert len(times) == 4 or "b wake" not in world.ran()
        world.advance(0.1)
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([2, 4, 8], abs=0.2)
    assert other.served


def test_a_clean_up_that_fails_is_not_saved_by_a_model_that_is_still_loading(
    make: Callable[..., World],
) -> None:
    """
    C{alive} has been saying no all along after a failed wake: that no counts only after another
    time limit, and nothing is woken before.
    """
    world = make(wake_limit=60.0)
    world.hooks.once("a", WAKE, 60.0, 1)
    for _ in range(2):
        world.hooks.once("a", SLEEP, 0.0, 1)
    world.hooks.script("a", ALIVE, 0.0, 1)
    world.ask("a")
    world.advance(60)
    other = world.ask("b")
    world.advance(3)
    assert world.phase("a") is Phase.UNCERTAIN
    assert other.waits and "b wake" not in world.ran()
    world.advance(10)
    assert other.served, "the third sleep hook succeeded"


def test_alives_no_ends_a_clean_up_when_the_wakes_time_limit_is_over(
    make: Callable[..., World],
) -> None:
    """A typo in a sleep script does not block llmux for ever."""
    world = make(wake_limit=60.0)
    world.hooks.once("a", WAKE, 1.0, 1)
    world.hooks.script("a", SLEEP, 0.0, 127)
    world.hooks.script("a", ALIVE, 0.0, 1)
    world.ask("a")
    other = world.ask("b")
    world.advance(58)
    assert other.waits and world.phase("a") is Phase.UNCERTAIN
    world.advance(64)
    assert other.served


# ---------------------------------------------------------- back-offs reset


def test_a_back_off_is_reset_by_a_completed_request_not_by_waking(
    make: Callable[..., World],
) -> None:
    world = make()

    def fail_once() -> float:
        world.hooks.once("a", WAKE, 0.0, 1)
        client = world.ask("a")
        world.advance(100)
        assert isinstance(client.error, HookFailed)
        assert client.error.retry_after is not None
        return round(client.error.retry_after)

    def sleep() -> None:
        world.ask("b")
        world.advance(100)
        for event in list(world.clients_in_flight()):
            event.release()
        world.advance(100)

    assert fail_once() == 2
    client = world.wake("a")
    client.leave()
    sleep()
    assert fail_once() == 4, "it had woken, but completed nothing"
    world.wake("a").finish()
    sleep()
    assert fail_once() == 2


def test_a_prompt_that_kills_its_backend_makes_no_loop(make: Callable[..., World]) -> None:
    world = make()
    client = world.ask("a")
    wakes = []
    for _ in range(5):
        while not client.served:
            world.advance(0.1)
        wakes.append(world.clock.seconds())
        world.hooks.awake.discard("a")
        answers = client.report_dead()
        world.settle()
        assert answers == [True]
        client = client.retry(world.clock.seconds())
    gaps = [b - a for a, b in itertools.pairwise(wakes)]
    assert all(later > earlier for earlier, later in itertools.pairwise(gaps))
    assert gaps[-1] > 16


# -------------------------------------------------------------- clients leave


def test_every_waiter_of_the_target_leaves_during_the_drain(
    make: Callable[..., World],
) -> None:
    world = make()
    first = world.wake("a")
    other = world.ask("b")
    other.leave()
    assert world.state() == Active("a"), "the switch is called off"
    assert world.ask("a").served
    first.finish()
    world.advance(10)
    assert world.ran(SLEEP) == []
    assert [e.reason for e in world.events if isinstance(e, Left)] == [LeftReason.DISCONNECTED]


def test_own_waiters_get_their_guards_when_a_switch_is_called_off() -> None:
    world = World()
    world.wake("a")
    other = world.ask("b")
    own = world.ask("a")
    assert own.waits
    other.leave()
    assert own.served


def test_another_model_is_wanted_when_the_target_is_not(make: Callable[..., World]) -> None:
    world = make()
    first = world.wake("a")
    target = world.ask("b")
    third = world.ask("c")
    assert world.state() == Switching("a", "b")
    target.leave()
    assert world.state() == Switching("a", "c")
    first.finish()
    world.advance(2)
    assert third.served
    assert "b wake" not in world.ran()


def test_waiters_that_leave_later_do_not_stop_the_switch(make: Callable[..., World]) -> None:
    world = make()
    world.wake("a").finish()
    client = world.ask("b")
    world.advance(0.5)
    assert world.ran()[-1] == "a sleep"
    client.leave()
    world.advance(2)
    assert world.state() == Active("b")
    world.nothing_left()


# ---------------------------------------------------------- waiting too long


def test_a_request_waits_too_long(make: Callable[..., World]) -> None:
    world = make(request_timeout=5.0)
    first = world.wake("a")
    slow = world.ask("b")
    world.advance(4)
    later = world.ask("b")
    assert slow.waits
    world.advance(1)
    assert isinstance(slow.error, SwitchTimeout)
    assert later.waits, "the switch goes on"
    first.finish()
    world.advance(2)
    assert later.served


def test_a_drain_that_outlasts_those_who_wait_for_it_goes_on(
    make: Callable[..., World],
) -> None:
    world = make(request_timeout=5.0)
    flying = world.wake("a")
    client = world.ask("b")
    world.advance(5)
    assert isinstance(client.error, SwitchTimeout)
    assert world.state() == Switching("a", "b")
    flying.finish()
    world.advance(2)
    assert world.state() == Active("b")
    assert world.ask("b").served


def test_a_switch_that_outlasts_those_who_wait_for_it_goes_on(
    make: Callable[..., World],
) -> None:
    world = make(request_timeout=5.0)
    world.hooks.script("b", WAKE, 6.0)
    world.wake("a").finish()
    client = world.ask("b")
    world.advance(5)
    assert isinstance(client.error, SwitchTimeout)
    world.advance(3)
    assert world.state() == Active("b")


def test_a_request_and_its_retry_have_one_deadline(make: Callable[..., World]) -> None:
    world = make(request_timeout=10.0)
    arrived = world.clock.seconds()
    client = world.ask("a")
    world.advance(6)
    world.hooks.awake.discard("a")
    world.hooks.script("a", WAKE, 50.0)
    client.report_dead()
    world.settle()
    retry = client.retry(arrived)
    world.advance(3.9)
    assert retry.waits
    world.advance(0.2)
    assert isinstance(retry.error, SwitchTimeout)


# ------------------------------------------------------ a drain is held up


def test_a_long_generation_holds_a_drain_for_ever_by_default(
    make: Callable[..., World],
) -> None:
    world = make()
    first = world.wake("a")
    other = world.ask("b")
    world.advance(100_000)
    assert other.waits and first.aborted == []


def test_a_drain_has_a_time_limit_if_one_is_set(make: Callable[..., World]) -> None:
    world = make(drain_timeout=30.0)
    first = world.wake("a")
    other = world.ask("b")
    world.advance(29)
    assert first.aborted == []
    world.advance(3.5)
    assert len(first.aborted) == 1 and "30 s" in first.aborted[0]
    assert other.served
    text = world.switcher.metrics.expose().decode()
    assert 'llmux_exchanges_aborted_total{model="a",reason="drain_timeout"} 1.0' in text


def test_a_drain_that_is_called_off_stops_its_clock(make: Callable[..., World]) -> None:
    world = make(drain_timeout=30.0)
    first = world.wake("a")
    world.ask("b").leave()
    world.advance(100)
    assert first.aborted == []
