"""These tests run small traces whose every moment can be computed by hand."""

from __future__ import annotations

from itertools import pairwise
from math import inf, isnan
from random import Random
from typing import Any

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook
from llmux.policy.fifo import FifoPolicy
from llmux.simulate.figures import Figures, figures, percentile
from llmux.simulate.lanes import Span, shares_of_time, spans, usage
from llmux.simulate.plot import stacked
from llmux.simulate.run import Mode, Record, Run
from llmux.simulate.scripts import HookTimes, NumberHooks
from llmux.simulate.trace import Trace, TraceRequest
from llmux.switching.facts.settings import SwitchSettings


def run(*requests: TraceRequest, cost: float = 10.0, **options: Any) -> Record:
    trace = Trace.of(requests)
    costs = options.pop("costs", HookTimes(cost))
    return Run(trace, FifoPolicy(), trace.models(), costs, **options).go()


def modes(record: Record) -> list[tuple[float, str, Mode | None]]:
    return [(when, model, mode) for when, model, mode, _ in record.changes]


def test_the_simulated_hooks_provide_their_interfaces_and_tell_what_is_awake() -> None:
    clock = Clock()
    hooks = NumberHooks(clock, HookTimes(10), Random(1), lambda model: "b")
    assert verifyObject(IHookRunner, hooks)
    alive = hooks.start("a", HookKind.ALIVE)
    assert verifyObject(IRunningHook, alive)
    alive.kill()
    exits: list[int | None] = []
    alive.exited.addCallback(lambda result: exits.append(result.exit_code))
    hooks.start("a", HookKind.WAKE)
    clock.advance(5)
    hooks.start("a", HookKind.ALIVE).exited.addCallback(lambda r: exits.append(r.exit_code))
    assert exits == [1, 0]


def test_a_simulated_hook_that_is_killed_ends_at_once_and_wakes_nothing() -> None:
    clock = Clock()
    hooks = NumberHooks(clock, HookTimes(10), Random(1), lambda model: None)
    running = hooks.start("a", HookKind.WAKE)
    clock.advance(2)
    running.kill()
    running.kill()
    clock.advance(0)
    results: list[HookResult] = []
    running.exited.addCallback(results.append)
    [result] = results
    assert (result.exit_code, result.duration) == (None, 2)
    clock.advance(10)
    assert (hooks.awake, hooks.woken) == (set(), [])


def test_models_may_have_hooks_that_take_times_of_their_own() -> None:
    costs = HookTimes(10, {("a", "b"): 4}, sleeps={"a": 1, "b": 2}, wakes={"a": 3, "c": 6})
    assert costs.wake(None, "a") == 3
    assert costs.wake("x", "b") == 5, "half of the default"
    assert (costs.sleep("a", "b"), costs.wake("a", "b")) == (2, 2), "the pair has the last word"
    assert (costs.sleep("b", "c"), costs.wake("b", "c")) == (2, 6)
    assert costs.sleep("a", None) == 1


def two_lanes() -> Record:
    """
    Make a record of two resources: on gpu0 (2) a holds 1 from 1 to 9, and b holds 1 from 3 to
    6; on gpu1 (4) b holds 4.
    """
    record = Record(0, {"gpu0": 2, "gpu1": 4})
    a, b = {"gpu0": 1.0}, {"gpu0": 1.0, "gpu1": 4.0}
    record.changes += [
        (1.0, "a", Mode.SWITCHING, a),
        (2.0, "a", Mode.SERVING, a),
        (3.0, "b", Mode.SWITCHING, b),
        (4.0, "b", Mode.SERVING, b),
        (5.0, "b", Mode.DRAINING, b),
        (6.0, "b", None, {}),
        (6.0, "a", Mode.IDLE, a),
        (9.0, "a", None, {}),
    ]
    record.ended = 10.0
    return record


def test_the_use_of_a_resource_is_the_sum_of_what_its_models_hold() -> None:
    record = two_lanes()
    assert list(usage(record, "gpu1")) == [
        (0.0, 3.0, (0, 0, 0)),
        (3.0, 4.0, (0, 0, 4)),
        (4.0, 5.0, (4, 0, 0)),
        (5.0, 6.0, (0, 4, 0)),
        (6.0, 10.0, (0, 0, 0)),
    ]
    assert (4.0, 5.0, (2, 0, 0)) in list(usage(record, "gpu0"))
    shares = shares_of_time(record, 0.0)
    assert shares[Mode.SERVING] == pytest.approx((2.5 / 10 + 1 / 10) / 2)
    assert shares[Mode.DRAINING] == pytest.approx((0.5 / 10 + 1 / 10) / 2)
    assert shares[Mode.SWITCHING] == pytest.approx((1 / 10 + 1 / 10) / 2)
    assert sum(shares.values()) == pytest.approx(1)
    late = shares_of_time(record, 5.0)
    assert late[Mode.SERVING] == pytest.approx(0.05)
    assert late[Mode.SWITCHING] == 0


