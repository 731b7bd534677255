"""
These tests check which model the cost-aware policy wakes next, and that nobody waits for ever.
"""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from llmux.interfaces import (
    Arrived,
    Completed,
    Forwarded,
    Left,
    LeftReason,
    PolicyContext,
    Woke,
)
from llmux.policy.cost_aware import (
    CostAwarePolicy,
    CostAwareSettings,
)
from llmux.simulate.run import Record, Run
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace, TraceRequest
from tests.world import SLEEP, WAKE, World

from .cost_aware_world import PARAMETERS, agent, known, serve, wake, world

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


def four_give_up_and_three_wait(at: World) -> None:
    """Have four clients of b give up, one after the other; then two wait for c, one for b."""
    for _ in range(4):
        client = at.ask("b")
        at.advance(9)
        client.leave()
    at.ask("c")
    at.ask("c")
    at.ask("b")


def test_a_demand_begins_with_its_first_waiter_even_if_that_one_gave_up() -> None:
    """Clients who give up and come back count as if they had waited since the first of them."""
    at = world(max_wait_secs=30.0, cap=1.0)
    wake(at, "a")
    busy = at.ask("a")
    four_give_up_and_three_wait(at)
    busy.finish()
    at.advance(10.1)
    assert at.switches()[-1] == "+b"


def test_waiters_that_gave_up_count_in_the_choice_of_the_next_model() -> None:
    at = world()
    wake(at, "a")
    busy = at.ask("a")
    four_give_up_and_three_wait(at)
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
    estimates = list(at.switcher.readings.estimates())
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
    seed: int,
    models: int,
    cost: float,
    rate: float,
    parameters: CostAwareSettings = CostAwareSettings(),  # noqa: B008  # it is frozen
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
        PolicyContext(weights=dict.fromkeys(trace.models(), 1.0)), parameters
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
    parameters=PARAMETERS,
)
def test_nobody_waits_longer_than_the_bound(
    seed: int,
    models: int,
    cost: float,
    rate: float,
    parameters: CostAwareSettings,
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
        parameters,
    )
    longest_service = 5.0
    others = len(trace.models()) - 1
    bound = parameters.cap * parameters.max_wait_secs
    bound += others * (parameters.floor * cost + longest_service + cost)
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
