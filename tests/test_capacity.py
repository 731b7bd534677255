"""These tests check the ledger of capacity, alone and under random use."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from llmux.interfaces import Amount, Needs
from llmux.switching.facts.capacity import ONE_SLOT, Capacity, CapacityError, Reservation

TWO = {"gpu0": 24, "gpu1": 24}
NEEDS = {
    "embed": {"gpu0": 2},
    "chat": {"gpu0": 20},
    "code": {"gpu1": 20},
    "big": {"gpu0": 22, "gpu1": 22},
    "free": {},
}


def test_one_slot_has_room_for_one() -> None:
    capacity = Capacity(ONE_SLOT)
    first = capacity.reserve("a", ONE_SLOT)
    assert first is not None
    assert capacity.reserve("b", ONE_SLOT) is None, "what is reserved is not free"
    capacity.take(first)
    assert capacity.free("gpu") == 0
    assert capacity.reserve("b", ONE_SLOT) is None
    second = capacity.reserve("b", ONE_SLOT, ["a"])
    assert second is not None
    assert capacity.reserve("c", ONE_SLOT, ["a"]) is None, "a makes room for b already"
    capacity.release("a")
    assert capacity.free("gpu") == 0, "what a held is claimed for b"
    capacity.take(second)
    assert list(capacity.holders()) == ["b"]


def test_what_a_victim_holds_beyond_the_targets_needs_is_free() -> None:
    capacity = Capacity(TWO)
    big = capacity.reserve("big", NEEDS["big"])
    assert big is not None
    capacity.take(big)
    chat = capacity.reserve("chat", NEEDS["chat"], ["big"])
    assert chat is not None
    capacity.release("big")
    assert capacity.free("gpu0") == 4
    assert capacity.free("gpu1") == 24
    capacity.take(chat)
    assert capacity.free("gpu0") == 4


def test_a_victim_that_wakes_again_elsewhere_gives_nothing_to_the_switch_any_more() -> None:
    """
    Two models make room, and one of them sleeps first; before the other sleeps, the first is
    awake again, in room that the switch does not need.
    """
    capacity = Capacity({"gpu": 5})
    capacity.hold("a", {"gpu": 2})
    capacity.hold("b", {"gpu": 2})
    switch = capacity.reserve("c", {"gpu": 3}, ["a", "b"])
    assert switch is not None
    capacity.release("a")
    again = capacity.reserve("a", {"gpu": 2})
    assert again is not None
    capacity.take(again)
    assert capacity.free("gpu") == 0
    assert capacity.reserve("d", {"gpu": 1}) is None, "the switch to c claims that"
    capacity.release("b")
    capacity.take(switch)


def test_a_reservation_that_is_cancelled_is_free_again() -> None:
    capacity = Capacity(TWO)
    reserved = capacity.reserve("big", NEEDS["big"])
    assert reserved is not None
    assert capacity.reserve("chat", NEEDS["chat"]) is None
    capacity.cancel(reserved)
    assert capacity.reserve("chat", NEEDS["chat"]) is not None


def test_a_target_may_be_exchanged_for_one_that_fits() -> None:
    capacity = Capacity(TWO)
    capacity.hold("chat", NEEDS["chat"])
    reserved = capacity.reserve("embed", NEEDS["embed"], ["chat"])
    assert reserved is not None
    capacity.hold("code", NEEDS["code"])
    assert not capacity.rebind(reserved, "big", NEEDS["big"], ["chat"])
    assert reserved.target == "embed"
    assert capacity.rebind(reserved, "x", {"gpu0": 24}, ["chat"])
    assert capacity.free("gpu0") == 0


def test_what_cannot_be_is_an_error() -> None:
    capacity = Capacity(ONE_SLOT)
    with pytest.raises(CapacityError):
        capacity.release("a")
    capacity.hold("a", ONE_SLOT)
    with pytest.raises(CapacityError):
        capacity.hold("a", ONE_SLOT)
    reserved = capacity.reserve("b", ONE_SLOT, ["a"])
    assert reserved is not None
    with pytest.raises(CapacityError, match="b needs 1 of gpu"):
        capacity.take(reserved)


def test_models_found_awake_may_overdraw_and_nothing_is_reserved_meanwhile() -> None:
    capacity = Capacity(TWO)
    capacity.hold("big", NEEDS["big"])
    capacity.hold("chat", NEEDS["chat"])
    assert capacity.overdrawn(NEEDS["chat"]) and not capacity.overdrawn(NEEDS["code"])
    assert capacity.reserve("embed", NEEDS["embed"]) is None
    assert capacity.reserve("free", NEEDS["free"]) is not None
    capacity.release("big")
    assert capacity.reserve("embed", NEEDS["embed"]) is not None


class Ledger(RuleBasedStateMachine):
    """
    This is a switcher of the simplest kind, which does at random what the ledger allows, with
    random resources, and models that have several places each.
    """

    @initialize(data=st.data())
    def furnish(self, data: st.DataObject) -> None:
        units: list[Amount] = [1, Fraction(1, 10), Fraction(1, 3)]
        unit = data.draw(st.sampled_from(units))
        names = [f"gpu{n}" for n in range(data.draw(st.integers(1, 3)))]
        self.total: dict[str, Amount] = {
            name: data.draw(st.integers(2, 8)) * unit for name in names
        }
        self.places: dict[str, list[Needs]] = {
            model: [
                {
                    name: data.draw(st.integers(0, int(total / unit))) * unit
                    for name, total in self.total.items()
                }
                for _ in range(data.draw(st.integers(1, 2)))
            ]
            for model in "abcde"
        }
        self.capacity = Capacity(self.total)
        self.switches: list[Reservation] = []

    def asleep(self) -> list[str]:
        busy = {switch.target for switch in self.switches}
        return [m for m in self.places if m not in self.capacity.holders() and m not in busy]

    def draw_a_switch(
        self, data: st.DataObject, targets: list[str]
    ) -> tuple[str, Needs, frozenset[str]]:
        target = data.draw(st.sampled_from(targets))
        holders = sorted(self.capacity.holders())
        victims = data.draw(st.sets(st.sampled_from(holders)) if holders else st.just(set()))
        return target, data.draw(st.sampled_from(self.places[target])), frozenset(victims)

    @rule(data=st.data())
    def reserve(self, data: st.DataObject) -> None:
        asleep = self.asleep()
        if asleep:
            target, needs, victims = self.draw_a_switch(data, asleep)
            switch = self.capacity.reserve(target, needs, victims)
            if switch is not None:
                self.switches.append(switch)

    @precondition(lambda self: self.switches)
    @rule(data=st.data())
    def rebind_a_switch(self, data: st.DataObject) -> None:
        switch = data.draw(st.sampled_from(self.switches))
        before = switch.target, switch.needs, switch.victims
        target, needs, victims = self.draw_a_switch(data, [*self.asleep(), switch.target])
        if self.capacity.rebind(switch, target, needs, victims):
            assert (switch.target, switch.needs, switch.victims) == (target, needs, victims)
        else:
            assert (switch.target, switch.needs, switch.victims) == before

    @precondition(lambda self: self.switches)
    @rule(data=st.data())
    def go_on_with_a_switch(self, data: st.DataObject) -> None:
        switch = data.draw(st.sampled_from(self.switches))
        if switch.victims:
            self.capacity.release(data.draw(st.sampled_from(sorted(switch.victims))))
        else:
            self.capacity.take(switch)
            self.switches.remove(switch)

    @precondition(lambda self: self.switches)
    @rule(data=st.data())
    def call_a_switch_off(self, data: st.DataObject) -> None:
        switch = data.draw(st.sampled_from(self.switches))
        self.capacity.cancel(switch)
        self.switches.remove(switch)

    @invariant()
    def each_unit_is_held_claimed_or_free_once(self) -> None:
        for name, total in self.total.items():
            held = sum(self.capacity.held(m).get(name, 0) for m in self.capacity.holders())
            claimed = sum(
                max(
                    0,
                    switch.needs.get(name, 0)
                    - sum(self.capacity.held(v).get(name, 0) for v in switch.victims),
                )
                for switch in self.switches
            )
            assert held <= total
            assert self.capacity.free(name) == total - held - claimed >= 0

    @invariant()
    def each_switch_could_take_what_it_needs_if_its_victims_slept(self) -> None:
        for switch in self.switches:
            for name, amount in switch.needs.items():
                others = sum(
                    self.capacity.held(m).get(name, 0)
                    for m in self.capacity.holders()
                    if m not in switch.victims
                )
                assert others + amount <= self.total[name]


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=60, deadline=None)


@given(st.lists(st.sampled_from(sorted(NEEDS)), unique=True))
@settings(deadline=None)
def test_what_is_held_and_free_adds_up_to_what_there_is(models: list[str]) -> None:
    capacity = Capacity(TWO)
    for model in models:
        capacity.hold(model, NEEDS[model])
    for name, total in TWO.items():
        assert capacity.free(name) + sum(NEEDS[m].get(name, 0) for m in models) == total
    for model in models:
        capacity.release(model)
    assert all(capacity.free(name) == total for name, total in TWO.items())
