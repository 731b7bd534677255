"""
These tests check the switcher when all goes well: who is served when, and in what order hooks
run.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llmux.errors import ModelNotFound, NotReady
from llmux.interfaces import (
    Decision,
    HookKind,
    IScheduleView,
    ISwitchPolicy,
    Rebind,
    Reopen,
    Stay,
    Switch,
    Why,
)
from llmux.policy.fifo import FifoPolicy
from llmux.switching.facts.phases import Phase
from tests.world import ALIVE, SLEEP, WAKE, Active, Idle, Switching, World


def test_the_first_request_wakes_its_model() -> None:
    world = World()
    assert world.state() == Idle()
    client = world.ask("a")
    assert client.waits
    assert world.state() == Switching(None, "a")
    world.advance(1)
    assert client.served
    assert world.state() == Active("a")
    assert world.ran()[-2:] == ["a wake", "a alive"]


def test_an_awake_model_serves_at_once() -> None:
    world = World()
    world.wake("a")
    guard = world.switcher.acquire_now("a")
    assert guard is not None and guard.model == "a"
    assert world.ask("a").served
    assert world.switcher.acquire_now("b") is None


def test_an_unknown_model_is_refused_at_once() -> None:
    world = World()
    with pytest.raises(ModelNotFound, match="Model not found: x"):
        world.switcher.acquire_now("x")
    assert isinstance(world.ask("x").error, ModelNotFound)


def test_a_switch_drains_then_sleeps_then_wakes() -> None:
    world = World()
    first = world.wake("a")
    before = len(world.hooks.started)
    second = world.ask("b")
    assert world.state() == Switching("a", "b")
    world.advance(100)
    assert len(world.hooks.started) == before, "it drains for as long as that takes"
    first.finish()
    world.advance(1)
    assert second.waits
    world.advance(1)
    assert second.served
    assert world.ran()[before:] == ["a sleep", "b wake", "b alive"]


def test_alive_is_asked_until_it_says_yes() -> None:
    world = World()
    for _ in range(5):
        world.hooks.once("a", ALIVE, exit_code=1)
    client = world.ask("a")
    asked: list[float] = []
    seen = 0
    while client.waits:
        begun = world.hooks.started[seen:]
        seen += len(begun)
        asked += [world.clock.seconds()] * begun.count(("a", ALIVE))
        world.clock.advance(0.001)
    # The first time belongs to the start, when every model is asked.
    gaps = [b - a for a, b in itertools.pairwise(asked[1:])]
    assert gaps == pytest.approx([0.1, 0.15, 0.225, 0.3375], abs=0.01)


def test_a_drain_is_hard_under_fifo() -> None:
    world = World()
    first = world.wake("a")
    other = world.ask("b")
    late = world.ask("a")
    assert late.waits
    first.finish()
    world.advance(2)
    assert other.served and late.waits
    other.finish()
    world.advance(2)
    assert late.served
    assert world.switches() == ["+a", "-a", "+b", "-b", "+a"]


def test_without_draining_the_sleep_hook_runs_at_once() -> None:
    world = World(drain_before_switch=False)
    first = world.wake("a")
    second = world.ask("b")
    world.advance(2)
    assert second.served
    assert first.guard is not None and not first.guard.released
    # The request's backend has gone, so that the request may wait again.
    assert first.report_dead() == [True]


def test_fifo_means_the_oldest_waiter_next() -> None:
    world = World()
    world.wake("a").finish()
    held = world.ask("a")
    clients = [world.ask(model) for model in ("c", "b", "c", "b")]
    world.advance(1)
    held.finish()
    world.advance(2)
    assert [client.served for client in clients] == [True, False, True, False]
    for client in clients[::2]:
        client.finish()
    world.advance(2)
    assert all(client.served for client in clients)


def test_all_waiters_are_served_in_the_turn_in_which_the_model_woke() -> None:
    world = World()
    clients = [world.ask("a") for _ in range(50)]
    rival = world.ask("b")
    world.advance(1)
    assert all(client.served for client in clients)
    assert rival.waits
    for client in clients:
        client.finish()
    world.advance(2)
    assert rival.served


def test_an_old_model_serves_on_while_it_cools_down() -> None:
    world = World(min_active=60)
    world.wake("a").finish()
    other = world.ask("b")
    world.advance(10)
    client = world.ask("a")
    assert client.served and other.waits
    client.finish()
    world.advance(43)
    assert world.state() == Active("a")
    world.advance(20)
    assert other.served


def test_requests_wait_until_it_is_known_what_is_awake() -> None:
    world = World(awake=["b"], start=False)
    for model in "abc":
        world.hooks.once(model, ALIVE, 0.5, 0 if model == "b" else 1)
    client = world.ask("b")
    assert client.waits
    world.advance(0.5)
    assert client.served
    assert world.ran() == ["a alive", "b alive", "c alive"]


def test_costs_are_learnt_from_sleep_and_wake_alone() -> None:
    world = World()
    world.hooks.script("b", WAKE, 7.0)
    first = world.wake("a")
    world.ask("b")
    world.advance(30)
    first.finish()
    world.advance(10)
    assert world.switcher.costs.estimate(None, "a") == pytest.approx(1.0)
    assert world.switcher.costs.estimate("a", "b") == pytest.approx(8.0)
    assert world.switcher.costs.estimate("b", "a") is None


def test_releasing_twice_is_harmless() -> None:
    world = World()
    client = world.wake("a")
    client.finish()
    client.finish()
    assert next((m, f) for m, _, f, _ in world.switcher.readings.per_model()) == ("a", 0)


def test_a_waiter_may_leave_in_another_waiters_callback() -> None:
    """A waiter that is cancelled while its guard is on its way gives the guard back."""
    world = World()
    first, second = world.ask("a"), world.ask("a")
    first._deferred.addCallback(lambda _: second.leave())
    world.advance(1)
    assert first.served and not second.served
    first.finish()
    world.ask("b")
    world.advance(2)
    assert world.switches()[-1] == "+b"


def test_metrics_count_what_happened() -> None:
    world = World()
    world.wake("a").finish()
    world.wake("b")
    text = world.switcher.metrics.expose().decode()
    for line in (
        'llmux_switch_total{from="idle",result="success",to="a"} 1.0',
        'llmux_switch_total{from="a",result="success",to="b"} 1.0',
        'llmux_switch_cost_ema_seconds{from="a",to="b"} 2.0',
        'llmux_model_in_flight{model="b"} 1.0',
        'llmux_request_queue_depth{model="b"} 0.0',
        'llmux_request_queue_wait_seconds_count{model="b"} 1.0',
        'llmux_model_active_duration_seconds_count{model="a"} 1.0',
        'llmux_switch_drain_duration_seconds_count{from="a",to="b"} 1.0',
        'llmux_model_awake{model="b"} 1.0',
    ):
        assert line in text, line


@implementer(ISwitchPolicy)
class Scripted(FifoPolicy):
    """This policy is FIFO, until it is told what to say."""

    def __init__(self) -> None:
        super().__init__()
        self.says: list[Decision] = []
        self.stays = False
        self.admits = False
        self.asked = 0
        self.saw_drained = False

    def decide(self, view: IScheduleView) -> Decision:
        self.asked += 1
        self.saw_drained = self.saw_drained or any(s.drained for s in view.switches)
        if self.says:
            return self.says.pop(0)
        return Stay() if self.stays else super().decide(view)

    def admit(self, view: IScheduleView, request: object) -> bool:
        assert view.switches
        return self.admits


def scripted(**settings: object) -> tuple[World, Scripted]:
    policy = Scripted()
    verifyObject(ISwitchPolicy, policy)
    return World(lambda: policy, **settings), policy  # type: ignore[arg-type]  # as World takes them


def test_a_policy_may_admit_to_a_model_that_drains() -> None:
    world, policy = scripted()
    first = world.wake("a")
    world.ask("b")
    policy.admits = True
    late = world.ask("a")
    assert late.served
    first.finish()
    world.advance(3)
    assert world.state() == Switching("a", "b")
    late.finish()
    world.advance(3)
    assert world.state() == Active("b")


def test_a_drain_is_limited_for_who_was_admitted_after_it_had_begun() -> None:
    world, policy = scripted(
        models="abc",
        resources={"gpu": 2},
        places={"a": [{"gpu": 1}], "b": [{"gpu": 1}], "c": [{"gpu": 2}]},
        drain_timeout=10.0,
    )
    busy = world.wake("a")
    world.wake("b").finish()
    client = world.ask("c")
    policy.admits = True
    late = world.ask("b")
    assert late.served
    world.advance(15)
    assert busy.aborted == ["model a was drained for 10 s"]
    assert late.aborted == ["model b was drained for 10 s"]
    assert client.served


def test_a_policy_may_reopen_a_drain() -> None:
    world, policy = scripted()
    first = world.wake("a")
    other = world.ask("b")
    late = world.ask("a")
    policy.says = [Reopen(2)]
    policy.stays = True
    world.ask("c")
    assert late.served
    assert world.state() == Active("a")
    policy.stays = False
    first.finish()
    late.finish()
    world.advance(3)
    assert other.served


def test_a_policy_may_rebind_a_drain() -> None:
    world, policy = scripted()
    first = world.wake("a")
    for model in "bc":
        world.ask(model)
    policy.says = [Rebind(2, "c", 0, ("a",)), Stay()]
    first.finish()
    world.advance(2)
    assert world.switches() == ["+a", "-a", "+c"]
    assert policy.saw_drained


def test_a_policy_is_asked_again_when_it_wants_to_be() -> None:
    world, policy = scripted()
    world.wake("a").finish()
    policy.says = [Stay(world.clock.seconds() + 7)]
    other = world.ask("b")
    world.advance(6)
    assert other.waits and world.state() == Active("a")
    world.advance(3.1)
    assert other.served


def test_a_policy_is_not_asked_at_each_request_of_a_busy_model() -> None:
    world, policy = scripted()
    held = world.wake("a")
    until = world.clock.seconds() + 50
    policy.says = [Stay(until)]
    policy.stays = True
    world.ask("b")
    policy.asked = 0
    for _ in range(10):
        world.ask("a").finish()
    assert policy.asked == 0
    world.ask("b")
    assert policy.asked == 1, "another model's queue has changed"
    held.finish()
    assert policy.asked == 2, "the awake model has emptied"
    held = world.ask("a")
    assert policy.asked == 3, "the awake model is busy again"
    held.finish()
    policy.stays = False
    world.advance(60)
    assert world.state() == Active("b")


@pytest.mark.parametrize(
    "says",
    [
        Switch("nobody"),
        Switch("c", 0, ("a",)),
        Switch("a"),
        Switch("b"),
        Switch("b", 1, ("a",)),
        Switch("b", 0, ("a", "a")),
        Switch("b", 0, ("c",)),
        Rebind(7, "b", 0, ("a",)),
        Reopen(1),
        Stay(float("nan")),
        Stay(why="lingers"),  # type: ignore[arg-type]  # that is the point
        Stay(why=Why("lingers", "a", {"until_at": "soon"})),  # type: ignore[dict-item]  # as above
        "b",
        None,
    ],
    ids=[
        "unknown",
        "not wanted",
        "awake",
        "no room",
        "no such place",
        "a victim twice",
        "a victim that sleeps",
        "no such switch",
        "a switch that is over",
        "no time",
        "no reason",
        "no figure",
        "no decision",
        "nothing",
    ],
)
def test_a_question_that_is_answered_with_nonsense_is_answered_by_fifo(
    says: Any,
) -> None:
    world, policy = scripted()
    world.wake("a").finish()
    policy.decide = lambda view: says  # type: ignore[method-assign]  # that is the point
    client = world.ask("b")
    world.advance(5)
    assert client.served
    text = world.switcher.metrics.expose().decode()
    assert 'llmux_policy_failures_total{question="nonsense"}' in text


def test_nobody_is_asked_when_nobody_waits() -> None:
    world, policy = scripted()
    client = world.wake("a")
    policy.asked = 0
    client.finish()
    world.wake("a").finish()
    assert policy.asked == 0


def test_a_switcher_at_rest_stops_at_once() -> None:
    world = World()
    world.wake("a").finish()
    done = world.stop()
    assert done == [None]
    assert world.ran(SLEEP) == []
    assert isinstance(world.ask("a").error, NotReady)
    world.nothing_left()


@pytest.mark.parametrize("kind", [HookKind.WAKE, HookKind.SLEEP])
def test_hooks_run_one_at_a_time(kind: HookKind) -> None:
    world = World()
    script = world.hooks
    script.once("b", kind, 1.0, 1)
    for model in "abcabc":
        client = world.ask(model)
        for _ in range(7):
            if client.served:
                client.finish()
            world.advance(0.3)
            assert len(world.hooks.running) <= 1


def test_the_view_is_what_policies_are_promised() -> None:
    views: list[IScheduleView] = []

    class Looking(FifoPolicy):
        def decide(self, view: IScheduleView) -> Decision:
            views.append(view)
            return super().decide(view)

    World(Looking).ask("a")
    verifyObject(IScheduleView, views[0])


def test_the_policy_is_not_asked_about_requests_to_a_model_that_may_not_sleep_yet() -> None:
    world, policy = scripted(min_active=60)
    world.wake("a").finish()
    waits = world.ask("b")
    asked = policy.asked
    for _ in range(100):
        client = world.ask("a")
        assert client.served
        client.finish()
    assert policy.asked == asked
    world.advance(61)
    assert policy.asked > asked
    world.advance(10)
    assert waits.served


def test_the_policy_is_asked_when_a_model_runs_out_of_requests_that_may_sleep() -> None:
    world, policy = scripted()
    world.wake("a").finish()
    policy.stays = True
    world.ask("b")
    client = world.ask("a")
    asked = policy.asked
    client.finish()
    assert policy.asked == asked + 1


def test_the_policy_is_not_asked_about_further_requests_for_a_model_that_wakes() -> None:
    world, policy = scripted()
    policy.stays = True
    world.hooks.once("a", WAKE, 30)
    first = world.ask("a")
    policy.says = [Switch("a", 0, ())]
    world.ask("b")
    world.advance(1)
    assert world.phase("a") is Phase.WAKING
    asked = policy.asked
    further = [world.ask("a") for _ in range(100)]
    assert policy.asked == asked
    for client in further[:50]:
        client.leave()
    assert policy.asked == asked
    world.advance(30)
    assert first.served and all(client.served for client in further[50:])
