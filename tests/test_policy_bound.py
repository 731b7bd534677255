"""
These tests check the bound on waiting where several models are awake: a property of cost_aware.
"""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from llmux.interfaces import PolicyContext
from llmux.policy.cost_aware import CostAwarePolicyFactory, CostAwareSettings
from llmux.simulate.run import Run
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace, TraceRequest
from llmux.switching.facts.settings import ModelSettings
from tests.cost_aware_world import PARAMETERS
from tests.random_house import random_room

LONGEST_SERVICE = 5.0


@pytest.mark.own_cpu("simulates")
@settings(deadline=None, max_examples=40, phases=[Phase.explicit, Phase.generate])
@given(
    seed=st.integers(0, 100_000),
    cost=st.floats(0, 30),
    rate=st.floats(0.05, 20),
    parameters=PARAMETERS,
)
def test_nobody_waits_longer_than_the_bound_for_several_resources(
    seed: int,
    cost: float,
    rate: float,
    parameters: CostAwareSettings,
) -> None:
    """
    The bound is L + G + N (C + floor C + G) + C: the limit, its own drain if it had a turn,
    then for each demand that is older what wakes on its room, what it is left alone for and
    what it was given, then the switch.
    """
    random = Random(seed)
    resources, places, always = random_room(random)
    names = sorted(places)
    requests = []
    now = 0.0
    for _ in range(300):
        now += random.expovariate(rate)
        model = names[min(int(random.expovariate(1.0)), len(names) - 1)]
        patience = random.choice([inf, inf, inf, random.uniform(0, 60)])
        service = random.uniform(0, LONGEST_SERVICE)
        requests.append(TraceRequest(model, service, now, patience=patience))
    trace = Trace.of(requests)
    policy = CostAwarePolicyFactory().build(
        PolicyContext(
            weights=dict.fromkeys(names, 1.0),
            resources=resources,
            places=places,
            always=frozenset(always),
        ),
        parameters,
    )
    models = {
        name: ModelSettings(inf, places=places[name], always=name in always) for name in names
    }
    record = Run(
        trace, policy, models, HookTimes(cost), slots=10_000, seed=seed, resources=resources
    ).go()
    turn = cost + parameters.floor * cost + LONGEST_SERVICE
    bound = (
        parameters.cap * parameters.max_wait_secs + LONGEST_SERVICE + len(names) * turn + cost
    )
    for sent, began in zip(record.sent, record.began, strict=True):
        if began == began:
            assert began - sent <= bound + 0.01
    unanswered = [
        request
        for request, began, left in zip(trace.requests, record.began, record.left, strict=True)
        if began != began and left != left
    ]
    assert unanswered == [], "somebody waits for ever"
