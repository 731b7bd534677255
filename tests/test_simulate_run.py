"""Runs of small traces whose every moment can be worked out by hand."""

from __future__ import annotations

from itertools import pairwise
from math import inf, isnan
from random import Random
from typing import Any

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from llmux.interfaces import HookKind, IHookRunner, IRunningHook, ISwitchPolicy
from llmux.policy.fifo import FifoPolicy
from llmux.simulate.figures import Figures, figures, percentile
from llmux.simulate.followed_policy import FollowedPolicy
from llmux.simulate.run import Mode, Record, Run
from llmux.simulate.scripts import HookTimes, NumberHooks
from llmux.simulate.trace import Trace, TraceRequest
from llmux.switching.settings import SwitchSettings


def run(*requests: TraceRequest, cost: float = 10.0, **options: Any) -> Record:
    trace = Trace.of(requests)
    costs = options.pop("costs", HookTimes(cost))
    return Run(trace, FifoPolicy(), trace.models(), costs, **options).go()


def test_the_simulated_hooks_provide_their_interfaces_and_tell_what_is_awake() -> None:
    clock = Clock()
    hooks = NumberHooks(clock, HookTimes(10), Random(1), lambda: "b")
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


def test_two_models_are_served_one_after_the_other() -> None:
    record = run(TraceRequest("a", 4, 1.0), TraceRequest("b", 2, 3.0))
    # A wake from nothing is half a switch.
    assert list(record.began) == [6.0, 20.0]
    assert list(record.answered) == [10.0, 22.0]
    assert record.woken == [(6.0, "a"), (20.0, "b")]
    assert record.ended == 22.0
    assert record.modes == [
        (0.0, Mode.IDLE, None),
        (1.0, Mode.SWITCHING, None),
        (6.0, Mode.DRAINING, "a"),
        (10.0, Mode.SWITCHING, None),
        (20.0, Mode.SERVING, "b"),
        (22.0, Mode.IDLE, "b"),
    ]


def test_a_pair_of_models_may_have_a_switch_cost_of_its_own() -> None:
    costs = HookTimes(10, {("a", "b"): 4, (None, "a"): 7})
    record = run(TraceRequest("a", 1, 0.0), TraceRequest("b", 1, 1.0), costs=costs)
    assert record.woken == [(7.0, "a"), (12.0, "b")]


def test_the_policy_that_is_followed_is_a_policy() -> None:
    assert verifyObject(ISwitchPolicy, FollowedPolicy(FifoPolicy()))


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
    assert (15.0, Mode.SWITCHING, None) in record.modes


def test_a_drain_that_is_called_off_is_recorded_as_serving_again() -> None:
    record = run(TraceRequest("a", 10, 0.0), TraceRequest("b", 1, 6.0, patience=2))
    assert record.modes[2:] == [
        (5.0, Mode.SERVING, "a"),
        (6.0, Mode.DRAINING, "a"),
        (8.0, Mode.SERVING, "a"),
        (15.0, Mode.IDLE, "a"),
    ]


def test_the_seed_determines_the_jitter() -> None:
    requests = [TraceRequest("ab"[n % 2], 1, float(n)) for n in range(20)]
    costs = HookTimes(10, jitter=0.2)
    one, same, other = (run(*requests, costs=costs, seed=seed).woken for seed in (1, 1, 2))
    assert one == same != other
    gaps = [b - a - 1 for (a, _), (b, _) in pairwise(one)]
    assert all(8 <= gap <= 12 + 2 for gap in gaps)


def test_requests_beyond_the_slots_wait_inside_the_backend() -> None:
    """What waits inside the backend waits, first come, first served."""
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
    """In llmux, in the backend's queue, and not at all while being served."""
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
    """The wait of the first is over at 6 s."""
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
