"""This module compares one scenario under two policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from llmux.simulate.figures import Figures

__all__ = ["Comparison", "compared", "geometric_mean"]


@dataclass(frozen=True)
class Comparison:
    """
    A comparison is one scenario under fifo and under another policy.

    @ivar topology: the name of the machine; empty for one slot.
    """

    scenario: str
    regime: str
    policy: str
    mean: float
    p99: float
    throughput: float
    worst_model: float
    longest: float
    longest_under_fifo: float
    topology: str = ""


def compared(
    scenario: str, regime: str, fifo: Figures, other: Figures, topology: str = ""
) -> Comparison:
    """Compute the ratios of another policy's figures to fifo's."""
    return Comparison(
        scenario,
        regime,
        other.policy,
        _ratio(other.wait_mean_s, fifo.wait_mean_s),
        _ratio(other.wait_p99_s, fifo.wait_p99_s),
        _ratio(other.answered_per_s, fifo.answered_per_s),
        _ratio(other.worst_model_wait_mean_s, fifo.worst_model_wait_mean_s),
        other.wait_max_s or 0.0,
        fifo.wait_max_s or 0.0,
        topology,
    )


def _ratio(one: float | None, other: float | None) -> float:
    return max(one or 0.0, 1e-3) / max(other or 0.0, 1e-3)


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of values above 0."""
    return exp(sum(map(log, values)) / len(values))
