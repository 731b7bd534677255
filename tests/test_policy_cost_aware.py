"""
These tests check the cost-aware policy's decisions, under the switcher that carries them out.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from llmux.interfaces import (
    Arrived,
    Completed,
    Forwarded,
    ISwitchPolicy,
    ISwitchPolicyFactory,
    Left,
    LeftReason,
    PolicyContext,
    PolicyEvent,
    Stay,
    Woke,
)
from llmux.policy.catalog import find_policy, known_policies
from llmux.policy.cost_aware import (
    CostAwarePolicy,
    CostAwarePolicyFactory,
    CostAwareSettings,
)
from llmux.policy.knowledge import Knowledge, ModelKnowledge
from llmux.simulate.run import Record, Run
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace, TraceRequest
from tests.world import SLEEP, WAKE, Client, World


def make(**values: float) -> CostAwarePolicy:
    weights = {name: values.pop(f"weight_{name}", 1.0) for name in "abc"}
    return CostAwarePolicy(PolicyContext(weights=weights), CostAwareSettings(**values))


def known(name: str) -> tuple[Callable[[PolicyEvent], None], ModelKnowledge]:
    """
    Return a function that shows an event to the policy's knowledge, and what that knows of one
    model.
    """
    knowledge = Knowledge(PolicyContext(weights=dict.fromkeys("abc", 1.0)), 10.0)
    return lambda event: knowledge.learn[type(event)](event), knowledge.models[name]


def world(cost: float = 10.0, **values: float) -> World:
    """
    Make a world with models a, b and c; any switch takes C{cost} seconds, and the policy knows
    it.
    """
    made = World(lambda: make(initial_switch_cost_secs=cost, **values))
    for name in "abc":
        made.hooks.script(name, WAKE, cost / 2)
        made.hooks.script(name, SLEEP, cost / 2)
    return made


def serve(at: World, model: str, seconds: float) -> None:
    """Ask for a model, have the request served for so many seconds, and finish it."""
    client = at.ask(model)
    while not client.served:
        at.advance(0.5)
    at.advance(seconds)
    client.finish()


def wake(at: World, model: str, *, service: float = 2.0, times: int = 6) -> None:
    """Wake a model until its service times are known, and its quantum is over."""
    for _ in range(times):
        serve(at, model, service)
    at.advance(100)


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
    """The request will have finished before the one that is in flight anyway."""
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
    The demand for c makes the absence longer: from then on the policy would admit a request.
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


def agent(at: World, think: float, steps: int) -> None:
    """Run a client that asks for a again some time after each answer."""
    for _ in range(steps):
        serve(at, "a", 1.0)
        at.advance(think)


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


# -------------------------------------------------------------- where to go


def test_the_next_model_is_that_with_the_most_waiting() -> None:
    at = world()
    wake(at, "a")
    busy = at.ask("a")
    at.ask("b")
    at.advance(1)
    for _ in range(5):
        at.ask("c")
    at.advance(3)
    busy.finish()
    at.advance(10.1)
    assert at.switches()[-1] == "+c", "chosen when the drain was over"


def test_the_waiters_of_a_model_of_greater_weight_count_more() -> None:
    at = world(weight_b=20.0)
    wake(at, "a")
    busy = at.ask("a")
    for _ in range(5):
        at.ask("c")
    at.ask("b")
    at.advance(3)
    busy.finish()
    at.advance(10.1)
    assert at.switches()[-1] == "+b"


def test_a_starving_model_is_next_however_many_wait_for_another() -> None:
    at = world(max_wait_secs=30.0, cap=1.0)
    wake(at, "a")
    busy = at.ask("a")
    at.ask("b")
    at.advance(31)
    for _ in range(100):
        at.ask("c")
    at.advance(3)
    busy.finish()
    at.advance(10.1)
    assert at.switches()[-1] == "+b"


def test_the_door_is_shut_in_time_for_the_time_limit_of_requests() -> None:
    """No request is admitted after 20 s if the limit is 30 s and a switch takes 10 s."""
    context = PolicyContext(weights=dict.fromkeys("abc", 1.0), request_timeout=30.0)
    policy = CostAwarePolicy(
        context, CostAwareSettings(quantum=100.0, floor=0.0, initial_switch_cost_secs=10.0)
    )
    at = World(lambda: policy, request_timeout=30.0)
    for name in "abc":
        at.hooks.script(name, WAKE, 5)
        at.hooks.script(name, SLEEP, 5)
    for name in "abab":
        serve(at, name, 0.0)
    wake(at, "a", service=1.0)
    busy = at.ask("a")
    other = at.ask("b")
    at.advance(17)
    assert at.ask("a").served
    at.advance(2.5)
    assert not at.ask("a").served
    for guard in at.clients_in_flight():
        guard.release()
    assert busy.served
    at.advance(10.1)
    assert other.served


def test_a_demand_begins_with_its_first_waiter_even_if_that_one_gave_up() -> None:
    """Clients who give up and come back count as if they had waited since the first of them."""
    at = world(max_wait_secs=30.0, cap=1.0)
    wake(at, "a")
    busy = at.ask("a")
    for _ in range(4):
        client = at.ask("b")
        at.advance(9)
        client.leave()
    at.ask("c")
    at.ask("c")
    at.ask("b")
    busy.finish()
    at.advance(10.1)
    assert at.switches()[-1] == "+b"


def test_waiters_that_gave_up_count_in_the_choice_of_the_next_model() -> None:
    at = world()
    wake(at, "a")
    busy = at.ask("a")
    for _ in range(4):
        client = at.ask("b")
        at.advance(9)
        client.leave()
    at.ask("c")
    at.ask("c")
    at.ask("b")
    at.advance(2)
    busy.finish()
    at.advance(10.1)
    assert at.switches()[-1] == "+b"


def test_a_demand_ends_when_all_its_waiters_were_refused() -> None:
    """A wake that failed has answered the waiters; the next demand is a new one."""
    learn, model = known("b")
    learn(Arrived(10.0, "b", 1))
    learn(Arrived(11.0, "b", 2))
    learn(Left(12.0, "b", 1, LeftReason.FAILED, 2.0))
    assert model.demand_since == 10
    learn(Left(12.0, "b", 2, LeftReason.FAILED, 1.0))
    assert model.demand_since is None
    learn(Arrived(20.0, "b", 3))
    learn(Left(25.0, "b", 3, LeftReason.TIMEOUT, 5.0))
    assert model.demand_since == 20
    assert model.ghosts.count == 1


def test_a_request_that_waits_again_is_no_second_arrival() -> None:
    """A request whose backend refused waits again, under another number."""
    at = world()
    client = at.wake("a")
    at.hooks.awake.discard("a")
    client.report_dead()
    at.advance(1)
    again = client.retry(at.clock.seconds() - 5)
    at.advance(20)
    assert again.served
    again.finish()
    at.ask("b")
    at.advance(20)
    assert at.switches()[-1] == "+b"


def test_the_time_asleep_is_no_interval_between_completions() -> None:
    learn, model = known("a")
    for now in (10.0, 12.0, 112.0, 114.0):
        if now == 112.0:
            learn(Woke(110.0, "a", 0, ("b",), 5.0))
        learn(Forwarded(now - 1, "a", int(now), 0.0))
        learn(Completed(now, "a", int(now), 1.0, True))
    assert model.interval.seconds == pytest.approx(2)


def test_the_estimates_say_what_the_policy_has_learnt() -> None:
    at = world()
    agent(at, 2.0, 3)
    serve(at, "b", 1.0)
    estimates = list(at.switcher.estimates())
    found = {(e.name, *e.labels.values()): e.value for e in estimates}
    assert found["starvation_limit_seconds",] == 120
    assert found["gap_seconds", "a"] == pytest.approx(2, abs=0.6)
    assert found["service_seconds", "a"] == pytest.approx(1, abs=0.6)
    assert found["first_wait_seconds", "b"] == pytest.approx(10, abs=1)
    assert ("service_seconds", "c") not in found
    assert all(e.documentation.endswith(".") for e in estimates)


def test_the_policy_forgets_requests_that_are_over() -> None:
    learn, model = known("a")
    for number in range(1000):
        learn(Arrived(number, "a", number))
        learn(Forwarded(number, "a", number, 0.0))
        learn(Completed(number + 1.0, "a", number, 1.0, True))
    for number in range(1000, 2000):
        learn(Arrived(number, "a", number))
        learn(Left(5000.0, "a", number, LeftReason.DISCONNECTED, 1.0))
    assert (len(model.waiting), len(model.in_flight), len(model.unqueued)) == (0, 0, 0)


# ------------------------------------------------------------------ for ever


def simulate(
    seed: int, models: int, cost: float, rate: float, **values: float
) -> tuple[Trace, Record]:
    random = Random(seed)
    requests = []
    now = 0.0
    for _ in range(300):
        now += random.expovariate(rate)
        model = min(int(random.expovariate(1.0)), models - 1)
        patience = random.choice([inf, inf, inf, random.uniform(0, 60)])
        service = random.uniform(0, 5)
        requests.append(TraceRequest(f"m{model}", service, now, patience=patience))
    trace = Trace.of(requests)
    policy = CostAwarePolicy(
        PolicyContext(weights=dict.fromkeys(trace.models(), 1.0)), CostAwareSettings(**values)
    )
    run = Run(trace, policy, trace.models(), HookTimes(cost), slots=10_000, seed=seed)
    return trace, run.go()


@pytest.mark.own_cpu("simulates")
@settings(deadline=None, max_examples=25, phases=[Phase.explicit, Phase.generate])
@given(
    seed=st.integers(0, 10_000),
    models=st.integers(2, 5),
    cost=st.floats(0, 30),
    rate=st.floats(0.05, 20),
    quantum=st.floats(0, 20),
    max_wait=st.floats(0, 60),
    cap=st.floats(1, 4),
    stretch=st.floats(0, 5),
    floor=st.floats(0, 2),
    linger=st.floats(0, 5),
    pace=st.floats(0, 2),
)
def test_nobody_waits_longer_than_the_bound(
    seed: int,
    models: int,
    cost: float,
    rate: float,
    quantum: float,
    max_wait: float,
    cap: float,
    stretch: float,
    floor: float,
    linger: float,
    pace: float,
) -> None:
    """
    The bound is L + G + (N - 1)(C + floor C + G) + C: the limit, its own drain if it had a
    turn, then at most one turn of each other model (a switch, the time that it is left alone,
    what it was given), then the switch.
    """
    trace, record = simulate(
        seed,
        models,
        cost,
        rate,
        quantum=quantum,
        max_wait_secs=max_wait,
        cap=cap,
        stretch=stretch,
        floor=floor,
        linger=linger,
        pace=pace,
    )
    longest_service = 5.0
    others = len(trace.models()) - 1
    bound = cap * max_wait + others * (floor * cost + longest_service + cost)
    bound += cost + longest_service
    for sent, began in zip(record.sent, record.began, strict=True):
        if began == began:
            assert began - sent <= bound + 0.01


@pytest.mark.own_cpu("simulates")
@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=5)
def test_the_same_events_give_the_same_decisions(seed: int) -> None:
    one, two = (simulate(seed, 3, 5.0, 1.0)[1] for _ in range(2))
    assert one.woken == two.woken
    assert list(map(str, one.began)) == list(map(str, two.began))
