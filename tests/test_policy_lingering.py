"""
These tests check what lingering is worth: waits with C{cost_aware}, over waits with C{fifo}.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from llmux.simulate.trace import Trace
from tests.benchmarks.scheduling.__main__ import compare
from tests.benchmarks.scheduling.comparison import Comparison
from tests.benchmarks.scheduling.families import Scenario, agents, open_loop

pytestmark = pytest.mark.own_cpu("simulates")


def compared(trace: Callable[[], Trace], cost: float) -> Comparison:
    """Compare policies in two hours of a trace, where a switch takes C{cost} seconds."""
    [comparison] = compare(Scenario("", "", trace, {(None, None): cost}), ["cost_aware"])
    return comparison


@pytest.mark.parametrize("loyalty", [0.0, 0.6, 0.9])
def test_an_agent_that_is_alone_waits_no_longer_than_with_fifo(loyalty: float) -> None:
    trace = partial(agents, 3, 1, 3, (2.0, 10.0), loyalty=loyalty)
    assert compared(trace, 15.0).mean <= 1.02


def test_light_traffic_is_not_lingered_for() -> None:
    """Nine tenths of the requests are for one model, but they come by chance."""
    trace = partial(open_loop, 1, 0.05, [0.9, 0.1])
    assert compared(trace, 45.0).p99 <= 1.1


def test_agents_are_lingered_for() -> None:
    trace = partial(agents, 1, 2, 2, (2.0, 30.0))
    assert compared(trace, 45.0).throughput >= 1.2
