"""These tests check what commands do to models in every phase, and what lasts."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from llmux.control import IControl
from llmux.errors import NotReady
from llmux.interfaces import Phase
from tests.world import ALIVE, SLEEP, WAKE, World, eager_cost_aware

from .operators import TWO_SLOTS, Operator


def test_the_steering_is_a_control() -> None:
    assert verifyObject(IControl, World().switcher.steering)


# ------------------------------------------------------------------------ switch, wake


def test_a_switch_now_waits_for_what_is_in_flight_and_for_nothing_else() -> None:
    world = World(eager_cost_aware, min_active=1000.0)
    client = world.wake("a")
    command = Operator(world).switch("b")
    world.advance(10)
    assert command.waits and world.phase("a") is Phase.DRAINING
    client.finish()
    world.advance(3)
    assert command.done and world.phase("b") is Phase.AWAKE


def test_a_switch_now_with_abort_cuts_what_is_in_flight() -> None:
    world = World()
    client = world.wake("a")
    command = Operator(world).switch("b", abort=True)
    world.advance(3)
    assert client.aborted and command.done and world.phase("b") is Phase.AWAKE


def test_a_switch_to_the_model_that_is_awake_is_done_at_once() -> None:
    world = World()
    world.wake("a").finish()
    assert Operator(world).switch("a").done
    assert world.ran(WAKE) == ["a wake"]


def test_a_switch_during_the_wake_of_another_begins_when_that_ends() -> None:
    world = World()
    client = world.ask("a")
    world.advance(0.5)
    command = Operator(world).switch("b")
    world.advance(0.6)
    assert client.served and command.waits
    client.finish()
    world.advance(3)
    assert command.done and world.switches() == ["+a", "-a", "+b"]


def test_a_switch_to_a_victim_reopens_the_switch_that_drains_it() -> None:
    world = World()
    world.wake("a")
    other = world.ask("b")
    world.settle()
    assert world.phase("a") is Phase.DRAINING
    command = Operator(world).switch("a")
    world.settle()
    assert command.done and other.waits


def test_a_commanded_switch_has_no_reason_of_an_earlier_decision() -> None:
    world = World()
    world.wake("a").finish()
    Operator(world).switch("b")
    world.advance(3)
    codes = [each.reason and each.reason.code for each in world.switcher.chronicle.switches]
    assert codes == ["oldest", None]


def test_a_switch_that_a_command_takes_elsewhere_loses_its_reason() -> None:
    world = World()
    client = world.wake("a")
    world.ask("b")
    (record,) = world.switcher.chronicle.under_way
    assert record.target == "b" and record.reason is not None
    Operator(world).switch("c")
    assert record.target == "c" and record.reason is None
    client.finish()


def test_no_policy_takes_a_commanded_switch_elsewhere() -> None:
    world = World()
    client = world.wake("a")
    command = Operator(world).switch("b")
    older = world.ask("c")
    world.advance(1)
    client.finish()
    world.advance(2.5)
    assert command.done
    world.advance(10)
    assert older.served


def test_the_last_of_two_switches_wins() -> None:
    world = World()
    client = world.wake("a")
    first = Operator(world).switch("b")
    second = Operator(world).switch("c")
    assert first.code == "superseded"
    client.finish()
    world.advance(5)
    assert second.done and world.phase("c") is Phase.AWAKE
    assert "b wake" not in world.ran(WAKE)


def test_two_switches_that_fit_together_are_both_done() -> None:
    world = World(**TWO_SLOTS)
    first, second = Operator(world).switch("a"), Operator(world).switch("b")
    world.advance(3)
    assert first.done and second.done


def test_a_commanded_switch_whose_wake_fails_says_so() -> None:
    world = World()
    world.hooks.script("a", WAKE, 1.0, exit_code=3)
    command = Operator(world).switch("a")
    world.advance(3)
    assert command.error is not None
    assert command.error.status == 500 and "exit status 3" in str(command.error)


def test_a_wake_gets_its_turn_as_the_policy_sees_fit() -> None:
    world = World()
    client = world.wake("a")
    assert Operator(world).wake("b").done
    world.advance(3)
    assert world.phase("a") is Phase.DRAINING
    client.finish()
    world.advance(3)
    assert world.phase("b") is Phase.AWAKE
    world.advance(100)
    assert world.clients_in_flight() == []


# ------------------------------------------------------------------------------ sleep


@pytest.mark.parametrize("names", [("a",), ()])
def test_a_model_is_put_to_sleep_when_it_has_drained(names: tuple[str, ...]) -> None:
    world = World()
    client = world.wake("a")
    command = Operator(world).sleep(*names)
    world.advance(5)
    assert command.waits and world.phase("a") is Phase.DRAINING
    client.finish()
    world.advance(1.5)
    assert command.done and world.phase("a") is Phase.ASLEEP
    world.nothing_left()


def test_a_request_that_comes_while_the_model_goes_to_sleep_wakes_the_model_again() -> None:
    world = World()
    world.wake("a").finish()
    command = Operator(world).sleep("a")
    late = world.ask("a")
    world.advance(5)
    assert command.done and late.served
    assert world.switches() == ["+a", "-a", "+a"]


def test_sleep_with_abort_cuts_what_is_in_flight() -> None:
    world = World()
    client = world.wake("a")
    command = Operator(world).sleep("a", abort=True)
    world.advance(1.5)
    assert client.aborted and command.done


def test_a_model_that_requests_wait_for_sleeps_only_if_they_may_be_refused() -> None:
    world = World()
    waiting = world.ask("a")
    world.advance(0.5)
    operator = Operator(world)
    refused = operator.sleep("a")
    assert refused.code == "requests_wait" and "1 request waits for a" in str(refused.error)
    assert waiting.waits
    command = operator.sleep("a", abort=True)
    world.advance(5)
    assert isinstance(waiting.error, NotReady)
    assert command.done and world.phase("a") is Phase.ASLEEP
    world.nothing_left()


def test_the_waiter_of_a_command_does_not_keep_a_model_from_sleep() -> None:
    world = World()
    operator = Operator(world)
    operator.wake("a")
    world.advance(0.5)
    command = operator.sleep("a")
    world.advance(5)
    assert command.done and world.phase("a") is Phase.ASLEEP


def test_a_model_that_does_not_go_to_sleep_fails_the_command_and_serves_on() -> None:
    world = World()
    world.wake("a").finish()
    world.hooks.script("a", SLEEP, 1.0, exit_code=4)
    world.hooks.script("a", ALIVE, 0.0, exit_code=0)
    command = Operator(world).sleep("a")
    world.advance(1.5)
    assert command.error is not None and command.error.status == 500
    assert "exit status 4" in str(command.error)
    assert world.phase("a") is Phase.AWAKE


def test_force_makes_an_uncertain_model_count_as_asleep() -> None:
    world = World()
    world.hooks.script("a", WAKE, 1.0, exit_code=1)
    world.hooks.script("a", SLEEP, 1.0, exit_code=1)
    world.hooks.script("a", ALIVE, 0.0, exit_code=75)
    world.ask("a")
    other = world.ask("b")
    world.advance(20)
    assert world.phase("a") is Phase.UNCERTAIN and other.waits
    command = Operator(world).sleep("a", force=True)
    world.advance(3)
    assert command.done and other.served


def test_force_is_refused_for_a_model_that_is_not_uncertain() -> None:
    world = World()
    world.wake("a").finish()
    command = Operator(world).sleep("a", force=True)
    assert command.code == "not_uncertain" and world.phase("a") is Phase.AWAKE


# ------------------------------------------------------------------------------- the end


def test_who_waits_for_a_command_is_told_that_llmux_stops() -> None:
    world = World()
    client = world.wake("a")
    operator = Operator(world)
    switch, sleep = operator.switch("b"), operator.sleep("c")
    done = world.stop()
    client.finish()
    world.advance(5)
    assert switch.error is not None and switch.error.status == 503 and sleep.done
    assert done and operator.wake("a").code == "shutting_down"
    world.nothing_left()