def test_the_spans_of_a_model_are_from_change_to_change() -> None:
    found = [(s.model, s.mode, s.begin, s.end) for s in spans(two_lanes()) if s.model == "a"]
    assert found == [
        ("a", Mode.SWITCHING, 1.0, 2.0),
        ("a", Mode.SERVING, 2.0, 6.0),
        ("a", Mode.IDLE, 6.0, 9.0),
    ]


def test_a_model_stays_at_its_height_in_the_lane_from_its_wake_to_its_sleep() -> None:
    held = {"gpu": 2.0}
    some = [
        Span("a", Mode.SERVING, 0, 4, held),
        Span("b", Mode.SWITCHING, 1, 2, held),
        Span("b", Mode.SERVING, 2, 9, held),
        Span("c", Mode.SERVING, 4, 9, {"gpu": 4.0}),
        Span("b", Mode.DRAINING, 9, 10, held),
        Span("d", Mode.SERVING, 9, 10, held),
    ]
    places = {
        (span.model, span.begin): list(pieces) for span, pieces in stacked(some, "gpu", 6)
    }
    assert places == {
        ("a", 0): [(0, 2)],
        ("b", 1): [(2, 4)],
        ("b", 2): [(2, 4)],
        ("c", 4): [(0, 2), (4, 6)],
        ("b", 9): [(2, 4)],
        ("d", 9): [(0, 2)],
    }


def test_two_models_are_served_one_after_the_other() -> None:
    record = run(TraceRequest("a", 4, 1.0), TraceRequest("b", 2, 3.0))
    # A wake from nothing is half a switch.
    assert list(record.began) == [6.0, 20.0]
    assert list(record.answered) == [10.0, 22.0]
    assert record.woken == [(6.0, "a"), (20.0, "b")]
    assert record.ended == 22.0
    assert modes(record) == [
        (1.0, "a", Mode.SWITCHING),
        (6.0, "a", Mode.DRAINING),
        (10.0, "a", Mode.SWITCHING),
        (15.0, "b", Mode.SWITCHING),
        (15.0, "a", None),
        (20.0, "b", Mode.SERVING),
        (22.0, "b", Mode.IDLE),
    ]


def test_a_pair_of_models_may_have_a_switch_cost_of_its_own() -> None:
    costs = HookTimes(10, {("a", "b"): 4, (None, "a"): 7})
    record = run(TraceRequest("a", 1, 0.0), TraceRequest("b", 1, 1.0), costs=costs)
    assert record.woken == [(7.0, "a"), (12.0, "b")]


def test_a_sleep_hook_takes_the_time_for_the_model_to_which_the_drain_leads_at_last() -> None:
    """The client that wanted b gives up while a drains, so that the switch leads to c."""
    costs = HookTimes(10, {("a", "b"): 100, ("a", "c"): 4})
    record = run(
        TraceRequest("a", 10, 0.0),
        TraceRequest("b", 1, 6.0, patience=2),
        TraceRequest("c", 1, 7.0),
        costs=costs,
    )
    assert record.woken == [(5.0, "a"), (19.0, "c")]
    assert (15.0, "a", Mode.SWITCHING) in modes(record)


def test_a_drain_that_is_called_off_is_recorded_as_serving_again() -> None:
    record = run(TraceRequest("a", 10, 0.0), TraceRequest("b", 1, 6.0, patience=2))
    assert modes(record)[1:] == [
        (5.0, "a", Mode.SERVING),
        (6.0, "a", Mode.DRAINING),
        (8.0, "a", Mode.SERVING),
        (15.0, "a", Mode.IDLE),
    ]


def test_the_seed_determines_the_jitter() -> None:
    requests = [TraceRequest("ab"[n % 2], 1, float(n)) for n in range(20)]
    costs = HookTimes(10, jitter=0.2)
    one, same, other = (run(*requests, costs=costs, seed=seed).woken for seed in (1, 1, 2))
    assert one == same != other
    gaps = [b - a - 1 for (a, _), (b, _) in pairwise(one)]
    assert all(8 <= gap <= 12 + 2 for gap in gaps)


def test_requests_beyond_the_slots_wait_inside_the_backend() -> None:
    """Requests inside the backend are served first come, first served."""
    record = run(*(TraceRequest("a", 3, float(n)) for n in range(4)), slots=2, cost=0)
    assert list(record.began) == [0, 1, 3, 4]


def test_a_follower_is_sent_after_the_reply_and_the_pause() -> None:
    record = run(
        TraceRequest("a", 1, 0.0),
        TraceRequest("a", 1, after=0, think=5),
        TraceRequest("b", 1, after=1, think=1),
        cost=2,
    )
    assert list(record.sent) == [0, 7, 9]
    assert list(record.answered) == [2, 8, 12]


