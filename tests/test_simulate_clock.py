"""These tests check the clock over a heap."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from llmux.simulate.clock import HeapClock


def test_the_clock_and_its_calls_provide_their_interfaces() -> None:
    clock = HeapClock()
    assert verifyObject(IReactorTime, clock)
    assert verifyObject(IDelayedCall, clock.callLater(1, print))


def test_calls_are_made_in_the_order_of_their_times() -> None:
    clock = HeapClock(100.0)
    made: list[tuple[str, float]] = []

    def note(name: str) -> None:
        made.append((name, clock.seconds()))

    clock.callLater(2, note, "later")
    clock.callLater(1, note, name="first")
    clock.callLater(1, note, "second")
    assert clock.next_time() == 101
    assert [call.getTime() for call in clock.getDelayedCalls()] == [101, 102, 101]
    assert clock.step()
    assert made == [("first", 101)]
    clock.advance(5)
    assert made == [("first", 101), ("second", 101), ("later", 102)]
    assert clock.seconds() == 106
    assert not clock.step()
    assert clock.next_time() is None


def test_a_call_may_schedule_another_call() -> None:
    clock = HeapClock()
    made: list[float] = []

    def again() -> None:
        made.append(clock.seconds())
        if len(made) < 3:
            clock.callLater(1, again)

    clock.callLater(0, again)
    clock.advance(10)
    assert made == [0, 1, 2]


def test_a_cancelled_call_is_not_made() -> None:
    clock = HeapClock()
    made: list[str] = []
    call = clock.callLater(1, made.append, "no")
    assert call.active()
    call.cancel()
    assert not call.active()
    assert clock.next_time() is None
    with pytest.raises(AlreadyCancelled):
        call.cancel()
    other = clock.callLater(1, made.append, "yes")
    clock.advance(1)
    assert made == ["yes"]
    with pytest.raises(AlreadyCalled):
        other.reset(1)


def test_a_call_that_was_reset_and_delayed_is_made_at_its_new_time() -> None:
    clock = HeapClock()
    made: list[str] = []
    call = clock.callLater(5, made.append, "moved")
    clock.callLater(2, made.append, "fixed")
    call.reset(1)
    assert call.getTime() == 1
    call.delay(0.5)
    clock.advance(1)
    assert made == []
    clock.advance(10)
    assert made == ["moved", "fixed"]


def test_a_negative_delay_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        HeapClock().callLater(-1, print)


def test_cancelled_calls_do_not_fill_the_heap() -> None:
    clock = HeapClock()
    clock.callLater(1, print)
    for _ in range(10_000):
        clock.callLater(1000, print).cancel()
    assert len(clock._heap) < 200
    assert len(clock.getDelayedCalls()) == 1


def test_an_exception_in_a_call_is_raised_by_step() -> None:
    clock = HeapClock()
    clock.callLater(0, int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        clock.step()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["call", "cancel", "reset", "delay", "advance"]),
            st.integers(0, 20),
            st.integers(0, 30),
        )
    )
)
@settings(deadline=None)
def test_the_clock_makes_calls_in_the_same_order_as_twisteds(
    steps: list[tuple[str, int, int]],
) -> None:
    """
    Every time is used once, for Twisted's clock puts equal times in another order after a
    reset.
    """
    times: list[list[tuple[int, float]]] = []
    for clock in (HeapClock(), Clock()):
        made: list[tuple[int, float]] = []
        calls: list[IDelayedCall] = []
        taken = {0.0}
        for number, (what, delay, which) in enumerate(steps):
            seconds = delay + number / 1000
            call = calls[which % len(calls)] if calls else None
            if what == "call":
                while clock.seconds() + seconds in taken:
                    seconds += 1e-6
                taken.add(clock.seconds() + seconds)
                calls.append(
                    clock.callLater(
                        seconds, lambda n=number, c=clock, m=made: m.append((n, c.seconds()))
                    )
                )
            elif what == "advance":
                clock.advance(delay)
            elif call is not None and call.active():
                if what == "cancel":
                    call.cancel()
                elif what == "reset":
                    call.reset(seconds)
                else:
                    call.delay(seconds)
        clock.advance(1000)
        # Clock says the time of the end of each advance; only the order counts.
        times.append([(n, 0.0) for n, _ in made])
    assert times[0] == times[1]
