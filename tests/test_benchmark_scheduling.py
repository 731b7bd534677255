"""These tests check that the benchmark of policies works; its results do not matter here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmux.policy.fifo import FifoPolicy
from tests.benchmarks.scheduling.__main__ import compare, measure, table
from tests.benchmarks.scheduling.comparison import Comparison
from tests.benchmarks.scheduling.families import (
    FAMILIES,
    Scenario,
    agents,
    batches,
    open_loop,
    zipf,
)
from tests.benchmarks.scheduling.recorded import mooncake, mooncake_agents, servegen
from tests.benchmarks.scheduling.topologies import (
    HOUR,
    MACHINE_REGIMES,
    MACHINES,
    Topology,
    machine_scenarios,
)


def load(requests: float, seconds: float) -> float:
    return requests / seconds / 16


def test_the_families_have_the_load_and_the_shares_that_they_say() -> None:
    assert zipf(4)[0] == pytest.approx(0.48)
    for bursts in (False, True):
        trace = open_loop(1, 0.5, [0.75, 0.25], bursts=bursts, horizon=40_000)
        work = sum(request.service for request in trace.requests)
        assert load(work, 40_000) == pytest.approx(0.5, rel=0.2)
        share = sum(r.model == "m0" for r in trace.requests) / len(trace.requests)
        assert share == pytest.approx(0.75, abs=0.1)
    assert open_loop(1, 0.1, [1.0]).requests == open_loop(1, 0.1, [1.0]).requests
    assert open_loop(1, 0.1, [1.0]).requests != open_loop(2, 0.1, [1.0]).requests


def test_an_agent_sends_its_next_request_after_its_last_reply() -> None:
    trace = agents(1, 3, 2, (2, 5), horizon=600)
    assert sum(request.after is None for request in trace.requests) == 3
    assert all(2 <= r.think <= 5 for r in trace.requests)
    for number, request in enumerate(trace.requests):
        if request.after is not None:
            assert trace.requests[request.after].model == request.model
            assert request.after < number
    assert len({r.sent for r in batches(1, 60, 5, 3).requests}) > 10


def test_recorded_traffic_is_stretched_to_the_load() -> None:
    trace, length = mooncake(1, 0.45)
    work = sum(request.service for request in trace.requests)
    assert load(work, length) == pytest.approx(0.45, rel=0.01)
    assert len(trace.models()) == 4
    trace, length = servegen(1, 0.45, 3000.0)
    assert length == 3000
    assert max(request.sent for request in trace.requests) <= 3000
    trace = mooncake_agents(1, 4, (1, 2), 300)
    assert sum(request.after is None for request in trace.requests) == 4


def test_each_scenario_has_a_name_of_its_own() -> None:
    names = [scenario.name for scenario in FAMILIES(1)]
    assert len(set(names)) == len(names)


def short() -> Scenario:
    [scenario] = [s for s in FAMILIES(1) if s.name == "balanced2 load 0.05 cost 5"]
    return replace(scenario, horizon=900.0, warm_up=90.0)


def test_a_measured_scenario_has_waits() -> None:
    scenario = short()
    result = measure(scenario, FifoPolicy(), scenario.trace(), "fifo")
    assert result.requests > 50
    assert result.wait_mean_s


def test_fifo_compared_with_itself_is_one_throughout() -> None:
    found = compare(short(), ["fifo", "exhaustive", "cost_aware"])
    assert [one.policy for one in found] == ["fifo", "exhaustive", "cost_aware"]
    assert found[0].mean == found[0].p99 == found[0].throughput == 1
    assert found[1].mean != 1


def test_the_table_has_geometric_means_and_the_worst() -> None:
    one = Comparison("x", "light", "p", 0.5, 1.0, 1.0, 1.0, 7.0, 8.0)
    rows = list(table([one, replace(one, scenario="y", mean=2.0)]))
    assert len(rows) == 3
    assert rows[2] == (
        "| light | p | 2 | 1.00 | 2.00 | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 7 s, 8 s |"
    )


def test_each_scenario_of_the_machines_has_a_name_of_its_own_and_a_known_regime() -> None:
    some = machine_scenarios(1)
    assert len({scenario.name for scenario in some}) == len(some)
    assert {scenario.regime for scenario in some} == set(MACHINE_REGIMES)
    assert {s.topology.name for s in some} == {machine.name for machine in MACHINES}
    assert len(machine_scenarios(1, quick=True)) < len(some) / 3


@pytest.mark.parametrize("topology", MACHINES, ids=lambda topology: topology.name)
def test_the_usual_models_of_a_machine_fit_in_the_number_that_it_says(
    topology: Topology,
) -> None:
    usual = [shape for shape in topology.models.values() if shape.cost == 1]
    assert all(
        resource in topology.resources for s in usual for p in s.places for resource in p
    )
    capacity = sum(topology.resources.values())
    assert {capacity // sum(place.values()) for s in usual for place in s.places} == {
        topology.fits
    }


def test_traffic_for_a_machine_has_the_load_that_it_says() -> None:
    for scenario in machine_scenarios(3):
        if scenario.traffic in ("load 0.45", "bursts, load 0.45") and scenario.switch == 5:
            requests = scenario.trace().requests
            work = sum(request.service for request in requests)
            full = HOUR * 16 * scenario.topology.fits
            assert work / full == pytest.approx(0.45, rel=0.3)
            assert {request.model for request in requests} == set(scenario.topology.models)
            assert scenario.trace().requests == requests


def test_the_agents_of_a_machine_go_through_two_or_three_models_by_turns() -> None:
    [scenario] = [
        s
        for s in machine_scenarios(1)
        if s.topology.name == "12on4" and s.traffic.startswith("4 agents that think for 1 ")
    ]
    requests = scenario.trace().requests
    turns: dict[int, list[str]] = {}
    agent_of: list[int] = []
    for number, request in enumerate(requests):
        agent = number if request.after is None else agent_of[request.after]
        agent_of.append(agent)
        turns.setdefault(agent, []).append(request.model)
    assert len(turns) == 4
    for models in turns.values():
        cycle = len(set(models))
        assert cycle in (2, 3)
        assert models == [models[turn % cycle] for turn in range(len(models))]


def test_a_loyal_agent_of_a_machine_sends_some_five_requests_in_a_row_to_a_model() -> None:
    [scenario] = [
        s
        for s in machine_scenarios(1)
        if s.topology.name == "12on4"
        and s.traffic.startswith("loyal, 36 agents that think for 1 ")
    ]
    assert scenario.regime == "loyal agents"
    requests = scenario.trace().requests
    followers = [request for request in requests if request.after is not None]
    same = sum(request.model == requests[request.after or 0].model for request in followers)
    assert same / len(followers) == pytest.approx(0.8, abs=0.01)


def test_the_hooks_of_a_machine_take_a_fifth_and_four_fifths_of_a_switch() -> None:
    [machine] = [machine for machine in MACHINES if machine.name == "emb+3on24"]
    costs = machine.costs(15)
    assert (costs.sleep("m0", "m1"), costs.wake("m0", "m1")) == (3, 12)
    assert costs.wake(None, "embed") == pytest.approx(12 * 0.15)
