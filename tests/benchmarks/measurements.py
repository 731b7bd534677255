"""Every measurement, by name, and whom it makes sense for."""

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
    @ivar measures: which contestants it makes sense for.
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
