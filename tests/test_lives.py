"""
These tests play stories of models that do not end well, which the soak under random faults and
real engines have shown, and hold them to the table of faults in the README.
"""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llmux.errors import HookFailed
from llmux.interfaces import (
    Decision,
    Forwarded,
    ISwitchPolicy,
    IWakeNotes,
    PolicyEvent,
    Reopen,
    Stay,
)
from llmux.policy.fifo import FifoPolicy
from llmux.switching.decisions.containment import ContainedPolicy
from llmux.switching.facts.phases import Phase
from tests.conftest import LoggedFailures
from tests.world import ALIVE, SLEEP, WAKE, Client, Notes, World, eager_cost_aware


@pytest.fixture
def logged() -> Any:
    """Collect every event that is logged with a name, by its name."""
    events: list[LogEvent] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


def named(events: list[LogEvent], name: str) -> list[LogEvent]:
    return [event for event in events if event.get("event") == name]


# ------------------------------------------------------------ order of the queue


def test_a_retry_takes_its_place_by_when_it_first_arrived() -> None:
    world = World()
    now = world.clock.seconds()
    model = world.switcher.models["a"]
    clients = [
        Client(world, "a", world.switcher.acquire("a", arrived=now - age, retry=True))
        for age in (15.0, 0.0, 10.0)
    ]
    assert [now - waiter.arrived for waiter in model.waiters()] == [15.0, 10.0, 0.0]
    clients[0].leave()
    assert model.oldest() == now - 10.0
    assert model.sum_of_ages(now) == pytest.approx(10.0)
    clients[2].leave()
    assert model.oldest() == now


# ------------------------------------------------- a model that is gone (2.)


def test_an_awake_model_that_says_no_twice_is_dead_and_woken_for_who_waits() -> None:
    world = World(own={"check": 60.0})
    world.wake("a").finish()
    busy = world.ask("a")
    world.hooks.awake.discard("a")
    asked = len(world.ran(ALIVE))
    world.advance(54)
    assert len(world.ran(ALIVE)) == asked
    world.advance(3)
    assert len(world.ran(ALIVE)) >= asked + 2 and len(busy.aborted) == 1
    assert world.ran(SLEEP) == ["a sleep"]
    again = world.ask("a")
    world.advance(5)
    assert again.served


def test_one_no_between_two_yeses_is_no_death() -> None:
    world = World(own={"check": 60.0})
    busy = world.wake("a")
    world.hooks.once("a", ALIVE, 0.0, 1)
    world.advance(200)
    assert busy.aborted == [] and world.phase("a") is Phase.AWAKE
    assert world.ask("a").served, "the door was open all along"


def test_alive_that_gives_no_answer_is_no_reason_to_doubt() -> None:
    world = World(own={"check": 60.0})
    busy = world.wake("a")
    world.hooks.script("a", ALIVE, 0.0, 75)
    world.advance(1000)
    assert busy.aborted == [] and world.phase("a") is Phase.AWAKE


def test_a_backend_in_doubt_is_asked_about_at_most_once_in_five_seconds() -> None:
    world = World()
    busy = world.wake("a")
    asked = len(world.ran(ALIVE))
    for _ in range(100):
        world.switcher.backend_in_doubt("a")
        world.advance(0.1)
    assert 2 <= len(world.ran(ALIVE)) - asked <= 3
    world.hooks.awake.discard("a")
    world.switcher.backend_in_doubt("a")
    world.advance(8)
    assert len(busy.aborted) == 1


def test_nobody_is_asked_about_a_model_that_a_story_moves() -> None:
    world = World(own={"check": 5.0})
    world.wake("a").finish()
    world.hooks.script("a", SLEEP, 100.0)
    other = world.ask("b")
    world.advance(1)
    asked = len(world.ran(ALIVE))
    world.switcher.backend_in_doubt("a")
    world.advance(50)
    assert len(world.ran(ALIVE)) == asked and other.waits


# ------------------------------------------------------- sleep in name only


def test_a_sleep_that_must_be_confirmed_holds_up_the_wake() -> None:
    world = World(own={"confirm_sleep": True, "sleep_timeout": 30.0})
    world.wake("a").finish()
    for _ in range(4):
        world.hooks.once("a", ALIVE, 0.0, 0)
    world.hooks.once("a", ALIVE, 0.0, 75)
    client = world.ask("b")
    world.advance(1.3)
    assert "b wake" not in world.ran()
    world.advance(5)
    assert client.served
    before = world.ran()[: world.ran().index("b wake")]
    assert before[-6:] == ["a alive"] * 6


def test_a_sleep_that_is_never_confirmed_is_a_failed_one() -> None:
    world = World(own={"confirm_sleep": True, "sleep_timeout": 30.0})
    world.wake("a").finish()
    world.hooks.script("a", ALIVE, 0.0, 0)
    client = world.ask("b")
    world.advance(33)
    assert isinstance(client.error, HookFailed)
    assert "does not say no" in str(client.error)
    assert world.phase("a") is Phase.AWAKE and "b wake" not in world.ran()


