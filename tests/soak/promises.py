"""This module compares what clients saw with what servers and hooks wrote down."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.soak.clients import ASLEEP, Outcome
from tests.soak.episode import Episode

__all__ = ["check_promises"]

_SECOND = 10**9

_TOLERANCE = _SECOND // 2
"""
A request that went out just before a sleep hook began may be read so many nanoseconds later.
"""

_NOTICED = 15 * _SECOND
"""After so many nanoseconds llmux knows that a server that answers has lost its model."""

_OF_NO_MODEL = ("408", "413", "507")
"""
Requests with these statuses are refused before the model's name is read: no model's counter has
them.
"""

_WAIT_SLACK = 12.0
"""A reply may come so many seconds after request_timeout_secs, since the machine is busy."""


class Line(NamedTuple):
    at: int
    what: str
    model: str
    who: str


def read_truth(path: Path) -> list[Line]:
    """Read what servers and hooks wrote, in the order of time."""
    lines = []
    for text in path.read_text(errors="replace").splitlines():
        words = text.split(" ", 3)
        if len(words) == 4 and words[0].isdigit():
            lines.append(Line(int(words[0]), *words[1:]))
    return sorted(lines, key=lambda line: line.at)


def check_promises(episode: Episode) -> None:
    """Add the broken promises to the episode's violations."""
    truth = read_truth(episode.directory / "truth")
    episode.figures["switches"] += sum(line.what == "sleep-begin" for line in truth)
    by_nonce: dict[str, list[Line]] = defaultdict(list)
    for line in truth:
        if line.what in ("begin", "first", "end", "asleep", "crashed", "broke", "died"):
            by_nonce[line.who].append(line)
    _two_awake(episode, truth)
    _executions(episode, by_nonce)
    _sleeps(episode, truth, by_nonce)
    _outcomes(episode, by_nonce)
    _counters(episode)


def _faults_in(
    episode: Episode, start: int, end: int, which: Callable[[str, str], bool]
) -> bool:
    return any(
        start - _SECOND <= at <= end and which(what, whom) for at, what, whom in episode.faults
    )


def _killed(episode: Episode, model: str, start: int, end: int) -> bool:
    return _faults_in(
        episode, start, end, lambda what, whom: what == "kill -9 of a server" and whom == model
    )


def _restarted(episode: Episode, start: int, end: int) -> bool:
    """Tell whether the daemon was not there for a part of this time, or was stopping."""
    gaps = zip(episode.lives[:-1], episode.lives[1:], strict=True)
    return any(
        start <= after.up and (before.told or before.ended) <= end for before, after in gaps
    )


def _two_awake(episode: Episode, truth: list[Line]) -> None:
    for i, line in enumerate(truth):
        if line.what == "TWO":
            before = [
                f"{(x.at - line.at) / 1e9:.2f} {x.what} {x.model} {x.who}"
                for x in truth[max(0, i - 400) : i + 1]
                if not x.what.startswith(("begin", "first", "end", "asleep"))
            ]
            killed = _faults_in(
                episode,
                line.at - 12 * _SECOND,
                line.at,
                lambda what, _: what == "kill -9 of the daemon",
            )
            after = " soon after kill -9 of the daemon" if killed else ""
            episode.broken(f"two models awake{after}", "\n".join(before[-40:]), line.at)


def _executions(episode: Episode, by_nonce: dict[str, list[Line]]) -> None:
    for lines in by_nonce.values():
        begins = [line for line in lines if line.what == "begin"]
        if len(begins) > 1:
            episode.figures["begun anew"] += 1
        if len(begins) > 2:
            episode.broken("begun more than twice", repr(lines), begins[2].at)
        for begin, following in pairwise(begins):
            first = [x for x in lines if x.what == "first" and begin.at < x.at < following.at]
            if first and not _killed(episode, begin.model, begin.at, following.at):
                episode.broken("begun anew after a byte of reply", repr(lines), following.at)


def _sleeps(episode: Episode, truth: list[Line], by_nonce: dict[str, list[Line]]) -> None:
    """
    Check that no sleep hook runs beside a request, and that no request comes after a sleep hook
    has begun.
    """
    sleeps: dict[str, list[int]] = defaultdict(list)
    wakes: dict[str, list[int]] = defaultdict(list)
    for line in truth:
        if line.what == "sleep-begin":
            sleeps[line.model].append(line.at)
        elif line.what == "wake-begin":
            wakes[line.model].append(line.at)
    stopped = episode.stopped
    for outcome in episode.outcomes:
        lines = by_nonce.get(outcome.nonce, [])
        begins = [line for line in lines if line.what == "begin"]
        ends = [line for line in lines if line.what == "end"]
        if not outcome.stayed or not begins:
            continue
        begin = begins[-1].at
        asleep = [line for line in lines if line.what == "asleep"]
        halted = any(a - _SECOND < begin < b + _SECOND for a, b in stopped)
        number = bisect_right(sleeps[outcome.model], begin)
        last_sleep = sleeps[outcome.model][number - 1] if number else 0
        woken = bisect_right(wakes[outcome.model], begin)
        last_wake = wakes[outcome.model][woken - 1] if woken else 0
        restarted = _restarted(episode, last_sleep, begin)
        lost = _lost(episode, truth, outcome.model, last_wake, begin)
        # A large body takes its time, and is written down once it is there.
        tolerance = _TOLERANCE + 2 * _SECOND * outcome.size // 10**6
        just_missed = not episode.draining and begin - last_sleep < tolerance
        if asleep and not just_missed and not lost:
            episode.broken(
                "a request to a model that sleeps",
                f"{outcome.nonce}: {(begin - last_sleep) / 1e9:.3f} s after sleep-begin, "
                f"{(begin - last_wake) / 1e9:.3f} s after wake-begin",
                begin,
            )
        if (
            last_sleep > last_wake
            and not halted
            and not restarted
            and begin - last_sleep > (0 if episode.draining else tolerance)
            and not _sleep_failed(truth, outcome.model, last_sleep, begin)
        ):
            episode.broken(
                "a request after the begin of sleep",
                f"{outcome.nonce}: {(begin - last_sleep) / 1e9:.3f} s after sleep-begin",
                begin,
            )
        if outcome.whole and outcome.status == 200 and ends and episode.draining:
            for at in sleeps[outcome.model][number : number + 1]:
                if at < ends[-1].at and outcome.last_life == outcome.life:
                    episode.broken(
                        "a sleep hook with a request in flight",
                        f"{outcome.nonce} began {(at - begin) / 1e9:.3f} s before, ended "
                        f"{(ends[-1].at - at) / 1e9:.3f} s after",
                        at,
                    )


