"""
This module lists every measurement, by name, with the contestants for which it makes sense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.bench import Bench, Figures
from tests.benchmarks.contestants import Contestant
from tests.benchmarks.serving import bodies, crowd, huge, latency, plain, start, streams, varied
from tests.benchmarks.waiting import elsewhere, models, switch, waiters

__all__ = ["MEASUREMENTS", "Measurement"]


@dataclass(frozen=True)
class Measurement:
    """
    A measurement has a name, and a function that returns its figures.

    @ivar measures: a function that tells whether the measurement makes sense for a contestant.
    """

    name: str
    run: Callable[[Bench, Contestant], Figures]
    measures: Callable[[Contestant], bool]


def _all(contestant: Contestant) -> bool:
    return True


def _switching(contestant: Contestant) -> bool:
    return contestant.switches


def _ours(contestant: Contestant) -> bool:
    return contestant.ours


MEASUREMENTS = [
    Measurement("plain", plain, _all),
    Measurement("varied", varied, _all),
    Measurement("crowd", crowd, _all),
    Measurement("streams", streams, _all),
    Measurement("latency", latency, _all),
    Measurement("switch", switch, _switching),
    Measurement("bodies", bodies, _all),
    Measurement("waiters", waiters, _switching),
    Measurement("start", start, _all),
    Measurement("models", models, _ours),
    Measurement("elsewhere", elsewhere, _ours),
    Measurement("huge", huge, _ours),
]
