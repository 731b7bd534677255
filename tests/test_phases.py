"""
These tests check the table of a model's life: which steps it has, and which it must not have.
"""

from __future__ import annotations

from itertools import product

import pytest

from llmux.switching.facts.phases import TABLE, Event, ImpossibleEvent, Phase, step


def test_a_pair_without_a_row_is_impossible_and_says_which() -> None:
    for phase, event in product(Phase, Event):
        if (phase, event) not in TABLE:
            with pytest.raises(ImpossibleEvent, match=f"{event.value} in phase {phase.value}"):
                step(phase, event)


def test_only_a_slept_found_or_cleaned_model_is_asleep() -> None:
    ways = {event for (_, event), after in TABLE.items() if after is Phase.ASLEEP}
    assert ways == {Event.FOUND_ASLEEP, Event.SLEPT, Event.CLEANED}


def test_a_model_wakes_from_sleep_alone() -> None:
    assert [phase for (phase, _), after in TABLE.items() if after is Phase.WAKING] == [
        Phase.ASLEEP
    ]


def test_a_model_that_failed_to_wake_can_only_be_cleaned_up() -> None:
    assert step(Phase.WAKING, Event.NOT_WOKEN) is Phase.UNCERTAIN
    assert [event for (phase, event) in TABLE if phase is Phase.UNCERTAIN] == [Event.CLEANED]


def test_each_phase_can_be_reached_and_left() -> None:
    assert set(TABLE.values()) == set(Phase) - {Phase.UNKNOWN}
    assert {phase for phase, _ in TABLE} == set(Phase)


def test_a_defect_leaves_no_model_in_the_middle_of_a_move() -> None:
    """A model that is asleep, awake or uncertain is not moved, or is cleaned up in any case."""
    at_rest = {Phase.ASLEEP, Phase.AWAKE, Phase.UNCERTAIN}
    after = {phase: after for (phase, event), after in TABLE.items() if event is Event.BROKEN}
    assert after == dict.fromkeys(set(Phase) - at_rest, Phase.UNCERTAIN)