def test_a_yes_after_a_successful_sleep_is_logged_and_counted(logged: list[LogEvent]) -> None:
    world = World(look_after_sleep=2.0)
    world.wake("a").finish()
    world.hooks.script("a", ALIVE, 0.0, 0)
    for _ in range(3):
        world.wake("b").finish()
        world.advance(2)
        world.wake("a").finish()
        world.advance(2)
    world.wake("b")
    world.advance(2)
    assert [event["model"] for event in named(logged, "sleep_not_confirmed")] == ["a"], "once"
    text = world.switcher.metrics.expose().decode()
    assert 'llmux_sleep_not_confirmed_total{model="a"} 4.0' in text


# --------------------------------------------------------- wakes that do not end


def test_a_wake_that_does_not_get_ready_says_so_ever_more_rarely(
    logged: list[LogEvent],
) -> None:
    world = World()
    world.hooks.script("a", ALIVE, 0.0, 7, stderr="loading\nstill loading\n")
    world.ask("a")
    world.advance(99)
    said = named(logged, "wake_not_ready")
    assert [round(event["secs"]) for event in said] == [10, 20, 40, 80]
    assert "exit status 7" in said[0]["last"] and "(still loading)" in said[0]["last"]


def test_a_wake_hook_that_does_not_come_back_is_mentioned_too(logged: list[LogEvent]) -> None:
    world = World()
    world.hooks.script("a", WAKE, 50.0)
    world.ask("a")
    world.advance(15)
    assert "wake hook still runs" in named(logged, "wake_not_ready")[0]["last"]


def test_a_wake_is_called_off_that_nobody_waits_for_while_others_wait() -> None:
    world = World(abandon_wake=30.0)
    world.hooks.script("a", WAKE, 3600.0)
    first = world.ask("a")
    world.advance(100)
    other = world.ask("b")
    world.advance(100)
    assert other.waits, "somebody waits for a"
    first.leave()
    world.advance(29)
    assert world.phase("a") is Phase.WAKING
    world.advance(2)
    assert "a sleep" in world.ran(), "the wake was killed and is cleaned up after"
    world.advance(3)
    assert other.served


def test_a_wake_goes_on_while_nobody_wants_its_room() -> None:
    world = World(abandon_wake=30.0)
    world.hooks.script("a", WAKE, 500.0)
    world.ask("a").leave()
    world.advance(400)
    assert world.phase("a") is Phase.WAKING
    other = world.ask("b")
    world.advance(20)
    again = world.ask("a")
    world.advance(50)
    assert world.phase("a") is Phase.WAKING and other.waits, "a is wanted again"
    world.advance(100)
    assert again.served


def test_a_failing_wakes_back_off_is_as_long_as_the_try_clean_up_included() -> None:
    world = World(policy=eager_cost_aware)
    world.hooks.script("a", WAKE, 10.0, 1)
    world.hooks.script("a", SLEEP, 5.0)
    begins = []
    client = world.ask("a")
    for _ in range(1500):
        if ("a", WAKE) in world.hooks.started:
            begins.append(world.clock.seconds())
            world.hooks.started.clear()
        if not client.waits:
            client = world.ask("a")
        world.advance(0.1)
    gaps = [b - a for a, b in itertools.pairwise(begins)]
    assert all(gap >= 30 - 0.5 for gap in gaps), gaps


# ------------------------------------------------------------ a sleep that failed


def test_the_log_says_who_waits_for_a_failed_sleep_and_until_when(
    logged: list[LogEvent],
) -> None:
    world = World()
    world.wake("a").finish()
    world.hooks.once("a", SLEEP, 20.0, 1)
    world.ask("b")
    world.advance(21)
    for _ in range(3):
        world.ask("c")
    (said,) = named(logged, "sleep_held_back")
    assert said["model"] == "a" and said["waiting"] == "c"
    assert 15 < said["retry_secs"] <= 20


# ------------------------------------------------------------ a former llmux


def test_an_interrupted_wake_is_cleaned_up_before_anything_is_woken() -> None:
    """kill -9 during a wake leaves a model that says no, and may be loading."""
    world = World(interrupted="a", start=False)
    client = world.ask("b")
    world.advance(0.5)
    assert world.phase("a") is Phase.UNCERTAIN and "b wake" not in world.ran()
    world.advance(3)
    assert client.served
    assert world.ran(SLEEP, WAKE) == ["a sleep", "b wake"]


def test_a_clean_up_after_an_interrupted_wake_is_not_saved_by_alives_no() -> None:
    world = World(interrupted="a", start=False, wake_limit=50.0)
    world.hooks.script("a", SLEEP, 0.0, 1)
    client = world.ask("b")
    world.advance(40)
    assert client.waits
    world.advance(40)
    assert client.served, "the wake's time limit is over"


