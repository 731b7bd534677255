"""
These tests check the cost-aware policy's decisions, under the switcher that carries them out.
"""

from __future__ import annotations

from math import inf, nan

import pytest
from twisted.logger import capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from llmux.interfaces import (
    Arrived,
    Forwarded,
    ISwitchPolicy,
    ISwitchPolicyFactory,
    PolicyContext,
    Stay,
)
from llmux.policy.catalog import find_policy, known_policies
from llmux.policy.cost_aware import (
    CostAwarePolicy,
    CostAwarePolicyFactory,
    CostAwareSettings,
)
from tests.world import Client, World

from .cost_aware_world import agent, known, make, serve, wake, world

# ------------------------------------------------------------------- the seam


def test_the_policy_and_its_factory_provide_their_interfaces() -> None:
    assert verifyObject(ISwitchPolicy, make())
    factory = CostAwarePolicyFactory()
    assert verifyObject(ISwitchPolicyFactory, factory)
    context = PolicyContext(weights={"a": 1.0})
    assert isinstance(factory.build(context, CostAwareSettings()), CostAwarePolicy)
    assert isinstance(factory.build(context, None), CostAwarePolicy)


def test_the_policy_is_found_as_a_plugin() -> None:
    assert find_policy("cost_aware").settings is CostAwareSettings
    assert {"cost_aware", "fifo"} <= set(known_policies())


@pytest.mark.parametrize("key", CostAwareSettings.__struct_fields__)
@pytest.mark.parametrize("value", [-0.5, nan, inf])
def test_a_setting_that_is_out_of_range_is_refused_by_name(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be . or more"):
        CostAwareSettings(**{key: value})


def test_a_cap_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="cap must be 1 or more"):
        CostAwareSettings(cap=0.5)


# ------------------------------------------------------- when to leave a model


def test_a_model_is_woken_at_once_when_none_is_awake() -> None:
    at = world()
    client = at.ask("b")
    at.advance(5)
    assert client.served


def test_a_busy_model_that_has_just_woken_is_not_left_for_its_quantum() -> None:
    at = world(quantum=2.0)
    busy = at.ask("a")
    at.advance(5)
    other = at.ask("b")
    assert busy.served
    at.advance(19)
    joins = at.ask("a")
    assert joins.served, "before twice the 10 seconds of a switch"
    at.advance(3)
    busy.finish()
    joins.finish()
    at.advance(10.5)
    assert other.served


def test_a_starving_model_does_not_end_a_turn_before_its_floor() -> None:
    at = world(max_wait_secs=0.0, quantum=100.0, floor=1.0)
    serve(at, "a", 1)
    busy = at.ask("b")
    at.ask("a")
    at.advance(10)
    assert busy.served
    at.advance(9)
    assert at.ask("b").served
    at.advance(2)
    assert at.ask("b").waits


def test_a_model_that_has_nothing_to_do_is_left_at_once() -> None:
    at = world()
    serve(at, "a", 1)
    other = at.ask("b")
    at.advance(10.1)
    assert other.served


def closing(at: World, in_flight: float) -> Client:
    """Make model a drain: it has had its quantum, and b has been asked for."""
    wake(at, "a", service=in_flight)
    busy = at.ask("a")
    at.ask("b")
    return busy


def test_the_door_lets_in_a_request_that_delays_nobody() -> None:
    """A request that is short enough ends before the request that is in flight."""
    at = world()
    closing(at, 2.0)
    late = at.ask("a")
    assert late.served


def test_the_door_is_shut_when_many_wait_for_another_model() -> None:
    at = world(pace=1e9)
    closing(at, 5.0)
    for _ in range(200):
        at.ask("b")
    at.advance(3)
    assert not at.ask("a").served


def test_the_door_is_shut_when_another_model_starves() -> None:
    at = world(max_wait_secs=20.0, cap=1.0)
    busy = closing(at, 2.0)
    at.advance(15)
    assert at.ask("a").served
    at.advance(6)
    refused = at.ask("a")
    assert not refused.served
    for guard in list(at.clients_in_flight()):
        guard.release()
    assert busy.served
    at.advance(10)
    assert at.switches()[-1] == "+b"
    at.advance(40)
    assert refused.waits


def test_the_door_stays_open_while_the_awake_model_serves_fast() -> None:
    """Many requests at once are worth more than the switch, whoever waits."""
    for pace, served in ((1.2, True), (1e9, False)):
        at = world(pace=pace)
        closing(at, 5.0)
        for _ in range(20):
            at.ask("a")
        at.advance(3)
        for _ in range(200):
            at.ask("b")
        assert at.ask("a").served is served


def test_no_request_overtakes_another_through_the_door() -> None:
    """
    A demand for c makes the absence of the model longer, so that the policy would admit a
    request from then on.
    """
    at = world(pace=1e9)
    closing(at, 5.0)
    at.advance(3)
    for _ in range(6):
        at.ask("b")
    first = at.ask("a")
    assert first.waits
    at.ask("c")
    second = at.ask("a")
    assert second.waits
    first.leave()
    second.leave()
    assert at.ask("a").served


