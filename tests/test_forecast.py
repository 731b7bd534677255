"""These tests check forecasts of turns: ranges that hold, from a policy that gives them."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llmux.control import Pause
from llmux.interfaces import Forecast, HookKind, IForecaster, IScheduleView, PolicyContext
from llmux.policy.cost_aware import CostAwarePolicy, CostAwareSettings
from llmux.policy.fifo import FifoPolicy
from llmux.policy.turns import ENOUGH, FirstWaits, quantile_range
from tests.admin_world import AdminWorld
from tests.benchmarks.scheduling.families import FAMILIES
from tests.benchmarks.scheduling.forecasts import outcomes_of
from tests.world import World


def test_the_default_policy_forecasts_and_fifo_does_not() -> None:
    context = PolicyContext({"a": 1.0})
    assert verifyObject(IForecaster, CostAwarePolicy(context, CostAwareSettings()))
    assert not IForecaster.providedBy(FifoPolicy())


def test_nearly_all_of_what_is_to_come_lies_in_a_range_of_what_was() -> None:
    random = Random(1)
    hits = 0
    for _ in range(2000):
        past = sorted(random.lognormvariate(3, 1) for _ in range(20))
        low, high = quantile_range(past)
        hits += low <= random.lognormvariate(3, 1) <= high
    assert 0.88 <= hits / 2000 <= 0.97


def test_what_has_lasted_longer_is_compared_with_what_lasted_as_long() -> None:
    waits = FirstWaits()
    for number in range(60):
        waits.add("a", 1.0 + number * 37 % 60)
    fresh, late = waits.rest("a", 0.0), waits.rest("a", 40.0)
    assert fresh is not None
    assert late is not None
    assert fresh[1] > 55
    assert late[1] < 40
    assert waits.rest("a", 60.0 - ENOUGH / 2) is None
    assert waits.at_most("a", 10.0) == pytest.approx(80.0)
    assert waits.at_most("a", 200.0) == pytest.approx(200.0)


def test_a_model_that_is_not_known_yet_is_compared_with_all() -> None:
    waits = FirstWaits()
    assert waits.rest("a", 0.0) is None
    for _ in range(ENOUGH):
        waits.add("b", 10.0)
    rest = waits.rest("a", 0.0)
    assert rest is not None
    assert rest[0] <= 10.0 <= rest[1]


def test_ranges_reach_further_where_waits_grow() -> None:
    steady, growing = FirstWaits(), FirstWaits()
    for number in range(40):
        steady.add("a", 100.0)
        growing.add("a", 50.0 + 2.5 * number)
    assert (growing.rest("a", 0.0) or (0, 0))[1] > 1.2 * (steady.rest("a", 0.0) or (0, 0))[1]


@pytest.mark.parametrize(
    "name",
    [
        "balanced2 load 0.15 cost 5",
        "skewed2 load 0.45 cost unlike",
        "4 agents, 6 s, 4 models, loyal 1, cost 5",
    ],
)
def test_in_nine_cases_of_ten_the_turn_begins_within_the_range(name: str) -> None:
    """
    Two hours are simulated for each family; the benchmark C{scheduling.forecasts} has all
    families.
    """
    (scenario,) = [each for each in FAMILIES(1) if each.name == name]
    _, _, outcomes = outcomes_of(scenario)
    assert len(outcomes) > 100
    assert sum(each.holds for each in outcomes) / len(outcomes) >= 0.9


# -------------------------------------------------------------------- in the status


@implementer(IForecaster)
class _Prophet(FifoPolicy):
    """This policy forecasts what it is told to, or raises."""

    what: Any = ()

    def forecast(self, view: IScheduleView) -> Iterable[Forecast]:
        if isinstance(self.what, Exception):
            raise self.what
        return list(self.what)


def test_a_policy_that_raises_in_forecast_hurts_nobody(logged_failures: Any) -> None:
    policy = _Prophet()
    world = World(policy=lambda: policy)
    policy.what = [Forecast("a", 1, 2.0, 3.0)]
    world.switcher.start()
    world.advance(1)
    assert set(world.switcher.forecasts()) == {"a"}
    policy.what = RuntimeError("what do I know")
    assert world.switcher.forecasts() == {}
    assert len(logged_failures.flush(RuntimeError)) == 1
    policy.what = 7
    assert world.switcher.forecasts() == {}


def test_the_status_has_the_turn_of_a_model_that_is_waited_for() -> None:
    world = AdminWorld(policy={"name": "cost_aware"})
    world.hooks.script("mistral", HookKind.WAKE, 20.0)
    world.wake("llama")
    guard: list[Any] = []
    world.switcher.acquire("llama").addCallback(guard.append)
    world.switcher.acquire("mistral").addErrback(lambda failure: None)
    world.advance(1)
    llama, mistral = world.ask(world.main, "/llmux/status").json["models"]
    assert llama["turn"] is None
    low, high = mistral["turn"]["secs"]
    assert 0 <= low < high
    assert mistral["turn"]["position"] == 1
    assert "waited for as long as anybody may" in mistral["turn"]["because"]
    world.control.pause = Pause()
    assert world.ask(world.main, "/llmux/status").json["models"][1]["turn"] is None
    fifo = AdminWorld()
    fifo.hooks.script("llama", HookKind.WAKE, 20.0)
    fifo.switcher.acquire("llama").addErrback(lambda failure: None)
    fifo.advance(1)
    assert fifo.ask(fifo.main, "/llmux/status").json["models"][0]["turn"] is None