def test_an_interrupted_wake_that_has_succeeded_meanwhile_is_adopted() -> None:
    world = World(interrupted="a", awake="a")
    assert world.ask("a").served
    assert world.ran(SLEEP) == []
    verifyObject(IWakeNotes, Notes(frozenset("a")))


# ---------------------------------------------------------------- without drain


def test_no_guard_is_given_for_a_model_that_the_same_request_has_put_to_sleep() -> None:
    """An arrival may begin a switch, and must not go to the model that sleeps then."""

    class Fickle(FifoPolicy):
        stays = False

        def decide(self, view: Any) -> Decision:
            return Stay() if self.stays else super().decide(view)

    policy = Fickle()
    world = World(lambda: policy, drain_before_switch=False)
    world.wake("a").finish()
    policy.stays = True
    other = world.ask("b")
    policy.stays = False
    late = world.ask("a")
    assert late.waits, "the sleep hook of a runs"
    world.advance(1.5)
    assert not [e for e in world.events if isinstance(e, Forwarded) and e.request == 3]
    world.advance(3)
    assert other.served


def test_stop_waits_for_what_is_in_flight_to_a_model_that_could_not_be_cleaned_up() -> None:
    """Exchanges outlive a sleep hook if llmux does not drain: its end waits for them."""
    world = World(drain_before_switch=False)
    flying = world.wake("a")
    world.hooks.script("a", SLEEP, 1.0, 1)
    world.hooks.script("a", ALIVE, 0.0, 75)
    world.ask("b")
    world.advance(1.5)
    done = world.stop()
    world.advance(5)
    assert done == []
    flying.finish()
    world.advance(1)
    assert done == [None]
    world.nothing_left()


def test_a_request_that_follows_an_answer_of_502_finds_a_settled_switcher() -> None:
    """
    The client of a failed request may begin a switch with its next request: exactly one begins.
    """
    world = World()
    client = world.wake("a")
    world.hooks.once("a", ALIVE, 0.5, 0)
    doubt = world.switcher.backend_failed(client.guard)  # type: ignore[arg-type]  # it has one
    pipelined: list[Client] = []
    doubt.addCallback(lambda _: pipelined.append(world.ask("b")))
    world.advance(0.5)
    assert [switch.target for switch in world.switcher.switches()] == ["b"]
    world.advance(3)
    assert pipelined[0].served
    assert world.switches() == ["+a", "-a", "+b"]


# ---------------------------------------------------------------- broken plugins


@implementer(ISwitchPolicy)
class Broken(FifoPolicy):
    """This policy raises whatever it is asked."""

    observed = frozenset({Forwarded})

    def observe(self, event: PolicyEvent) -> None:
        raise ZeroDivisionError

    def decide(self, view: Any) -> Decision:
        raise ZeroDivisionError

    def admit(self, view: Any, request: Any) -> bool:
        raise ZeroDivisionError

    def estimates(self) -> Any:
        raise ZeroDivisionError


def test_a_policy_that_raises_hurts_nobody(logged_failures: LoggedFailures) -> None:
    world = World(Broken)
    first = world.wake("a")
    other, late = world.ask("b"), world.ask("a")
    assert late.waits
    first.finish()
    world.advance(3)
    assert other.served
    other.finish()
    world.advance(3)
    assert late.served, "as FIFO would"
    assert list(world.switcher.readings.estimates()) == []
    text = world.switcher.metrics.expose().decode()
    assert 'llmux_policy_failures_total{question="decide"}' in text
    asked = len(logged_failures.flush(ZeroDivisionError))
    assert 3 <= asked <= 5, "once a minute for each kind of question"
    verifyObject(ISwitchPolicy, ContainedPolicy(Broken(), world.clock, world.switcher.metrics))


def test_an_observer_that_raises_hurts_nobody(logged_failures: LoggedFailures) -> None:
    world = World()
    seen: list[PolicyEvent] = []

    def broken(event: PolicyEvent) -> None:
        raise ZeroDivisionError

    world.switcher.add_observer(broken)
    world.switcher.add_observer(seen.append)
    world.wake("a").finish()
    world.wake("b").finish()
    assert any(isinstance(event, Forwarded) and event.model == "b" for event in seen)
    assert len(logged_failures.flush(ZeroDivisionError)) == 1


def test_a_policy_that_changes_its_mind_for_ever_does_not_hold_up_the_reactor() -> None:
    class Mad(FifoPolicy):
        def decide(self, view: Any) -> Decision:
            for switch in view.switches:
                if switch.phase is Phase.DRAINING:
                    return Reopen(switch.number)
            return super().decide(view)

    world = World(Mad)
    world.wake("a").finish()
    client = world.ask("b")
    assert client.waits
    assert world.ask("a").served or world.phase("a") is Phase.DRAINING
    text = world.switcher.metrics.expose().decode()
    assert 'llmux_policy_failures_total{question="circles"}' in text
    done = world.stop()
    for guard in world.clients_in_flight():
        guard.release()
    world.advance(40)
    assert done == [None]
