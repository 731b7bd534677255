"""
This program compares policies on invented and on recorded traffic, and prints README's tables::

    python -m tests.benchmarks.scheduling [--seeds 1,2] [--quick] [--every N] [--details]
        [--only families|recorded|machines] [--policy cost_aware:quantum=2]... [--readme]

With one model awake at a time: geometric means of the ratios to fifo, and the worst of
them, for each kind of traffic.  With several (C{--only machines}): the same for each kind of
traffic and for each machine.  C{--readme} prints what the README has of that.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from multiprocessing import Pool

from llmux.app import build_policy
from llmux.interfaces import ISwitchPolicy
from llmux.policy.fifo import FifoPolicy
from llmux.simulate.figures import Figures, figures
from llmux.simulate.options import candidates
from llmux.simulate.run import Run
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace
from tests.benchmarks.scheduling.comparison import Comparison, compared, geometric_mean
from tests.benchmarks.scheduling.families import FAMILIES, REGIMES, SLOTS, Scenario
from tests.benchmarks.scheduling.machines import compare_on_machine, machine_tables
from tests.benchmarks.scheduling.recorded import RECORDED
from tests.benchmarks.scheduling.reference import ExhaustivePolicy
from tests.benchmarks.scheduling.topologies import MachineScenario, machine_scenarios

__all__ = ["compare", "main", "measure", "table"]

SHORTEST_WAIT = 0.01
"""
Scenarios in which fifo's mean wait is less than so many seconds are left out, for they say
nothing.
"""


def measure(scenario: Scenario, policy: ISwitchPolicy, trace: Trace, name: str) -> Figures:
    """Run a scenario under a policy, and return the figures."""
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
    """
    Compare each of the policies with fifo; return nothing if fifo hardly ever made anybody
    wait.
    """
    trace = scenario.trace()
    if not trace.requests:
        return []
    fifo = measure(scenario, FifoPolicy(), trace, "fifo")
    if not fifo.wait_mean_s or fifo.wait_mean_s < SHORTEST_WAIT:
        return []
    return [
        compared(
            scenario.name,
            scenario.regime,
            fifo,
            measure(scenario, _policy(word, trace), trace, word),
        )
        for word in policies
    ]


def table(results: Sequence[Comparison]) -> Iterator[str]:
    """Write the table in Markdown, line by line."""
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
                f"| {geometric_mean(mean):.2f} | {max(mean):.2f} "
                f"| {geometric_mean(p99):.2f} | {max(p99):.2f} "
                f"| {geometric_mean(answered):.2f} | {min(answered):.2f} "
                f"| {geometric_mean(model):.2f} | {max(model):.2f} "
                f"| {longest:.0f} s, {fifo:.0f} s |"
            )


README_TITLES = {
    "idle": "next to none (load 0.002)",
    "light": "light (0.01 to 0.05)",
    "medium": "medium (0.15, 0.3)",
    "heavy": "heavy (0.45, 0.8)",
    "overload": "more than the GPU can carry (1.1)",
    "agents, 2 s": "agents that think for 2 s between reply and request",
    "agents, 6 s": "for 6 s",
    "agents, 16 s": "for 16 s",
}


def readme_table(results: Sequence[Comparison]) -> Iterator[str]:
    """
    Write the README's table for one model awake at a time, and its sentence about the other
    traffic.
    """
    yield "| traffic | mean wait | wait, 99 % under | answered |"
    yield "|---|---|---|---|"
    for regime, title in README_TITLES.items():
        some = [r for r in results if r.regime == regime and r.policy == "cost_aware"]
        if some:
            mean, p99, answered = (
                [getattr(r, what) for r in some] for what in ("mean", "p99", "throughput")
            )
            most = f", up to {max(answered):.1f}" if max(answered) > 1.5 else ""
            yield (
                f"| {title} | {geometric_mean(mean):.2f} ({max(mean):.2f}) "
                f"| {geometric_mean(p99):.2f} ({max(p99):.2f}) "
                f"| {geometric_mean(answered):.2f}{most} |"
            )
    for policy in sorted({r.policy for r in results} - {"cost_aware"}):
        yield ""
        yield f"{policy}:"
        for regime in README_TITLES:
            some = [r for r in results if r.regime == regime and r.policy == policy]
            if some:
                mean, p99 = ([getattr(r, what) for r in some] for what in ("mean", "p99"))
                answered = [r.throughput for r in some]
                yield (
                    f"- {regime}: {geometric_mean(mean):.2f} ({max(mean):.2g}), "
                    f"{geometric_mean(p99):.2f} ({max(p99):.2g}), "
                    f"{geometric_mean(answered):.2f}"
                )


@lru_cache(maxsize=1)
def _scenarios(seed: int, only: str | None, quick: bool) -> list[Scenario | MachineScenario]:
    chosen: list[Callable[[int], Sequence[Scenario | MachineScenario]]] = []
    if only in (None, "families"):
        chosen.append(FAMILIES)
    if only in (None, "recorded"):
        chosen.append(RECORDED)
    scenarios = [scenario for some in chosen for scenario in some(seed)]
    if quick:
        scenarios = scenarios[::20]
    if only in (None, "machines"):
        scenarios += machine_scenarios(seed, quick=quick)
    return scenarios


_Job = tuple[int, str | None, bool, int, tuple[str, ...]]


def _run(job: _Job) -> list[Comparison]:
    seed, only, quick, number, policies = job
    scenario = _scenarios(seed, only, quick)[number]
    if isinstance(scenario, MachineScenario):
        some = [word for word in policies if word != "exhaustive"]
        return compare_on_machine(scenario, some)
    return compare(scenario, policies)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scheduling")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--only", choices=("families", "recorded", "machines"))
    parser.add_argument("--policy", action="append", default=[])
    parser.add_argument("--quick", action="store_true", help="a small part: a minute or two")
    parser.add_argument("--every", type=int, default=1, help="take each N-th scenario only")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--details", action="store_true")
    parser.add_argument("--readme", action="store_true", help="print the README's tables")
    options = parser.parse_args()
    policies = tuple(options.policy or ["cost_aware", "lru"])
    jobs: list[_Job] = [
        (seed, options.only, options.quick, number, policies)
        for seed in map(int, options.seeds.split(","))
        for number in range(
            0, len(_scenarios(seed, options.only, options.quick)), options.every
        )
    ]
    with Pool(options.processes, initializer=os.nice, initargs=(10,)) as pool:
        results = [one for some in pool.imap(_run, jobs) for one in some]
    one_slot = [result for result in results if not result.topology]
    if one_slot:
        print("\n".join((readme_table if options.readme else table)(one_slot)))
    machines = [result for result in results if result.topology]
    if machines:
        print("\n".join([""] * bool(one_slot) + list(machine_tables(machines))))
    if options.details:
        print()
        for result in results:
            print(
                f"{result.regime:12} {result.scenario:48} {result.policy:12} "
                f"mean {result.mean:.2f} p99 {result.p99:.2f} "
                f"answered {result.throughput:.2f} worst model {result.worst_model:.2f} "
                f"longest {result.longest:.0f} s"
            )


if __name__ == "__main__":
    main()
