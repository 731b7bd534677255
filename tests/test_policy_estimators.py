"""These tests compare what the cost-aware policy learns with the plainest way to compute it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmux.policy.estimators import (
    AbsenceGaps,
    AnswerRate,
    CompletionInterval,
    Ghosts,
    InFlightTimes,
    MovingAverage,
    Pace,
    ScriptTimes,
    ServiceTimes,
)

SECONDS = st.floats(0, 1000)


def test_a_moving_average_begins_with_the_first_observation() -> None:
    average = MovingAverage(0.3)
    assert average.value is None
    average.add(10)
    assert average.value == 10
    average.add(20)
    assert average.value == pytest.approx(13)


@given(st.lists(SECONDS, min_size=1, max_size=200), SECONDS)
@settings(deadline=None)
def test_service_times_agree_with_the_plainest_computation(
    times: list[float], elapsed: float
) -> None:
    service = ServiceTimes()
    for seconds in times:
        service.add(seconds)
    kept = sorted(times[-64:])
    assert len(service) == len(kept)
    beyond = [x for x in kept if x > elapsed]
    if beyond:
        left = service.remaining(elapsed)
        assert left + elapsed == pytest.approx(beyond[int(0.7 * (len(beyond) - 1) + 0.5)])
    else:
        assert service.remaining(elapsed) == service.mean
    excess = sum(max(x - elapsed, 0) for x in kept) / len(kept)
    assert service.mean_excess(elapsed) == pytest.approx(excess, abs=1e-6)


def test_the_mean_service_time_is_nearly_plain_at_first() -> None:
    service = ServiceTimes(initial=1.0)
    assert service.mean == 1
    for _ in range(9):
        service.add(11.0)
    assert service.mean == pytest.approx(10)
    for _ in range(200):
        service.add(3.0)
    assert service.mean == pytest.approx(3, abs=0.01)


def test_without_observations_service_times_are_the_initial_mean() -> None:
    service = ServiceTimes()
    assert service.remaining(100) == 1
    assert service.mean_excess(0.4) == pytest.approx(0.6)
    assert service.mean_excess(5) == 0


def test_the_interval_between_completions_leaves_out_the_time_asleep() -> None:
    interval = CompletionInterval()
    interval.completed(10)
    assert interval.seconds is None
    interval.completed(12)
    assert interval.seconds == 2
    interval.restart(1000)
    interval.completed(1002)
    assert interval.seconds == 2, "its sleep does not count"


def test_gaps_are_measured_from_empty_to_the_next_arrival() -> None:
    gaps = AbsenceGaps()
    gaps.arrived(5)
    now = 0.0
    for gap in (4, 1, 3, 2, 5):
        gaps.emptied(now)
        gaps.arrived(now + gap)
        gaps.arrived(now + gap + 1)
        now += 100
    assert gaps.idle_since is None
    assert (gaps.median, gaps.upper) == (3, 4)
    gaps.emptied(now)
    assert gaps.idle_since == now
    for _ in range(16):
        gaps.emptied(now)
        gaps.arrived(now + 7)
    assert (gaps.median, gaps.upper) == (7, 7)


def test_one_gap_tells_nothing() -> None:
    gaps = AbsenceGaps()
    gaps.emptied(0)
    gaps.arrived(3)
    assert gaps.median is None


def test_a_request_is_in_time_before_its_limit_and_before_another_model_wakes() -> None:
    gaps = AbsenceGaps()
    assert gaps.returning == 1, "one success is taken for granted"
    gaps.emptied(0)
    gaps.awaited(5)
    gaps.awaited(100)
    gaps.arrived(6)
    assert gaps.returning == 1 / 2, "too late: the first limit of a gap counts"
    gaps.emptied(10)
    gaps.awaited(15)
    gaps.overtaken()
    gaps.arrived(12)
    assert gaps.returning == 1 / 3, "another model woke"
    gaps.emptied(20)
    gaps.awaited(25)
    gaps.arrived(25)
    assert gaps.returning == 2 / 4
    gaps.emptied(30)
    gaps.overtaken()
    gaps.arrived(31)
    assert gaps.returning == 2 / 4, "nobody else waited in this gap"
    assert gaps.upper == 5, "all of them are gaps"


def test_the_rate_of_answers_counts_from_the_first_note_on_and_fades() -> None:
    rate = AnswerRate()
    assert rate.per_second(100, 50) == 0
    rate.note(100, 50)
    assert rate.per_second(199, 100) == pytest.approx(0.5, rel=0.01)
    assert rate.per_second(199, 100) == pytest.approx(0.5, rel=0.01), "to ask changes nothing"
    rate.note(199, 100)
    assert rate.per_second(10_000, 100) < 0.001


def test_ghosts_are_counted_until_they_are_cleared() -> None:
    ghosts = Ghosts()
    ghosts.add(3)
    ghosts.add(4)
    assert (ghosts.count, ghosts.squares) == (2, 25)
    ghosts.clear()
    assert (ghosts.count, ghosts.squares) == (0, 0)


def test_a_drain_lasts_as_long_as_the_slowest_of_its_requests() -> None:
    service = ServiceTimes()
    for seconds in range(1, 11):
        service.add(float(seconds))
    flying = InFlightTimes()
    assert flying.drain(100.0, service) == 0
    flying[1] = 99.0
    flying[2] = 100.0
    assert len(flying) == 2
    # The 70 % quantile of the times over 0 is 7; that of the times over 1 is 8, less 1.
    assert flying.drain(100.0, service) == 7
    flying.pop(2)
    flying[3] = 91.5
    assert flying.drain(100.0, service) == 7
    for number in range(10, 1000):
        flying[number] = 100.0
    assert flying.drain(100.0, service) == 7


def test_a_script_that_never_ran_is_expected_to_take_as_long_as_others() -> None:
    times = ScriptTimes(10.0)
    assert times.of("a") == 10
    times.add("a", 4.0)
    assert times.of("a") == times.of("b") == 4
    times.add("b", 14.0)
    assert times.of("b") == 14
    assert times.of("c") == pytest.approx(7)


def test_the_pace_is_right_soon_and_fades_when_nothing_is_answered() -> None:
    pace = Pace()
    assert pace.per_second(5.0) == 0
    for second in range(10_000):
        pace.completed(100.0 + second / 2)
        if second == 40:
            assert pace.per_second(120.0) == pytest.approx(2, rel=0.1), "soon right"
    assert pace.per_second(5100.0) == pytest.approx(2, rel=0.01)
    later = [pace.per_second(5100.0 + wait) for wait in (0, 100, 1000)]
    assert all(a > b for a, b in pairwise(later))
