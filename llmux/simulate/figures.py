"""The figures of a run: waits, switches, shares of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isnan

from llmux.simulate.lanes import shares_of_time
from llmux.simulate.run import Mode, Record
from llmux.simulate.trace import Trace

__all__ = ["Figures", "figures", "percentile"]


@dataclass(frozen=True)
class Figures:
    """
    The figures of one run, in seconds: of the time from the end of the warm-up to the
    end of the run, and of the requests that were sent in that time or waited in it.
    A figure is None where there is nothing to tell.

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
    switches: int
    switches_per_hour: float | None
    serving_share: float | None
    draining_share: float | None
    switching_share: float | None
    idle_share: float | None
    answered_per_s: float | None


def percentile(ordered: Sequence[float], part: float) -> float:
    """
    The least of the sorted values such that the share C{part} of all values do not
    exceed that one (nearest rank).
    """
    return ordered[max(0, ceil(part * len(ordered)) - 1)]


def figures(policy: str, trace: Trace, record: Record, warm_up: float = 0.0) -> Figures:
    """
    Compute the figures of a run.

    @param policy: the name to give to the policy.
    @param warm_up: the seconds from the beginning that do not count.
    """
    waits: list[float] = []
    per_model: dict[str, list[float]] = {}
    answered = gave_up = 0
    for number, sent in enumerate(record.sent):
        if isnan(sent):
            continue
        began, left = record.began[number], record.left[number]
        until = began if not isnan(began) else left if not isnan(left) else record.ended
        if sent < warm_up and until <= warm_up:
            continue
        waits.append(until - sent)
        per_model.setdefault(trace.requests[number].model, []).append(until - sent)
        answered += not isnan(record.answered[number])
        gave_up += not isnan(left)
    waits.sort()
    seconds = record.ended - warm_up
    shares = shares_of_time(record, warm_up) if seconds > 0 else None
    switches = sum(when >= warm_up for when, _ in record.woken)

    def share(mode: Mode) -> float | None:
        return None if shares is None else shares[mode]

    def at(part: float) -> float | None:
        return percentile(waits, part) if waits else None

    return Figures(
        policy=policy,
        requests=len(waits),
        answered=answered,
        gave_up=gave_up,
        wait_mean_s=sum(waits) / len(waits) if waits else None,
        wait_p50_s=at(0.50),
        wait_p95_s=at(0.95),
        wait_p99_s=at(0.99),
        wait_max_s=waits[-1] if waits else None,
        worst_model_wait_mean_s=max(
            (sum(some) / len(some) for some in per_model.values()), default=None
        ),
        switches=switches,
        switches_per_hour=switches / seconds * 3600 if seconds > 0 else None,
        serving_share=share(Mode.SERVING),
        draining_share=share(Mode.DRAINING),
        switching_share=share(Mode.SWITCHING),
        idle_share=share(Mode.IDLE),
        answered_per_s=answered / seconds if seconds > 0 else None,
    )
