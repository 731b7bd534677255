"""This module compares policies on machines where several models fit, and writes the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from llmux.interfaces import ISwitchPolicy, PolicyContext
from llmux.policy.catalog import find_policy
from llmux.simulate.figures import Figures, figures
from llmux.simulate.options import candidates
from llmux.simulate.run import Run
from llmux.simulate.trace import Trace
from llmux.switching.facts.settings import ModelSettings
from tests.benchmarks.scheduling.comparison import Comparison, compared, geometric_mean
from tests.benchmarks.scheduling.families import SLOTS
from tests.benchmarks.scheduling.topologies import (
    MACHINE_REGIMES,
    MACHINES,
    MachineScenario,
)

__all__ = ["build_on_machine", "compare_on_machine", "machine_tables", "measure_on_machine"]


def build_on_machine(word: str, scenario: MachineScenario, trace: Trace) -> ISwitchPolicy:
    """Make the policy that a word of C{--policy} names, for the machine of a scenario."""
    machine = scenario.topology
    [(_, config)] = candidates([word], None, trace)
    context = PolicyContext(
        weights=dict.fromkeys(machine.models, 1.0),
        resources=machine.resources,
        places={name: shape.places for name, shape in machine.models.items()},
    )
    factory = find_policy(config.policy.name)
    policy: ISwitchPolicy = factory.build(context, config.policy.settings)
    return policy


def measure_on_machine(
    scenario: MachineScenario, policy: ISwitchPolicy, trace: Trace, name: str
) -> Figures:
    """Run a scenario under a policy, and return the figures."""
    machine = scenario.topology
    record = Run(
        trace,
        policy,
        {name: ModelSettings(inf, places=m.places) for name, m in machine.models.items()},
        machine.costs(scenario.switch),
        slots=SLOTS,
        until=scenario.horizon,
        seed=scenario.seed,
        resources=machine.resources,
    ).go()
    return figures(name, trace, record, scenario.warm_up)


def compare_on_machine(scenario: MachineScenario, policies: Sequence[str]) -> list[Comparison]:
    """Compare each of the policies with fifo."""
    trace = scenario.trace()
    fifo = measure_on_machine(
        scenario, build_on_machine("fifo", scenario, trace), trace, "fifo"
    )
    return [
        compared(
            scenario.name,
            scenario.regime,
            fifo,
            measure_on_machine(scenario, build_on_machine(word, scenario, trace), trace, word),
            topology=scenario.topology.name,
        )
        for word in policies
    ]


def machine_tables(results: Sequence[Comparison]) -> Iterator[str]:
    """
    Write the tables in Markdown: a table by regimes and a table by machines, with a column for
    each policy.  A cell is mean / p99 / worst model's mean / answered (longest wait).
    """
    policies = list(dict.fromkeys(result.policy for result in results))
    yield "| traffic | " + " | ".join(policies) + " | `fifo`'s longest |"
    yield "|---" * (len(policies) + 2) + "|"
    for regime in MACHINE_REGIMES:
        some = [result for result in results if result.regime == regime]
        if some:
            cells = [_cell([r for r in some if r.policy == policy]) for policy in policies]
            longest = max(result.longest_under_fifo for result in some)
            yield f"| {regime} | " + " | ".join(cells) + f" | {longest:.0f} s |"
    yield ""
    titles = [f"{policy}, {what}" for policy in policies for what in _KINDS]
    yield "| machine | " + " | ".join(titles) + " |"
    yield "|---" * (len(titles) + 1) + "|"
    for machine in MACHINES:
        some = [result for result in results if result.topology == machine.name]
        if not some:
            continue
        cells = []
        for policy in policies:
            for kind in _KINDS:
                cells.append(
                    _cell(
                        [
                            result
                            for result in some
                            if result.policy == policy and _kind(result) == kind
                        ]
                    )
                )
        yield f"| {machine.name} | " + " | ".join(cells) + " |"


_KINDS = ("open loop", "agents", "loyal agents")


def _kind(result: Comparison) -> str:
    """Return the column of the table by machines to which a result belongs."""
    return result.regime if result.regime in _KINDS else "open loop"


def _cell(some: Sequence[Comparison]) -> str:
    if not some:
        return "-"
    figures = "/".join(
        f"{geometric_mean([getattr(result, what) for result in some]):.2f}"
        for what in ("mean", "p99", "worst_model", "throughput")
    )
    return f"{figures} ({max(result.longest for result in some):.0f} s)"
