"""
Compare policies on families of invented traffic and on recorded traffic::

    python -m tests.benchmarks.scheduling [--seeds 1,2] [--only families|recorded]
        [--policy cost_aware:quantum=2]... [--every N] [--details]

Prints, for each regime, geometric means of the ratios to fifo, and the worst
of them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from multiprocessing import Pool

from llmux.app import build_policy
from llmux.interfaces import ISwitchPolicy
from llmux.policy.fifo import FifoPolicy
from llmux.simulate.figures import Figures, figures
from llmux.simulate.options import candidates
from llmux.simulate.run import Run
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace
from tests.benchmarks.scheduling.families import FAMILIES, REGIMES, SLOTS, Scenario
from tests.benchmarks.scheduling.recorded import RECORDED
from tests.benchmarks.scheduling.reference import ExhaustivePolicy

__all__ = ["Comparison", "compare", "main", "measure", "table"]

SHORTEST_WAIT = 0.01
"""Seconds; a scenario in which fifo's mean wait is less says nothing."""


@dataclass(frozen=True)
class Comparison:
    """One scenario under fifo and under another policy."""

    scenario: str
    regime: str
    policy: str
    mean: float
    p99: float
    throughput: float
    worst_model: float
    longest: float
    longest_under_fifo: float


def measure(scenario: Scenario, policy: ISwitchPolicy, trace: Trace, name: str) -> Figures:
    """The figures of one run."""
    pairs = {(a, b): s for (a, b), s in scenario.costs.items() if b is not None}
    costs = HookTimes(scenario.costs[None, None], pairs, scenario.jitter)
    record = Run(
        trace,
        policy,
        trace.models(),
        costs,
        slots=SLOTS,
        until=scenario.horizon,
        seed=scenario.seed,
    ).go()
    return figures(name, trace, record, scenario.warm_up)


def _policy(word: str, trace: Trace) -> ISwitchPolicy:
    if word == "exhaustive":
        return ExhaustivePolicy()
    [(_, config)] = candidates([word], None, trace)
    return build_policy(config)


def compare(scenario: Scenario, policies: Sequence[str]) -> list[Comparison]:
    """Each of the policies with fifo; nothing if fifo hardly ever made anybody wait."""
    trace = scenario.trace()
    if not trace.requests:
        return []
    fifo = measure(scenario, FifoPolicy(), trace, "fifo")
    if not fifo.wait_mean_s or fifo.wait_mean_s < SHORTEST_WAIT:
        return []
    compared = []
    for word in policies:
        other = measure(scenario, _policy(word, trace), trace, word)
        compared.append(
            Comparison(
                scenario.name,
                scenario.regime,
                word,
                _ratio(other.wait_mean_s, fifo.wait_mean_s),
                _ratio(other.wait_p99_s, fifo.wait_p99_s),
                _ratio(other.answered_per_s, fifo.answered_per_s),
                _ratio(other.worst_model_wait_mean_s, fifo.worst_model_wait_mean_s),
                other.wait_max_s or 0.0,
                fifo.wait_max_s or 0.0,
            )
        )
    return compared


def _ratio(one: float | None, other: float | None) -> float:
    return max(one or 0.0, 1e-3) / max(other or 0.0, 1e-3)


def _geometric_mean(values: Sequence[float]) -> float:
    return exp(sum(map(log, values)) / len(values))


def table(results: Sequence[Comparison]) -> Iterator[str]:
    """In Markdown."""
    yield (
        "| traffic | policy | runs | mean wait | (worst) | p99 | (worst) | answered | (least) "
        "| worst model | (worst) | longest wait, fifo's |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    policies = list(dict.fromkeys(result.policy for result in results))
    for regime in REGIMES:
        for policy in policies:
            some = [r for r in results if r.regime == regime and r.policy == policy]
            if not some:
                continue
            mean, p99, answered, model = (
                [getattr(r, what) for r in some]
                for what in ("mean", "p99", "throughput", "worst_model")
            )
            longest = max(r.longest for r in some)
            fifo = max(r.longest_under_fifo for r in some)
            yield (
                f"| {regime} | {policy} | {len(some)} "
                f"| {_geometric_mean(mean):.2f} | {max(mean):.2f} "
                f"| {_geometric_mean(p99):.2f} | {max(p99):.2f} "
                f"| {_geometric_mean(answered):.2f} | {min(answered):.2f} "
                f"| {_geometric_mean(model):.2f} | {max(model):.2f} "
                f"| {longest:.0f} s, {fifo:.0f} s |"
            )


def _scenarios(seed: int, only: str | None) -> list[Scenario]:
    chosen: list[Callable[[int], list[Scenario]]] = []
    if only != "recorded":
        chosen.append(FAMILIES)
    if only != "families":
        chosen.append(RECORDED)
    return [scenario for some in chosen for scenario in some(seed)]


def _job(job: tuple[int, str | None, int, tuple[str, ...]]) -> list[Comparison]:
    seed, only, number, policies = job
    return compare(_scenarios(seed, only)[number], policies)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scheduling")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--only", choices=("families", "recorded"))
    parser.add_argument("--policy", action="append", default=[])
    parser.add_argument("--every", type=int, default=1, help="take each N-th scenario only")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--details", action="store_true")
    options = parser.parse_args()
    policies = tuple(options.policy or ["exhaustive", "cost_aware"])
    jobs = [
        (seed, options.only, number, policies)
        for seed in map(int, options.seeds.split(","))
        for number in range(0, len(_scenarios(seed, options.only)), options.every)
    ]
    with Pool(options.processes, initializer=os.nice, initargs=(10,)) as pool:
        results = [one for some in pool.imap(_job, jobs) for one in some]
    print("\n".join(table(results)))
    if options.details:
        print()
        for result in results:
            print(
                f"{result.regime:12} {result.scenario:48} {result.policy:12} "
                f"mean {result.mean:.2f} p99 {result.p99:.2f} "
                f"answered {result.throughput:.2f} worst model {result.worst_model:.2f}"
            )


if __name__ == "__main__":
    main()
