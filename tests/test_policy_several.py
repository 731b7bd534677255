"""These tests check the cost-aware policy where several models fit: nobody waits for ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from llmux.interfaces import Decision, IScheduleView, Needs, PolicyContext
from llmux.interfaces import Phase as ModelPhase
from llmux.policy.cost_aware import CostAwarePolicy, CostAwareSettings
from llmux.policy.plans import Planner
from llmux.simulate.run import Record, Run
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace, TraceRequest
from llmux.switching.facts.settings import ModelSettings
from tests.cost_aware_world import PARAMETERS
from tests.world import SLEEP, WAKE, World

LONGEST_SERVICE = 5.0


class Machine(NamedTuple):
    """
    This machine was drawn at random.

    @ivar costs: by model, the seconds of its sleep and wake together.
    """

    resources: Needs
    places: Mapping[str, Sequence[Needs]]
    costs: Mapping[str, float]
    parallel_wakes: int | None


def machine(random: Random) -> Machine:
    """Draw one to four resources, and two to seven models, each with one to three places."""
    resources = {f"gpu{i}": random.choice([1, 4, 24]) for i in range(random.randint(1, 4))}
    places = {
        f"m{i}": [
            {
                name: random.randint(1, resources[name])
                for name in random.sample(list(resources), random.randint(1, len(resources)))
            }
            for _ in range(random.randint(1, 3))
        ]
        for i in range(random.randint(2, 7))
    }
    costs = {name: random.choice([0.0, random.uniform(0, 20)]) for name in places}
    return Machine(resources, places, costs, random.choice([None, None, 1, 2]))


def traffic(random: Random, models: Sequence[str]) -> Trace:
    """Draw some minutes of requests, more for the first models; some clients lose patience."""
    rate, length = random.choice([0.1, 1, 5]), random.choice([30, 300])
    requests: list[TraceRequest] = []
    now = random.expovariate(rate)
    while now < length and len(requests) < 500:
        model = models[min(int(random.expovariate(0.7)), len(models) - 1)]
        patience = random.choice([inf, inf, inf, random.uniform(0, 60)])
        service = random.uniform(0, LONGEST_SERVICE)
        requests.append(TraceRequest(model, service, now, patience=patience))
        now += random.expovariate(rate)
    return Trace.of(requests)


def simulate(machine: Machine, trace: Trace, settings: CostAwareSettings) -> Record:
    context = PolicyContext(
        weights=dict.fromkeys(machine.places, 1.0),
        resources=machine.resources,
        places=machine.places,
        parallel_wakes=machine.parallel_wakes,
    )
    times = HookTimes(
        0.0,
        sleeps={name: 0.2 * cost for name, cost in machine.costs.items()},
        wakes={name: 0.8 * cost for name, cost in machine.costs.items()},
    )
    run = Run(
        trace,
        CostAwarePolicy(context, settings),
        {name: ModelSettings(inf, places=places) for name, places in machine.places.items()},
        times,
        slots=10_000,
        resources=machine.resources,
    )
    record = run.go()
    assert b"llmux_policy_failures_total{" not in run.switcher.metrics.expose()
    return record


@pytest.mark.own_cpu("simulates")
@settings(deadline=None, max_examples=40, phases=[Phase.explicit, Phase.generate])
@given(
    seed=st.integers(0, 100_000),
    parameters=PARAMETERS,
)
def test_nobody_waits_longer_than_the_bound_for_several_resources(
    seed: int,
    parameters: CostAwareSettings,
) -> None:
    """The bound is cap max_wait + G + N (C + floor C + G) + C, as the README says."""
    random = Random(seed)
    drawn = machine(random)
    trace = traffic(random, list(drawn.places))
    if not trace.requests:
        return
    record = simulate(
        drawn,
        trace,
        parameters,
    )
    cost, count = max(drawn.costs.values()), len(drawn.places)
    turn = cost + parameters.floor * cost + LONGEST_SERVICE
    bound = parameters.cap * parameters.max_wait_secs + count * turn + cost
    bound += LONGEST_SERVICE
    for sent, began, left in zip(record.sent, record.began, record.left, strict=True):
        assert began == began or left == left, "neither served nor gone"
        if began == began:
            assert began - sent <= bound + 0.01


# ------------------------------------------------------------------- by name

RESOURCES: Needs = {"gpu0": 24, "gpu1": 24}
EITHER: Sequence[Needs] = [{"gpu0": 20}, {"gpu1": 20}]
PLACES: Mapping[str, Sequence[Needs]] = {
    "chat": EITHER,
    "code": EITHER,
    "math": EITHER,
    "big": [{"gpu0": 22, "gpu1": 22}],
    "embed": [{"gpu0": 2}],
}


def world(parallel_wakes: int | None = None, **values: float) -> World:
    """
    Make a world with two GPUs; a sleep and a wake take ten seconds together, and the policy
    knows it.
    """
    context = PolicyContext(
        weights=dict.fromkeys(PLACES, 1.0),
        resources=RESOURCES,
        places=PLACES,
        parallel_wakes=parallel_wakes,
    )
    settings = CostAwareSettings(initial_switch_cost_secs=10.0, **values)
    made = World(
        lambda: CostAwarePolicy(context, settings),
        models=list(PLACES),
        resources=RESOURCES,
        places=PLACES,
    )
    for name in PLACES:
        made.hooks.script(name, SLEEP, 2.0)
        made.hooks.script(name, WAKE, 8.0)
    return made


def awake(at: World) -> set[str]:
    return {
        name for name, what in at.switcher.status().items() if what.phase is ModelPhase.AWAKE
    }


def test_models_that_fit_wake_at_once_and_nobody_sleeps() -> None:
    at = world()
    at.ask("chat")
    at.ask("code")
    at.ask("embed")
    at.advance(8.1)
    assert awake(at) == {"chat", "code", "embed"}
    assert at.ran(SLEEP) == []


def test_a_model_wakes_where_it_leaves_the_least_room() -> None:
    at = world()
    at.ask("embed")
    at.advance(8.1)
    at.ask("chat")
    at.advance(8.1)
    assert at.switcher.status()["chat"].place == 0


def test_the_idle_model_whose_clients_lose_least_makes_room() -> None:
    at = world()
    for _ in range(5):
        for name in ("chat", "code"):
            client = at.ask(name)
            at.advance(9.0)
            client.finish()
        for _ in range(3):
            at.advance(20.0)
            at.ask("chat").finish()
    at.advance(60.0)
    at.ask("math")
    assert at.ran(SLEEP) == ["code sleep"]


def test_room_is_kept_for_a_model_that_needs_both_gpus() -> None:
    """No other model gets the free GPU once it is known when the other GPU will be left."""
    at = world()
    busy = at.ask("chat")
    at.advance(8.1)
    big = at.ask("big")
    at.advance(1.0)
    at.ask("code")
    assert at.ran(WAKE) == ["chat wake"]
    busy.finish()
    at.advance(10.1)
    assert big.served


def test_a_model_that_fits_beside_the_one_that_is_next_does_not_wait() -> None:
    at = world()
    at.ask("chat")
    at.advance(8.1)
    at.ask("big")
    at.advance(1.0)
    small = at.ask("embed")
    at.advance(8.1)
    assert small.served


def test_a_busy_victim_is_spared_when_another_has_become_idle() -> None:
    at = world(linger=0.0)
    clients = {name: at.ask(name) for name in ("chat", "code")}
    at.advance(30.0)
    at.ask("math")
    [drains] = [s.victims[0] for s in at.switcher.switches()]
    other = "code" if drains == "chat" else "chat"
    clients[other].finish()
    assert at.ran(SLEEP) == [f"{other} sleep"]
    assert at.ask(drains).served
    at.advance(10.1)
    assert awake(at) == {drains, "math"}


def test_a_victim_with_much_to_finish_is_spared_when_another_may_be_left() -> None:
    at = world(linger=0.0)
    at.ask("chat")
    at.advance(8.1)
    clients = [at.ask("chat") for _ in range(40)]
    code = at.ask("code")
    for client in clients[:5]:
        at.advance(2.0)
        client.finish()
    at.advance(7.0)
    math = at.ask("math")
    assert [s.victims for s in at.switcher.switches()] == [["chat"]]
    # The quantum of code ends: nothing but the time asks the policy.
    at.advance(7.0)
    assert [s.victims for s in at.switcher.switches()] == [["code"]]
    assert at.ask("chat").served
    code.finish()
    at.advance(10.1)
    assert math.served


def test_a_victim_is_spared_when_another_has_come_to_have_less_to_finish() -> None:
    at = world(linger=0.0)
    at.ask("chat")
    at.ask("code")
    at.advance(8.1)
    chats = [at.ask("chat") for _ in range(20)]
    codes = [at.ask("code") for _ in range(30)]
    for client in (*chats[:3], *codes[:3]):
        at.advance(3.0)
        client.finish()
    for _ in range(20):
        at.ask("math")
    [switch] = at.switcher.switches()
    [first], [other] = switch.victims, {"chat", "code"} - set(switch.victims)
    # No request comes: the other model only finishes nearly all that it had.
    for client in (chats if other == "chat" else codes)[3:]:
        client.finish()
    at.advance(1.1)
    assert [s.victims for s in at.switcher.switches()] == [[other]]
    assert at.ask(first).served


def test_requests_for_a_model_that_goes_to_sleep_are_decided_about_once_it_sleeps() -> None:
    at = world(linger=0.0)
    clients = [at.ask("chat"), at.ask("code")]
    at.advance(30.0)
    for client in clients:
        client.finish()
    at.ask("math")
    [first] = at.ran(SLEEP)
    other = "code sleep" if first == "chat sleep" else "chat sleep"
    at.ask(first.removesuffix(" sleep"))
    assert at.ran(SLEEP) == [first]
    at.advance(2.1)
    assert at.ran(SLEEP) == [first, other]


def test_a_further_waiter_costs_no_second_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    at = world()
    at.ask("chat")
    at.ask("code")
    at.advance(9.0)
    at.ask("math")
    decided: list[float] = []
    decide = CostAwarePolicy._decide

    def counted(self: CostAwarePolicy, view: IScheduleView) -> Decision:
        decided.append(view.now)
        return decide(self, view)

    monkeypatch.setattr(CostAwarePolicy, "_decide", counted)
    for _ in range(5):
        at.ask("math")
    assert decided == []
    at.ask("big")
    assert len(decided) == 1


def test_no_more_models_wake_at_a_time_than_may_but_for_one_that_starves() -> None:
    at = world(parallel_wakes=1, max_wait_secs=5.0)
    at.ask("chat")
    at.ask("code")
    assert at.ran(WAKE) == ["chat wake"]
    at.advance(5.1)
    assert at.ran(WAKE) == ["chat wake", "code wake"]


def test_a_question_costs_few_plans_where_hundreds_of_models_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"m{number}" for number in range(300)]
    context = PolicyContext(weights=dict.fromkeys(names, 1.0))
    at = World(lambda: CostAwarePolicy(context, CostAwareSettings()), models=names)
    at.wake("m0")
    for name in names[1:-1]:
        at.ask(name)
    planned: list[str] = []
    plan = Planner.plan

    def counted(self: Planner, model: str, *args: Any, **options: Any) -> Any:
        planned.append(model)
        return plan(self, model, *args, **options)

    monkeypatch.setattr(Planner, "plan", counted)
    at.ask(names[-1])
    assert 1 <= len(planned) <= 2


@pytest.mark.parametrize("model", ["chat", "big"])
def test_a_model_that_starves_has_its_turn_however_busy_the_others_are(model: str) -> None:
    at = world(max_wait_secs=30.0, cap=1.0)
    for name in ("code", "math"):
        at.ask(name)
    at.advance(8.1)
    waiter = at.ask(model)
    for _ in range(100):
        for name in ("code", "math"):
            at.ask(name)
        at.advance(1.0)
        for guard in at.clients_in_flight():
            if guard.model != model:
                guard.release()
    assert waiter.served
