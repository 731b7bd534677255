"""
This module reads from a request log what the log says of the machine that it was recorded on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from llmux.simulate.figures import Figures, figures_of
from llmux.simulate.trace import Trace, TraceRequest

__all__ = ["RecordedCosts", "recorded_costs", "recorded_figures", "recorded_slots"]

SLEEP_PART = 0.25
"""If no sleep was recorded, a sleep hook is assumed to take this part of a wake hook's time."""


@dataclass(frozen=True)
class RecordedCosts:
    """
    L{RecordedCosts} are the mean times that hooks took, in seconds.

    @ivar sleeps: the seconds of each model's sleep hook.
    @ivar wakes: the seconds of each model's wake hook.
    @ivar switches: the number of switches that were recorded.
    @ivar guessed: the models of which one of the two was not recorded, and for which the mean
        of the others is used.
    """

    sleeps: Mapping[str, float]
    wakes: Mapping[str, float]
    switches: int
    guessed: Sequence[str]


def recorded_costs(trace: Trace, models: Sequence[str]) -> RecordedCosts | None:
    """
    Return the costs of switches that a trace records; None if it records no wake.

    @param models: the models that need costs.
    """
    sleeps: dict[str, list[float]] = {}
    wakes: dict[str, list[float]] = {}
    for switch in trace.switches:
        if switch.model is not None and switch.wake is not None:
            wakes.setdefault(switch.model, []).append(switch.wake)
        for name, seconds in switch.sleeps.items():
            sleeps.setdefault(name, []).append(seconds)
    if not wakes:
        return None
    mean_wakes = {name: fmean(some) for name, some in wakes.items()}
    mean_sleeps = {name: fmean(some) for name, some in sleeps.items()}
    wake = fmean(mean_wakes.values())
    sleep = fmean(mean_sleeps.values()) if mean_sleeps else wake * SLEEP_PART
    return RecordedCosts(
        {name: mean_sleeps.get(name, sleep) for name in models},
        {name: mean_wakes.get(name, wake) for name in models},
        sum(map(len, wakes.values())),
        [name for name in models if name not in mean_sleeps or name not in mean_wakes],
    )


def recorded_slots(trace: Trace) -> int | None:
    """
    Return the largest number of requests that one model was recorded to have in flight at a
    time; None if the trace does not say when requests were forwarded.
    """
    changes: dict[str, list[tuple[float, int]]] = {}
    for request in trace.requests:
        if request.waited is None or request.left:
            continue
        begin = request.sent + request.waited
        changes.setdefault(request.model, []).extend(
            ((begin, 1), (begin + request.service, -1))
        )
    most = 0
    for some in changes.values():
        in_flight = 0
        # At the same time, requests that end come before requests that begin.
        for _, change in sorted(some):
            in_flight += change
            most = max(most, in_flight)
    return most or None


def recorded_figures(trace: Trace, warm_up: float, until: float) -> Figures | None:
    """
    Return the figures of what was recorded, with C{recorded} as the policy's name; None if the
    trace does not say how long requests waited.  L{Figures} explains them.

    @param warm_up: the seconds from the beginning that do not count.
    @param until: the second after which nothing counts.
    """
    some = [r for r in trace.requests if r.waited is not None and r.sent <= until]
    if not some:
        return None
    switches = [s.time for s in trace.switches if s.model is not None]
    ended = min(until, max([*map(_end, some), *switches]))
    waits: list[tuple[str, float]] = []
    answered = gave_up = 0
    for request in some:
        assert request.waited is not None
        began = request.sent + request.waited
        if request.sent < warm_up and began <= warm_up:
            continue
        waits.append((request.model, min(began, ended) - request.sent))
        if _end(request) <= ended:
            answered += request.answered
            gave_up += not request.answered
    return figures_of(
        "recorded",
        waits,
        answered=answered,
        gave_up=gave_up,
        switches=sum(warm_up <= time <= ended for time in switches) if trace.switches else None,
        seconds=ended - warm_up,
    )


def _end(request: TraceRequest) -> float:
    """Return the time when the request was answered, or left."""
    return request.sent + (request.waited or 0.0) + (0.0 if request.left else request.service)