def test_clients_give_up_only_before_their_service_begins() -> None:
    """
    Clients give up in llmux and in the backend's queue, and not at all while being served.
    """
    record = run(
        TraceRequest("a", 10, 0.0, patience=5.5),
        TraceRequest("b", 1, 0.0, patience=6),
        TraceRequest("a", 1, 1.0, patience=8),
        TraceRequest("a", 1, after=1),
        slots=1,
    )
    assert list(record.left)[1:3] == [6, 9]
    assert record.answered[0] == 15
    assert isnan(record.began[2])
    assert isnan(record.sent[3]), "no reply, nothing that follows it"
    assert record.woken == [(5.0, "a")], "the switch to b was called off"


def test_a_client_that_gives_up_inside_the_backend_leaves_its_place() -> None:
    record = run(
        TraceRequest("a", 10, 0.0),
        TraceRequest("a", 1, 1.0, patience=3),
        TraceRequest("a", 1, 2.0),
        slots=1,
        cost=0,
    )
    assert record.left[1] == 4
    assert record.began[2] == 10


def test_a_run_ends_at_until_with_requests_unanswered() -> None:
    record = run(TraceRequest("a", 4, 1.0), TraceRequest("b", 2, 3.0), until=8.0)
    assert record.ended == 8
    assert record.began[0] == 6 and isnan(record.answered[0])
    assert isnan(record.began[1]) and isnan(record.left[1])
    late = run(TraceRequest("a", 4, 1.0), TraceRequest("a", 2, 30.0), until=8.0)
    assert isnan(late.sent[1])


def test_the_time_limits_of_the_settings_hold() -> None:
    settings = SwitchSettings(request_timeout=3.0)
    record = run(TraceRequest("a", 4, 1.0), settings=settings)
    assert record.left[0] == 4
    settings = SwitchSettings(drain_timeout=2.0)
    record = run(TraceRequest("a", 40, 0.0), TraceRequest("b", 1, 7.0), settings=settings)
    assert record.left[0] == 9
    assert record.woken == [(5.0, "a"), (19.0, "b")]


def test_a_percentile_is_the_nearest_rank() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert percentile(ordered, 0.5) == 50
    assert percentile(ordered, 0.99) == 99
    assert percentile([3.0], 0.5) == 3
    assert percentile([1.0, 2.0], 1.0) == 2


def of(warm_up: float = 0.0, until: float = inf, *requests: TraceRequest) -> Figures:
    trace = Trace.of(requests)
    made = Run(trace, FifoPolicy(), trace.models(), HookTimes(10), until=until).go()
    return figures("fifo", trace, made, warm_up)


TWO = TraceRequest("a", 4, 1.0), TraceRequest("b", 2, 3.0)


def test_the_figures_of_a_run_are_those_worked_out_by_hand() -> None:
    result = of(0.0, inf, *TWO)
    assert result.requests == result.answered == 2
    assert result.wait_mean_s == (5 + 17) / 2
    assert (result.wait_p50_s, result.wait_max_s) == (5, 17)
    assert result.worst_model_wait_mean_s == 17
    assert result.switches == 2
    assert result.switching_share == pytest.approx(15 / 22)
    assert result.draining_share == pytest.approx(4 / 22)
    assert result.serving_share == pytest.approx(2 / 22)
    assert result.idle_share == pytest.approx(1 / 22)
    assert result.answered_per_s == pytest.approx(2 / 22)
    assert result.switches_per_hour == pytest.approx(2 / 22 * 3600)


def test_unanswered_requests_count_with_their_waits_so_far() -> None:
    result = of(0.0, 8.0, *TWO)
    assert (result.requests, result.answered, result.gave_up) == (2, 0, 0)
    assert result.wait_max_s == 5
    assert result.wait_mean_s == 5


def test_requests_whose_wait_is_over_in_the_warm_up_do_not_count() -> None:
    """The wait of the first request is over at 6 s."""
    result = of(6.0, inf, *TWO)
    assert (result.requests, result.wait_mean_s) == (1, 17)
    assert (result.switches, result.idle_share) == (2, 0)
    assert of(7.0, inf, *TWO).switches == 1


def test_requests_that_wait_when_the_warm_up_ends_count_with_their_whole_wait() -> None:
    result = of(5.0, inf, *TWO)
    assert (result.requests, result.wait_mean_s) == (2, (5 + 17) / 2)
    starved = of(7.0, 9.0, *TWO)
    assert (starved.requests, starved.answered, starved.wait_max_s) == (1, 0, 6)


def test_a_run_without_requests_has_no_waits() -> None:
    result = of(0.0, 0.5, *TWO)
    assert result.requests == 0
    assert result.wait_mean_s is None
    assert result.worst_model_wait_mean_s is None
