"""This module computes the figures of a run: waits, switches, shares of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isnan

from llmux.simulate.lanes import shares_of_time
from llmux.simulate.run import Mode, Record
from llmux.simulate.trace import Trace

__all__ = ["Figures", "figures", "figures_of", "percentile"]


@dataclass(frozen=True)
class Figures:
    """
    L{Figures} describe one run, in seconds: the time from the end of the warm-up to the end of
    the run, and the requests that were sent in that time or waited in it.  A figure is None if
    it cannot be computed.

    A request waits from when it is sent until its service begins, the request ends
    without an answer, or the run ends.  A request that was sent during the warm-up
    and waits when the warm-up ends counts with its whole wait: otherwise a policy that
    never serves some requests would look good.

    @ivar policy: the name of the policy.
    @ivar gave_up: the number of requests that ended without an answer.
    @ivar worst_model_wait_mean_s: the longest of the models' mean waits.
    @ivar switches: the number of wakes.
    @ivar serving_share: the share of the machine that was held by models that served; the
        four shares sum to 1.  See L{shares_of_time}.
    """

    policy: str
    requests: int
    answered: int
    gave_up: int
    wait_mean_s: float | None
    wait_p50_s: float | None
    wait_p95_s: float | None
    wait_p99_s: float | None
    wait_max_s: float | None
    worst_model_wait_mean_s: float | None
    switches: int | None
    switches_per_hour: float | None
    serving_share: float | None
    draining_share: float | None
    switching_share: float | None
    idle_share: float | None
    answered_per_s: float | None


def percentile(ordered: Sequence[float], part: float) -> float:
    """
    Return the least of the sorted values such that the share C{part} of all values is not
    greater than it (the nearest-rank method).
    """
    return ordered[max(0, ceil(part * len(ordered)) - 1)]


def figures(policy: str, trace: Trace, record: Record, warm_up: float = 0.0) -> Figures:
    """
    Compute the figures of a run.

    @param policy: the name to give to the policy.
    @param warm_up: the seconds from the beginning that do not count.
    """
    waits: list[tuple[str, float]] = []
    answered = gave_up = 0
    for number, sent in enumerate(record.sent):
        if isnan(sent):
            continue
        began, left = record.began[number], record.left[number]
        until = began if not isnan(began) else left if not isnan(left) else record.ended
        if sent < warm_up and until <= warm_up:
            continue
        waits.append((trace.requests[number].model, until - sent))
        answered += not isnan(record.answered[number])
        gave_up += not isnan(left)
    seconds = record.ended - warm_up
    return figures_of(
        policy,
        waits,
        answered=answered,
        gave_up=gave_up,
        switches=sum(when >= warm_up for when, _ in record.woken),
        seconds=seconds,
        shares=shares_of_time(record, warm_up) if seconds > 0 else None,
    )


def figures_of(
    policy: str,
    waits: Sequence[tuple[str, float]],
    *,
    answered: int,
    gave_up: int,
    switches: int | None,
    seconds: float,
    shares: Mapping[Mode, float] | None = None,
) -> Figures:
    """
    Compute the figures of some requests.

    @param waits: for each request its model, and how long it waited.
    @param switches: the number of wakes, if known.
    @param seconds: the time that the figures are of.
    @param shares: the shares of that time, if known.
    """
    per_model: dict[str, list[float]] = {}
    for model, wait in waits:
        per_model.setdefault(model, []).append(wait)
    ordered = sorted(wait for _, wait in waits)

    def share(mode: Mode) -> float | None:
        return None if shares is None else shares[mode]

    def at(part: float) -> float | None:
        return percentile(ordered, part) if ordered else None

    return Figures(
        policy=policy,
        requests=len(ordered),
        answered=answered,
        gave_up=gave_up,
        wait_mean_s=sum(ordered) / len(ordered) if ordered else None,
        wait_p50_s=at(0.50),
        wait_p95_s=at(0.95),
        wait_p99_s=at(0.99),
        wait_max_s=ordered[-1] if ordered else None,
        worst_model_wait_mean_s=max(
            (sum(some) / len(some) for some in per_model.values()), default=None
        ),
        switches=switches,
        switches_per_hour=(
            switches / seconds * 3600 if switches is not None and seconds > 0 else None
        ),
        serving_share=share(Mode.SERVING),
        draining_share=share(Mode.DRAINING),
        switching_share=share(Mode.SWITCHING),
        idle_share=share(Mode.IDLE),
        answered_per_s=answered / seconds if seconds > 0 else None,
    )
