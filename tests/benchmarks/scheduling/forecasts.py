"""
This program measures how honest forecasts of turns are::

    python -m tests.benchmarks.scheduling.forecasts [--seeds 1,2] [--every N] [--machines]

In each family a forecast is taken whenever a model begins to be waited for, and each
C{INTERVAL} seconds while somebody waits.  A forecast holds if the model's waiters get their
turn within the range.  The width of the range is printed in seconds, and in waits that were
still to come.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from math import inf
from multiprocessing import Pool
from statistics import median
from typing import NamedTuple

from llmux.app import build_policy
from llmux.interfaces import Arrived, Forecast, Forwarded, ISwitchPolicy, PolicyEvent, Woke
from llmux.simulate.options import candidates
from llmux.simulate.run import Run
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace
from llmux.switching.facts.settings import ModelSettings
from tests.benchmarks.scheduling.families import FAMILIES, REGIMES, SLOTS, Scenario
from tests.benchmarks.scheduling.machines import build_on_machine
from tests.benchmarks.scheduling.topologies import (
    MACHINE_REGIMES,
    MachineScenario,
    machine_scenarios,
)

INTERVAL = 7.0


class Outcome(NamedTuple):
    """
    An outcome is what became of one forecast.

    @ivar rest: the seconds until the turn.
    """

    low: float
    high: float
    rest: float
    is_first: bool

    @property
    def holds(self) -> bool:
        """Tell whether the turn began within the range."""
        return self.low <= self.rest <= self.high


class ForecastLog:
    """A forecast log takes forecasts of one run, and notes what becomes of them."""

    def __init__(self, run: Run, warm_up: float) -> None:
        self.outcomes: list[Outcome] = []
        self._run = run
        self._clock = run.switcher.clock
        self._warm_up = warm_up
        self._open: dict[str, list[tuple[float, Forecast, bool]]] = {}
        self._waits: dict[str, int] = {}
        run.switcher.add_observer(self._observe)
        self._clock.callLater(INTERVAL, self._again)

    def _observe(self, event: PolicyEvent) -> None:
        if isinstance(event, Arrived):
            if not self._run.switcher.models[event.model].waiting:
                self._clock.callLater(0.0, self._take, event.model)
        elif isinstance(event, Woke) or (isinstance(event, Forwarded) and event.waited):
            for at, forecast, is_first in self._open.pop(event.model, ()):
                rest = event.now - at
                self.outcomes.append(Outcome(forecast.low, forecast.high, rest, is_first))

    def _again(self) -> None:
        self._clock.callLater(INTERVAL, self._again)
        self._take(None)

    def _take(self, only: str | None) -> None:
        now = self._clock.seconds()
        models = self._run.switcher.models
        for name in list(self._open):
            if not models[name].waiting:
                # All waiters have left.
                del self._open[name]
        if now < self._warm_up or not any(model.waiting for model in models.values()):
            return
        for name, forecast in self._run.switcher.forecasts().items():
            if only in (None, name):
                self._open.setdefault(name, []).append((now, forecast, only is not None))


def _cost_aware(trace: Trace) -> ISwitchPolicy:
    [(_, config)] = candidates(["cost_aware"], None, trace)
    return build_policy(config)


def outcomes_of(scenario: Scenario) -> tuple[str, str, list[Outcome]]:
    """Return the outcomes of one scenario."""
    trace = scenario.trace()
    if not trace.requests:
        return scenario.name, scenario.regime, []
    pairs = {(a, b): s for (a, b), s in scenario.costs.items() if b is not None}
    costs = HookTimes(scenario.costs[None, None], pairs, scenario.jitter)
    run = Run(
        trace,
        _cost_aware(trace),
        trace.models(),
        costs,
        slots=SLOTS,
        until=scenario.horizon if scenario.horizon < inf else 7200.0,
        seed=scenario.seed,
    )
    seen = ForecastLog(run, scenario.warm_up)
    run.go()
    return scenario.name, scenario.regime, seen.outcomes


def outcomes_on_machine(scenario: MachineScenario) -> tuple[str, str, list[Outcome]]:
    """Return the outcomes of one scenario with several models awake."""
    machine, trace = scenario.topology, scenario.trace()
    run = Run(
        trace,
        build_on_machine("cost_aware", scenario, trace),
        {name: ModelSettings(inf, places=m.places) for name, m in machine.models.items()},
        machine.costs(scenario.switch),
        slots=SLOTS,
        until=scenario.horizon,
        seed=scenario.seed,
        resources=machine.resources,
    )
    seen = ForecastLog(run, scenario.warm_up)
    run.go()
    return scenario.name, scenario.regime, seen.outcomes


def line(name: str, outcomes: Sequence[Outcome]) -> str:
    """Write one row of the table."""
    if not outcomes:
        return f"{name:12} none"
    holds = sum(each.holds for each in outcomes) / len(outcomes)
    early = sum(each.rest < each.low for each in outcomes) / len(outcomes)
    late = sum(each.rest > each.high for each in outcomes) / len(outcomes)
    width = median(each.high - each.low for each in outcomes)
    rest = median(each.rest for each in outcomes)
    return (
        f"{name:12} {len(outcomes):7} {holds:6.1%} {early:6.1%} {late:6.1%} "
        f"{width:8.1f} s {rest:8.1f} s"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure how honest forecasts of turns are.")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--every", type=int, default=1, help="each Nth scenario only")
    parser.add_argument("--details", action="store_true", help="a row for each scenario")
    parser.add_argument("--machines", action="store_true", help="several models awake")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    with Pool(min(2, os.cpu_count() or 1)) as pool:
        if options.machines:
            machines = [one for seed in seeds for one in machine_scenarios(seed)]
            results = pool.map(outcomes_on_machine, machines[:: options.every], chunksize=1)
        else:
            families = [one for seed in seeds for one in FAMILIES(seed)]
            results = pool.map(outcomes_of, families[:: options.every], chunksize=1)
    print("traffic        taken  holds  early   late      width       rest  (medians)")
    if options.details:
        for name, _, outcomes in results:
            print(line(name[:40], outcomes))
    for regime in MACHINE_REGIMES if options.machines else REGIMES:
        print(line(regime, [o for _, r, found in results if r == regime for o in found]))
    print(line("all", [o for _, _, found in results for o in found]))


if __name__ == "__main__":
    main()
