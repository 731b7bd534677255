"""Every pair of state and input of the slot: where it leads, or that it cannot happen."""

from __future__ import annotations

from typing import Any

import pytest
from automat import NoTransition

from llmux.switching.slot import TABLE, Slot, SlotCore, SlotState, make_slot

INPUTS = [name for name in vars(Slot) if not name.startswith("_")]
ROWS = {(state, input_.__name__): (new, act.__name__) for state, input_, new, act in TABLE}


class RecordingCore:
    """A core that does nothing but remember."""

    def __init__(self) -> None:
        self.state = SlotState.NEW
        self.acts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda: self.acts.append(name)


def path_to(state: SlotState) -> list[str]:
    """The shortest way there from NEW, as inputs."""
    paths: dict[SlotState, list[str]] = {SlotState.NEW: []}
    while state not in paths:
        before = len(paths)
        for (old, name), (new, _) in ROWS.items():
            if old in paths and new not in paths:
                paths[new] = [*paths[old], name]
        assert len(paths) > before, f"no way to {state}"
    return paths[state]


def slot_in(state: SlotState) -> tuple[Slot, RecordingCore]:
    core = RecordingCore()
    slot = make_slot(core)
    for name in path_to(state):
        getattr(slot, name)()
    assert core.state is state
    core.acts.clear()
    return slot, core


def test_the_table_has_no_row_twice() -> None:
    assert len(ROWS) == len(TABLE)


def test_every_act_exists() -> None:
    assert {act for _, act in ROWS.values()} <= set(vars(SlotCore))


@pytest.mark.parametrize("state", SlotState)
@pytest.mark.parametrize("name", INPUTS)
def test_each_pair(state: SlotState, name: str) -> None:
    slot, core = slot_in(state)
    if (state, name) in ROWS:
        new, act = ROWS[state, name]
        getattr(slot, name)()
        assert (core.state, core.acts) == (new, [act])
    else:
        with pytest.raises(NoTransition):
            getattr(slot, name)()
        assert (core.state, core.acts) == (state, [])


@pytest.mark.parametrize("state", [s for s in SlotState if s is not SlotState.STOPPED])
def test_it_can_always_stop(state: SlotState) -> None:
    """No state is a dead end."""
    ends = {SlotState.STOPPED}
    grew = True
    while grew:
        more = {old for (old, _), (new, _) in ROWS.items() if new in ends} - ends
        grew = bool(more)
        ends |= more
    assert state in ends
