"""
These tests check the table "When something fails", row by row, with models on two resources:
what a fault on one resource does there, and that it does nothing on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmux.errors import HookFailed, NotReady, SwitchTimeout
from llmux.interfaces import LeftReason, Needs, Phase
from llmux.policy.fifo import FifoPolicy
from tests.invariants import check_invariants
from tests.world import ALIVE, SLEEP, WAKE, World

PLACES: dict[str, Sequence[Needs]] = {
    "left": [{"gpu0": 1}],
    "right": [{"gpu1": 1}],
    "both": [{"gpu0": 1, "gpu1": 1}],
    "rival": [{"gpu0": 1}],
}


class House(World):
    """
    This world has two resources; left and rival need the one, right the other, both needs both.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            FifoPolicy,
            models=sorted(PLACES),
            resources={"gpu0": 1, "gpu1": 1},
            places=PLACES,
            **settings,
        )

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        check_invariants(self.switcher)

    def free(self) -> tuple[Any, Any]:
        return self.switcher.capacity.free("gpu0"), self.switcher.capacity.free("gpu1")


def both_awake(**settings: Any) -> House:
    """Make a world in which left and right are awake, and idle."""
    world = House(**settings)
    world.wake("left").finish()
    world.wake("right").finish()
    return world


# ----------------------------------------------------------------- a sleep hook fails


def test_a_sleep_hook_fails_and_alive_says_no_so_the_switch_goes_on() -> None:
    world = both_awake()
    world.hooks.once("left", SLEEP, 1.0, 1)
    world.hooks.once("left", ALIVE, 0.0, 1)
    client = world.ask("both")
    world.advance(3)
    assert client.served


def test_a_sleep_hook_fails_and_alive_says_yes_so_that_model_serves_on() -> None:
    world = both_awake()
    world.hooks.once("left", SLEEP, 3.0, 1)
    client, late = world.ask("both"), world.ask("left")
    world.advance(4)
    assert isinstance(client.error, HookFailed)
    assert "left does not go to sleep (sleep hook: exit status 1)" in str(client.error)
    assert late.served and world.phase("right") is Phase.ASLEEP
    assert world.free() == (0, 1)
    world.wake("right").finish()
    late.finish()
    again = world.ask("rival")
    world.advance(0.5)
    assert again.waits, "left has a back-off as long as the try took"
    world.advance(5)
    assert again.served


def test_a_sleep_hook_fails_and_alive_knows_nothing_so_arrivals_wait() -> None:
    world = both_awake()
    world.hooks.once("left", SLEEP, 1.0, 1)
    world.hooks.script("left", ALIVE, 0.0, 75)
    client = world.ask("both")
    world.advance(2)
    assert isinstance(client.error, HookFailed)
    assert world.phase("left") is Phase.CHECKING
    late, other = world.ask("left"), world.ask("right")
    world.advance(2)
    assert late.waits and other.served, "the other resource is not held up"
    world.hooks.script("left", ALIVE, 0.0, 0)
    world.advance(5)
    assert late.served


# ------------------------------------------------------------------ a wake hook fails


def test_a_wake_hook_fails_and_the_model_holds_its_room_until_it_is_cleaned_up() -> None:
    world = House()
    world.hooks.once("both", WAKE, 1.0, 1)
    world.hooks.once("both", SLEEP, 5.0)
    client = world.ask("both")
    world.advance(1)
    assert isinstance(client.error, HookFailed)
    assert world.phase("both") is Phase.UNCERTAIN and world.free() == (0, 0)
    left, right = world.ask("left"), world.ask("right")
    world.advance(4)
    assert left.waits and right.waits
    world.advance(2.1)
    assert left.served and right.served


def test_a_wake_that_takes_too_long_holds_up_nobody_on_the_other_resource() -> None:
    world = House(wake_limit=10.0)
    world.hooks.script("left", ALIVE, 0.0, 1)
    world.hooks.script("left", SLEEP, 1.0, 1)
    client = world.ask("left")
    world.advance(1)
    world.wake("right").finish()
    world.advance(10)
    assert isinstance(client.error, HookFailed)
    assert world.phase("left") is Phase.UNCERTAIN
    waits = world.ask("rival")
    assert world.ask("right").served and waits.waits
    world.hooks.script("left", SLEEP, 1.0)
    world.advance(70)
    assert waits.served


def test_the_back_off_of_a_model_is_its_own() -> None:
    world = House()
    world.hooks.once("left", WAKE, 1.0, 1)
    world.ask("left")
    world.advance(2)
    again, rival = world.ask("left"), world.ask("rival")
    world.advance(1)
    assert again.waits and rival.served
    rival.finish()
    world.advance(10)
    assert again.served


# ------------------------------------------------------------------ waiters that leave


def test_all_waiters_of_a_target_leave_and_its_victims_serve_on() -> None:
    world = House()
    flying = world.wake("left"), world.wake("right")
    client = world.ask("both")
    late = world.ask("left"), world.ask("right")
    client.leave()
    assert all(each.served for each in late) and world.switcher.switches() == []
    assert world.ran(SLEEP) == []
    for each in (*flying, *late):
        each.finish()
    assert world.free() == (0, 0)


def test_somebody_else_wants_a_part_of_the_room_and_the_other_victim_is_spared() -> None:
    world = House()
    flying, _ = world.wake("left"), world.wake("right")
    client = world.ask("both")
    rival = world.ask("rival")
    late = world.ask("right")
    assert late.waits
    client.leave()
    assert late.served and world.phase("left") is Phase.DRAINING
    flying.finish()
    world.advance(2)
    assert rival.served