def _lost(episode: Episode, truth: list[Line], model: str, woken: int, now: int) -> bool:
    """
    Tell whether the server has died since it woke, and somebody else has started it again,
    asleep: llmux learns that from its replies of 500, within some seconds.
    """
    deaths = [line.at for line in truth if line.what == "died" and line.model == model]
    deaths += [
        at
        for at, what, whom in episode.faults
        if what == "kill -9 of a server" and whom == model
    ]
    return any(woken < at < now < at + _NOTICED for at in deaths)


def _sleep_failed(truth: list[Line], model: str, start: int, end: int) -> bool:
    """
    Tell whether alive was asked after this sleep hook: it had failed or was cut short, and a
    model whose alive says yes is served on.
    """
    return any(
        start < line.at < end and line.model == model and line.what == "alive-begin"
        for line in truth
    )


def _outcomes(episode: Episode, by_nonce: dict[str, list[Line]]) -> None:
    for outcome in episode.outcomes:
        if not outcome.stayed:
            continue
        if outcome.problem == ASLEEP:
            # These are looked at above, with what the servers know.
            continue
        if outcome.problem:
            kind = outcome.problem.partition(":")[0]
            if kind == "503 without Retry-After":
                kind = outcome.problem
            episode.broken(kind, f"{outcome.nonce}: {outcome.problem}", outcome.ended)
            continue
        waited = (outcome.ended - outcome.began) / 1e9
        limit = episode.request_timeout
        if limit is not None and waited > 2 * limit + _WAIT_SLACK:
            # A request waits once for its turn, and once more if its backend has died.
            episode.broken("waited too long", f"{outcome.nonce}: {waited:.1f} s", outcome.ended)
        if outcome.whole:
            continue
        start, end = outcome.began, outcome.ended
        lines = by_nonce.get(outcome.nonce, [])
        told = [line.what for line in lines if line.what in ("broke", "died")]
        restarted = _restarted(episode, start - _SECOND, end + _SECOND) or (
            outcome.life != outcome.last_life
        )
        excused = restarted or _killed(episode, outcome.model, start, end) or bool(told)
        # Another request on the same server may have made it die.
        excused = excused or any(
            line.what == "died" and line.model == outcome.model and start <= line.at <= end
            for others in by_nonce.values()
            for line in others
        )
        if outcome.status:
            # A drain that took too long, or a sleep hook that did not wait, has cut the reply
            # off.
            excused = excused or episode.drain_timeout is not None or not episode.draining
            # A sleep hook that was right to run has cut the reply off: the model's death was
            # seen.
            if not excused and _cleaned(episode, outcome):
                excused = True
            if not excused and _stalled(episode, start, end):
                excused = True
            if not excused:
                episode.broken("a reply cut off for no reason", f"{outcome}", outcome.ended)
        elif not excused:
            few = " (few descriptors)" if episode.few_descriptors else ""
            later = "" if outcome.first_on_connection else ", on a connection used before"
            episode.broken(f"no reply{later}{few}", f"{outcome}", outcome.ended)


def _stalled(episode: Episode, start: int, end: int) -> bool:
    """
    Tell whether a process was stopped at this time: a client, too, may then seem not to read.
    """
    return any(a <= end and start <= b for a, b in episode.stopped)


def _cleaned(episode: Episode, outcome: Outcome) -> bool:
    """
    Tell whether the model was in doubt: a request was told to end without a byte of reply.
    """
    return any(
        other.end in ("silent", "dies")
        and other.model == outcome.model
        and other.began <= outcome.ended
        and outcome.began <= other.ended
        for other in episode.outcomes
    )


def _counters(episode: Episode) -> None:
    for life in episode.lives:
        if life.counters is None:
            continue
        certain: dict[tuple[str, str], int] = defaultdict(int)
        possible: dict[str, int] = defaultdict(int)
        for outcome in episode.outcomes:
            if outcome.life == life.number == outcome.last_life:
                if outcome.stayed and outcome.whole:
                    certain[outcome.model, str(outcome.status)] += 1
                else:
                    possible[outcome.model] += 1
            elif life.number in (outcome.life, outcome.last_life):
                possible[outcome.model] += 1
        for model, status in {*certain, *life.counters}:
            if status in _OF_NO_MODEL:
                continue
            counted = life.counters.get((model, status), 0.0)
            least = certain.get((model, status), 0)
            if not least <= counted <= least + possible[model]:
                episode.broken(
                    "a counter that does not agree",
                    f"{model} {status}: llmux says {counted:g}, clients {least} "
                    f"to {least + possible[model]}",
                    life.ended,
                )