def test_a_demand_does_not_end_when_a_later_request_is_let_in() -> None:
    learn, model = known("a")
    learn(Arrived(10.0, "a", 1))
    learn(Arrived(11.0, "a", 2))
    learn(Forwarded(11.0, "a", 2, 0.0))
    assert model.demand_since == 10
    learn(Forwarded(12.0, "a", 1, 2.0))
    assert model.demand_since is None


def test_a_switch_is_called_off_when_its_waiters_have_left() -> None:
    at = world()
    wake(at, "a")
    busy = at.ask("a")
    other = at.ask("b")
    other.leave()
    at.advance(1)
    assert at.ask("a").served
    busy.finish()
    assert at.switches()[-1] == "+a"


# ----------------------------------------------------------------- lingering


def test_a_model_lingers_for_clients_that_come_back_soon() -> None:
    at = world()
    agent(at, 2.0, 5)
    serve(at, "a", 1.0)
    other = at.ask("b")
    at.advance(1.9)
    assert at.switches()[-1] == "+a"
    assert at.ask("a").served
    assert other.waits


def test_the_log_and_the_decision_say_that_a_model_lingers_and_for_what() -> None:
    at = world()
    agent(at, 2.0, 5)
    serve(at, "a", 1.0)
    with capturedLogs() as events:
        at.ask("b")
        at.ask("b")
    [line] = [event for event in events if event.get("event") == "lingers"]
    assert formatEvent(line) == (
        "a has nothing to do, and stays awake for 2.8 s for clients that tend to come back "
        "within 2.0 s; requests for b wait"
    )
    assert at.switcher.latest_decision is not None
    _, decision = at.switcher.latest_decision
    assert isinstance(decision, Stay) and decision.why is not None
    assert (decision.why.code, decision.why.model) == ("lingers", "a")
    assert decision.why.figures["until_at"] == decision.ask_again_at


def test_lingering_ends_soon_after_the_expected_return() -> None:
    at = world()
    agent(at, 2.0, 5)
    serve(at, "a", 1.0)
    other = at.ask("b")
    at.advance(2.0 * 1.25 + 0.25 + 10.1)
    assert other.served


def test_lingering_is_in_proportion_to_what_a_switch_costs() -> None:
    """
    Clients that tend to be back in 1 ms are not awaited for 250 ms if a switch takes 4 ms.
    """
    at = world(cost=0.004)
    for _ in range(20):
        client = at.ask("a")
        at.advance(0.004)
        client.finish()
        at.advance(0.001)
    served = at.ask("a")
    at.advance(0.004)
    served.finish()
    at.ask("b")
    at.advance(0.001)
    assert "a sleep" not in at.ran(), "lingers for a moment"
    at.advance(0.001)
    assert "a sleep" in at.ran()


@pytest.mark.parametrize(("think", "options"), [(60.0, {}), (2.0, {"linger": 0.0})])
def test_a_model_does_not_linger_if_its_clients_come_back_late_or_lingering_is_off(
    think: float, options: dict[str, float]
) -> None:
    at = world(**options)
    agent(at, think, 5)
    serve(at, "a", 1.0)
    at.ask("b")
    at.advance(0.1)
    assert at.ran()[-1] == "a sleep"


def test_a_model_does_not_linger_while_many_wait_for_another() -> None:
    at = world()
    agent(at, 2.0, 5)
    busy = at.ask("a")
    for _ in range(10):
        at.ask("b")
    busy.finish()
    at.advance(0.1)
    assert at.ran()[-1] == "a sleep"


def alternate(at: World, think: float, rounds: int) -> None:
    """Run a client that asks two models by turns, five times each."""
    for _ in range(rounds):
        for name in "aaaaabbbbb":
            serve(at, name, 1.0)
            at.advance(think)


def test_a_model_does_not_linger_for_a_client_that_uses_two_models_by_turns() -> None:
    at = world()
    alternate(at, 2.0, 3)
    for name, other in ("ab", "ba", "ab", "ba"):
        serve(at, name, 1.0)
        at.advance(2.0)
        client = at.ask(other)
        assert at.ran()[-1] == f"{name} sleep", "at once"
        at.advance(11.0)
        client.finish()
        at.advance(2.0)


def test_a_model_lingers_again_when_its_clients_have_come_back_during_switches() -> None:
    """The policy learns from models that were left at once, too."""
    at = world()
    agent(at, 2.0, 6)
    serve(at, "a", 1.0)
    other = at.ask("b")
    at.advance(20.0)
    other.finish()
    agent(at, 2.0, 6)
    left_at_once = []
    for _ in range(5):
        serve(at, "a", 1.0)
        other = at.ask("b")
        left_at_once.append(at.ran()[-1] == "a sleep")
        at.advance(2.0)
        back = at.ask("a")
        unfinished = [back, other]
        while unfinished:
            at.advance(0.5)
            for client in [client for client in unfinished if client.served]:
                unfinished.remove(client)
                client.finish()
    assert left_at_once[0]
    assert not left_at_once[-1]
