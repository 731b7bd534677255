"""
These tests check pins and the pause, which outlast llmux, and what llmux does by itself when
there is nothing to do.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from llmux.errors import ModelPinned, Paused
from llmux.hooks.persistence.command_notes import CommandNotes
from llmux.interfaces import ISwitchPolicy, Phase
from llmux.policy.fifo import FifoPolicy
from llmux.switching.wishes.idleness import DefaultModel
from llmux.switching.wishes.lasting import ICommandNotes
from tests.world import ALIVE, World, eager_cost_aware

from .operators import TWO_SLOTS, MemoryNotes, Operator

# -------------------------------------------------------------------------------- pins


def test_a_pinned_model_is_nobodys_victim_until_the_pin_ends() -> None:
    world = World()
    command = Operator(world).pin("a", 100.0)
    world.advance(3)
    assert command.done
    other = world.ask("b")
    world.advance(90)
    assert other.waits and world.phase("a") is Phase.AWAKE
    world.advance(10)
    assert other.served


@pytest.mark.parametrize("policy", [FifoPolicy, eager_cost_aware], ids=["fifo", "cost_aware"])
def test_the_policy_sees_that_nobody_may_put_a_pinned_model_to_sleep(
    policy: Callable[[], ISwitchPolicy],
) -> None:
    """
    A policy that does not see a pin would begin a switch that is called off, and begin it again
    a thousand times.
    """
    world = World(policy)
    Operator(world).pin("a")
    world.advance(3)
    world.ask("b")
    world.advance(5)
    assert b"llmux_policy_failures_total{" not in world.switcher.metrics.expose()
    assert world.switches() == ["+a"]


def test_a_pin_switches_to_its_model_first() -> None:
    world = World(min_active=1000.0)
    world.wake("b").finish()
    command = Operator(world).pin("a")
    world.advance(3)
    assert command.done and world.phase("a") is Phase.AWAKE


def test_a_pin_may_have_others_refused() -> None:
    world = World(**TWO_SLOTS)
    waiting = world.ask("c")
    world.settle()
    Operator(world).pin("a", 50.0, refuse=True)
    world.advance(5)
    later, beside = world.ask("c"), world.ask("b")
    world.advance(5)
    assert isinstance(later.error, ModelPinned) and beside.served
    assert later.error.retry_after is not None and 0 < later.error.retry_after <= 50
    assert not waiting.waits


def test_two_pins_that_do_not_fit_together_are_a_conflict() -> None:
    world = World()
    operator = Operator(world)
    operator.pin("a")
    world.advance(3)
    for conflict in (operator.pin("b"), operator.switch("b"), operator.wake("b")):
        assert conflict.code == "pinned" and "`llmux unpin a`" in str(conflict.error)
    assert operator.sleep("a").code == "pinned"
    assert operator.unpin().done and operator.pin("b").waits
    world.advance(3)
    assert world.phase("b") is Phase.AWAKE


def test_a_pinned_model_that_dies_is_woken_again() -> None:
    world = World()
    Operator(world).pin("a")
    world.advance(3)
    client = world.ask("a")
    world.hooks.script("a", ALIVE, 0.0, exit_code=1)
    client.report_dead()
    world.hooks.script("a", ALIVE, 0.0)
    world.advance(10)
    assert world.switches() == ["+a", "-a", "+a"]


# ----------------------------------------------------------------------------- the pause


def test_no_switch_begins_during_a_pause_and_those_who_wait_are_served_after_it() -> None:
    world = World()
    awake = world.wake("a")
    operator = Operator(world)
    assert operator.pause().done
    other = world.ask("b")
    world.advance(100)
    assert other.waits and awake.served and world.ask("a").served
    assert operator.switch("b").code == "paused"
    for guard in world.clients_in_flight():
        guard.release()
    assert operator.resume().done
    world.advance(3)
    assert other.served


def test_a_pause_calls_off_a_switch_that_drains() -> None:
    world = World()
    world.wake("a")
    other = world.ask("b")
    world.settle()
    assert world.phase("a") is Phase.DRAINING
    Operator(world).pause()
    world.settle()
    assert world.phase("a") is Phase.AWAKE and other.waits


def test_a_pause_with_sleep_frees_the_machine() -> None:
    world = World(**TWO_SLOTS)
    operator = Operator(world)
    operator.pin("a")
    world.advance(3)
    client = world.wake("b")
    command = operator.pause(sleep=True)
    late = world.ask("a")
    world.advance(3)
    assert command.waits and world.phase("a") is Phase.ASLEEP
    client.finish()
    world.advance(3)
    assert command.done
    assert {world.phase(model) for model in "abc"} == {Phase.ASLEEP}
    operator.resume()
    world.advance(3)
    assert late.served


def test_a_pause_with_sleep_calls_off_a_wake() -> None:
    world = World()
    client = world.ask("a")
    world.advance(0.5)
    command = Operator(world).pause(sleep=True)
    world.advance(5)
    assert command.done and client.waits and world.phase("a") is Phase.ASLEEP


def test_a_pause_may_refuse_who_would_wait() -> None:
    world = World()
    waiting = world.ask("a")
    world.settle()
    world.switcher.steering.pause_switching(30.0, False, True, "socket")
    world.advance(5)
    later = world.ask("b")
    assert isinstance(later.error, Paused) and later.error.retry_after == 25.0
    world.advance(30)
    assert waiting.served or isinstance(waiting.error, Paused)
    assert not isinstance(world.ask("b").error, Paused)


def test_a_pause_ends_by_itself() -> None:
    world = World()
    Operator(world).pause(60.0)
    client = world.ask("a")
    world.advance(59)
    assert client.waits
    world.advance(4)
    assert client.served


# -------------------------------------------------------------------------- what lasts


def test_pins_and_the_pause_outlive_llmux() -> None:
    notes = MemoryNotes()
    world = World(commands=notes)
    operator = Operator(world)
    operator.pin("a", 500.0)
    world.advance(3)
    operator.pause()
    world.stop()
    later = World(commands=notes, start=False)
    assert [pin.model for pin in later.switcher.steering.pins] == ["a"]
    assert later.switcher.steering.pause is not None
    later.switcher.start()
    client = later.ask("b")
    later.advance(10)
    assert client.waits
    Operator(later).resume()
    later.advance(10)
    assert later.phase("a") is Phase.AWAKE and client.waits
    later.advance(600)
    assert client.served


@pytest.mark.parametrize(
    "text",
    [
        '{"pins": [{"model": 3}]}',
        '{"pause": [1]}',
        '{"pins": 7}',
        '{"pins": [{"model": "a", "until": 1' + "0" * 400 + ', "refuses": true}]}',
    ],
)
def test_notes_that_make_no_sense_are_forgotten(text: str) -> None:
    notes = MemoryNotes()
    notes.text = text
    world = World(commands=notes)
    assert not world.switcher.steering.pins and world.ask("a").waits
    world.advance(3)
    assert world.phase("a") is Phase.AWAKE


@pytest.mark.parametrize(
    "make", [lambda path: MemoryNotes(), lambda path: CommandNotes(str(path))]
)
def test_notes_give_back_what_was_kept_last(
    tmp_path: Path, make: Callable[[Path], ICommandNotes]
) -> None:
    notes = make(tmp_path)
    assert verifyObject(ICommandNotes, notes)
    assert notes.load() == {}
    notes.keep({"pins": [{"until": 3.5}], "pause": None})
    notes.keep({"pins": [], "pause": {"by": "ops"}})
    assert notes.load() == {"pins": [], "pause": {"by": "ops"}}


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff", b'{"pins": "\xff"}', b'{"pins": ' + b"[" * 100_000]
)
def test_a_file_of_rubbish_is_no_notes(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "commands.json").write_bytes(text)
    assert CommandNotes(str(tmp_path)).load() == {}


def test_a_state_directory_that_has_been_removed_is_made_again(tmp_path: Path) -> None:
    state = tmp_path / "state" / "of" / "llmux"
    notes = CommandNotes(str(state))
    notes.keep({"pins": []})
    assert notes.load() == {"pins": []}
    assert state.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(tmp_path / "state")
    notes.keep({"pause": None})
    assert notes.load() == {"pause": None}


def test_a_directory_that_cannot_be_written_to_costs_only_the_notes(tmp_path: Path) -> None:
    (tmp_path / "none").touch()
    notes = CommandNotes(str(tmp_path / "none"))
    notes.keep({"pins": []})
    assert notes.load() == {}


# --------------------------------------------------------------- when there is nothing to do


def test_a_model_sleeps_after_it_has_been_idle_for_long_enough() -> None:
    world = World(own={"idle_sleep": 60.0})
    client = world.wake("a")
    world.advance(100)
    assert world.phase("a") is Phase.AWAKE
    client.finish()
    world.advance(30)
    world.ask("a").finish()
    world.advance(59)
    assert world.phase("a") is Phase.AWAKE
    world.advance(3)
    assert world.phase("a") is Phase.ASLEEP
    world.nothing_left()


def test_a_pinned_model_does_not_sleep_for_idleness() -> None:
    world = World(own={"idle_sleep": 60.0})
    Operator(world).pin("a", 500.0)
    world.advance(400)
    assert world.phase("a") is Phase.AWAKE
    world.advance(200)
    assert world.phase("a") is Phase.ASLEEP


def test_models_are_woken_at_start_and_after_a_pause() -> None:
    world = World(preload=["b"])
    world.advance(3)
    assert world.phase("b") is Phase.AWAKE
    operator = Operator(world)
    operator.pause(sleep=True)
    world.advance(3)
    assert world.phase("b") is Phase.ASLEEP
    operator.resume()
    world.advance(3)
    assert world.phase("b") is Phase.AWAKE
    assert world.clients_in_flight() == []


def test_the_default_model_is_woken_when_there_is_nothing_to_do() -> None:
    world = World(default=DefaultModel("a", 60.0))
    client = world.wake("b")
    world.advance(200)
    assert world.phase("b") is Phase.AWAKE
    client.finish()
    world.advance(59)
    assert world.phase("b") is Phase.AWAKE
    world.advance(4)
    assert world.phase("a") is Phase.AWAKE
    world.wake("b").finish()
    world.advance(70)
    assert world.phase("a") is Phase.AWAKE