def test_a_wake_that_nobody_waits_for_ends_only_if_others_wait_for_its_room() -> None:
    world = House(abandon_wake=5.0)
    world.hooks.script("left", WAKE, 60.0)
    world.ask("left").leave()
    world.wake("right").finish()
    world.advance(20)
    assert world.phase("left") is Phase.WAKING
    rival = world.ask("rival")
    world.advance(8)
    assert rival.served


def test_a_request_waits_too_long_and_the_switch_goes_on() -> None:
    world = House(request_timeout=5.0)
    flying, other = world.wake("left"), world.wake("right")
    client = world.ask("both")
    world.advance(6)
    assert isinstance(client.error, SwitchTimeout)
    assert world.phase("left") is Phase.DRAINING
    flying.finish()
    other.finish()
    world.advance(2)
    assert world.phase("both") is Phase.AWAKE


# ------------------------------------------------------------------------------ drains


def test_a_drain_takes_too_long_and_what_all_victims_have_in_flight_is_aborted() -> None:
    world = House(drain_timeout=4.0)
    flying = world.wake("left"), world.wake("right")
    client = world.ask("both")
    world.advance(3.9)
    assert [each.aborted for each in flying] == [[], []]
    world.advance(0.2)
    assert [each.aborted for each in flying] == [
        ["model left was drained for 4 s"],
        ["model right was drained for 4 s"],
    ]
    world.advance(2)
    assert client.served


def test_the_limit_of_a_drain_is_forgotten_where_a_victim_is_spared() -> None:
    world = House(drain_timeout=4.0)
    flying = world.wake("left"), world.wake("right")
    client = world.ask("both")
    client.leave()
    world.advance(10)
    assert [each.aborted for each in flying] == [[], []]


# ---------------------------------------------------------------------- backends that die


def test_a_backend_dies_and_the_other_model_serves_on() -> None:
    world = both_awake()
    client, other = world.ask("left"), world.ask("right")
    arrived = world.clock.seconds()
    world.hooks.awake.discard("left")
    answers = client.report_dead()
    world.settle()
    assert answers == [True] and not other.aborted
    again = client.retry(arrived)
    world.advance(4)
    assert again.served and other.guard is not None and not other.guard.released


def test_a_victim_dies_while_another_drains() -> None:
    world = House()
    first, second = world.wake("left"), world.wake("right")
    client = world.ask("both")
    world.hooks.awake.discard("left")
    assert first.report_dead() == [True]
    world.advance(1)
    assert client.waits and world.phase("right") is Phase.DRAINING
    second.finish()
    world.advance(2)
    assert client.served


# --------------------------------------------------------------------- stop and restart


def test_stop_calls_drains_off_and_kills_wakes_on_all_resources() -> None:
    world = House()
    flying = world.wake("left")
    world.hooks.script("right", WAKE, 50.0)
    waits = world.ask("rival"), world.ask("right")
    assert {s.phase for s in world.switcher.switches()} == {Phase.DRAINING, Phase.WAKING}
    done = world.stop()
    assert all(isinstance(each.error, NotReady) for each in waits)
    world.advance(2)
    assert world.phase("left") is Phase.AWAKE and world.phase("right") is Phase.ASLEEP
    flying.finish()
    assert done == [None]
    world.nothing_left()


def test_all_awake_models_are_put_to_sleep_on_exit_side_by_side() -> None:
    world = both_awake(sleep_on_exit=True)
    done = world.stop()
    assert sorted(world.ran(SLEEP)) == ["left sleep", "right sleep"]
    world.advance(1)
    assert done == [None] and world.free() == (1, 1)


def test_a_wake_that_llmux_did_not_survive_holds_up_its_own_resource_only() -> None:
    world = House(interrupted=["left"], start=False)
    world.hooks.script("left", SLEEP, 5.0)
    rival, right = world.ask("rival"), world.ask("right")
    world.advance(2)
    assert right.served and rival.waits
    world.advance(5)
    assert rival.served


def test_each_waiter_gets_one_answer() -> None:
    world = both_awake()
    world.hooks.once("right", SLEEP, 1.0, 1)
    clients = [world.ask("both") for _ in range(5)]
    world.advance(3)
    assert all(isinstance(client.error, HookFailed) for client in clients)
    left = [event for event in world.events if type(event).__name__ == "Left"]
    assert [event.reason for event in left] == [LeftReason.FAILED] * 5  # type: ignore[union-attr]  # they are


def test_a_pause_tries_a_sleep_hook_that_failed_again_after_its_back_off() -> None:
    world = both_awake()
    world.hooks.script("left", SLEEP, 0.1, 1)
    world.switcher.steering.pause_switching(None, True, False, "test").addErrback(
        lambda _: None
    )
    world.advance(10)
    assert world.phase("right") is Phase.ASLEEP
    assert world.ran(SLEEP).count("left sleep") == 3, "at once, after 2 s and after 4 more"
    world.hooks.script("left", SLEEP, 0.1)
    world.advance(10)
    assert world.phase("left") is Phase.ASLEEP


def test_a_pin_tries_a_sleep_hook_that_failed_again_after_its_back_off() -> None:
    world = both_awake()
    world.hooks.script("left", SLEEP, 0.1, 1)
    world.switcher.steering.pin("rival", None, False, "test").addErrback(lambda _: None)
    world.advance(10)
    assert world.ran(SLEEP).count("left sleep") == 3, "at once, after 2 s and after 4 more"
    world.hooks.script("left", SLEEP, 0.1)
    world.advance(10)
    assert world.phase("rival") is Phase.AWAKE
