"""
These tests check that with one slot C{cost_aware} decides as the policy that knew of one slot
only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from zope.interface import implementer

from llmux.interfaces import (
    Decision,
    Estimate,
    IScheduleView,
    ISwitchPolicy,
    PolicyContext,
    PolicyEvent,
    Rebind,
    Stay,
    Switch,
    WaitingRequest,
)
from llmux.policy.cost_aware import CostAwarePolicy, CostAwareSettings
from llmux.simulate.run import Run
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace
from tests.benchmarks.scheduling.families import agents, batches, open_loop, zipf
from tests.benchmarks.scheduling.recorded import mooncake, mooncake_agents
from tests.one_slot import OneSlotContext, OneSlotPolicy
from tests.one_slot_cost_aware import OneSlotCostAwarePolicy

COST = 15.0
HOUR = 3600.0

pytestmark = pytest.mark.own_cpu("simulates")


class Knowing(OneSlotCostAwarePolicy):
    """This reference policy knows what each switch costs."""

    def _cost(self, context: OneSlotContext, source: str | None, target: str) -> float:
        return COST


def said(decision: Decision) -> tuple[object, ...]:
    """
    Return what a decision comes to; the victim of a switch is always the model that is awake.
    """
    if isinstance(decision, Stay):
        at = decision.ask_again_at
        return ("stay", None if at is None else pytest.approx(at))
    if isinstance(decision, Switch | Rebind):
        return (type(decision), decision.target, tuple(decision.victims))
    return (type(decision),)


@implementer(ISwitchPolicy)
class Both:
    """This is the policy under test, which is asked the same questions as the reference."""

    def __init__(self, trace: Trace) -> None:
        context = PolicyContext(weights=dict.fromkeys(trace.models(), 1.0))
        settings = CostAwareSettings(initial_switch_cost_secs=COST, pace=1e9)
        self.reference = OneSlotPolicy(Knowing(context, settings))
        self.policy = CostAwarePolicy(context, settings)
        self.observed: frozenset[type[Any]] = self.reference.observed | self.policy.observed
        self.decisions = self.switches = 0

    def observe(self, event: PolicyEvent) -> None:
        for policy in (self.reference, self.policy):
            if type(event) in policy.observed:
                policy.observe(event)

    def decide(self, view: IScheduleView) -> Decision:
        decision = self.policy.decide(view)
        expected = said(self.reference.decide(view))
        assert said(decision) == expected, f"at {view.now}: {decision}"
        self.decisions += 1
        self.switches += isinstance(decision, Switch)
        return decision

    def admit(self, view: IScheduleView, request: WaitingRequest) -> bool:
        admits = self.policy.admit(view, request)
        assert admits is self.reference.admit(view, request), f"at {view.now}"
        return admits

    def estimates(self) -> Iterable[Estimate]:
        return ()


TRACES: dict[str, Callable[[], Trace]] = {
    "balanced": partial(open_loop, 11, 0.05, [0.5, 0.5], horizon=2 * HOUR),
    "zipf": partial(open_loop, 12, 0.3, zipf(4), horizon=HOUR),
    "skewed, heavy": partial(open_loop, 13, 0.8, [0.9, 0.1], horizon=HOUR / 2),
    "overload": partial(open_loop, 14, 1.1, zipf(4), horizon=HOUR / 2),
    "bursts": partial(open_loop, 15, 0.15, [1 / 3] * 3, bursts=True, horizon=HOUR),
    "agents": partial(agents, 16, 8, 4, (2.0, 30.0), loyalty=0.8, horizon=HOUR),
    "loyal agents": partial(agents, 17, 16, 4, (1.0, 3.0), horizon=HOUR),
    "batches": partial(batches, 18, 60.0, 20, 3, horizon=HOUR),
    "mooncake": lambda: mooncake(19, 0.15, HOUR)[0],
    "mooncake agents": partial(mooncake_agents, 20, 16, (2.0, 10.0), HOUR),
}


@pytest.mark.parametrize("name", TRACES)
def test_each_decision_is_the_one_for_one_slot_where_costs_are_known(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = TRACES[name]()
    models = trace.models()
    both = Both(trace)
    costs = HookTimes(
        COST,
        sleeps=dict.fromkeys(models, 0.2 * COST),
        wakes=dict.fromkeys(models, 0.8 * COST),
    )
    run = Run(trace, both, models, costs, until=trace.requests[-1].sent + HOUR)
    run.go()
    assert b"llmux_policy_failures_total{" not in run.switcher.metrics.expose()
    assert both.switches > 10
    assert both.decisions > 100
