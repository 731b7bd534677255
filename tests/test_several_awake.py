"""
These tests have several models awake: what fits together is awake together, and they check who
makes room for whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llmux.interfaces import (
    Decision,
    IScheduleView,
    Needs,
    Phase,
    PolicyContext,
    Rebind,
    Slept,
    Stay,
    Switch,
    Woke,
)
from llmux.policy.fifo import FifoPolicy
from tests.world import SLEEP, WAKE, World

RESOURCES: Needs = {"gpu0": 24, "gpu1": 24}
PLACES: dict[str, Sequence[Needs]] = {
    "embed": [{"gpu0": 2}],
    "chat": [{"gpu0": 20}, {"gpu1": 20}],
    "code": [{"gpu0": 20}, {"gpu1": 20}],
    "math": [{"gpu0": 20}, {"gpu1": 20}],
    "big": [{"gpu0": 22, "gpu1": 22}],
    "cpu": [{}],
}


class Told(FifoPolicy):
    """
    This policy is FIFO with LRU victims, until told what to say.

    @ivar view: what the policy was shown last.
    @ivar numbers: the number of each target's switch, as the policy was shown last.
    """

    def __init__(self) -> None:
        super().__init__(PolicyContext(weights={}, resources=RESOURCES, places=PLACES))
        self.says: list[Decision] = []
        self.view: IScheduleView
        self.numbers: dict[str, int] = {}

    def decide(self, view: IScheduleView) -> Decision:
        self.view = view
        self.numbers = {switch.target: switch.number for switch in view.switches}
        return self.says.pop(0) if self.says else super().decide(view)


def house(**settings: Any) -> tuple[World, Told]:
    policy = Told()
    world = World(
        lambda: policy, models=sorted(PLACES), resources=RESOURCES, places=PLACES, **settings
    )
    return world, policy


def awake(world: World) -> set[str]:
    return {name for name, what in world.switcher.status().items() if what.phase is Phase.AWAKE}


def test_models_that_fit_together_wake_side_by_side_and_are_awake_together() -> None:
    world, _ = house()
    clients = [world.ask(model) for model in ("chat", "code", "embed", "cpu")]
    assert len(world.hooks.running) == 4
    world.advance(1)
    assert all(client.served for client in clients)
    assert awake(world) == {"chat", "code", "embed", "cpu"}
    status = world.switcher.status()
    assert {status["chat"].place, status["code"].place} == {0, 1}


def test_the_least_recently_used_idle_model_makes_room() -> None:
    world, _ = house()
    world.wake("chat").finish()
    world.wake("code").finish()
    world.advance(1)
    world.ask("chat").finish()
    third = world.ask("math")
    world.advance(2)
    assert third.served
    assert awake(world) == {"chat", "math"}


def test_a_busy_model_makes_room_only_if_no_idle_one_suffices() -> None:
    world, _ = house()
    busy = world.wake("chat")
    world.wake("code").finish()
    world.advance(50)
    world.wake("math")
    assert awake(world) == {"chat", "math"}
    busy.finish()
    fourth = world.ask("code")
    world.advance(2)
    assert fourth.served and awake(world) == {"code", "math"}


def test_all_victims_have_drained_before_the_first_sleeps() -> None:
    world, _ = house()
    first, second = world.wake("chat"), world.wake("code")
    world.wake("embed").finish()
    big = world.ask("big")
    assert {world.phase(m) for m in ("chat", "code")} == {Phase.DRAINING}
    assert world.phase("embed") is Phase.AWAKE, "there is room for it beside big"
    first.finish()
    world.advance(10)
    assert world.ran(SLEEP) == []
    second.finish()
    assert sorted(world.ran(SLEEP)) == ["chat sleep", "code sleep"]
    assert len(world.hooks.running) == 2, "they sleep side by side"
    world.advance(2)
    assert big.served and awake(world) == {"big", "embed"}
    woke = next(e for e in world.events if isinstance(e, Woke) and e.model == "big")
    assert woke.victims == ("chat", "code") and woke.cost == pytest.approx(1.0)
    slept = [e for e in world.events if isinstance(e, Slept) and e.cost is not None]
    assert [e.cost for e in slept] == pytest.approx([1.0, 1.0])


def test_a_request_waits_only_for_the_room_that_its_model_has_not_got() -> None:
    """A client whose model is in nobody's way may stop reading for as long as it likes."""
    world, _ = house()
    world.wake("chat")
    world.wake("code")
    embed = world.ask("embed")
    assert embed.waits and not world.switcher.others_wait("chat"), "embed wakes beside chat"
    world.advance(1)
    world.switcher.steering.sleep(["code"], abort=False, force=False, by="somebody")
    assert world.phase("code") is Phase.DRAINING
    world.hooks.once("cpu", WAKE, 5.0, 0)
    world.ask("cpu")
    assert not world.switcher.others_wait("code"), "cpu wakes, and code sleeps for nobody"
    late = world.ask("code")
    assert late.waits and world.switcher.others_wait("code"), "code's own requests wait for it"
    late.leave()
    world.ask("big")
    assert world.switcher.others_wait("chat") and world.switcher.others_wait("code")


def test_nobody_takes_the_room_that_the_oldest_waiter_needs() -> None:
    world, _ = house(min_active=20.0)
    world.wake("chat").finish()
    big = world.ask("big")
    late = world.ask("code")
    world.advance(10)
    assert big.waits and late.waits, "gpu1 is free, but big, who came first, needs both"
    cpu = world.ask("cpu")
    world.advance(1)
    assert cpu.served, "who needs nothing that big needs does not wait for it"
    world.advance(10)
    assert big.served and late.waits


def test_a_switch_with_victims_on_one_resource_does_not_hold_up_the_other() -> None:
    world, _ = house()
    chat, code = world.wake("chat"), world.wake("code")
    math = world.ask("math")
    (switch,) = world.switcher.switches()
    assert switch.victims == ["chat"] and switch.phase is Phase.DRAINING
    embed = world.ask("embed")
    world.advance(1)
    assert embed.served and math.waits
    assert world.ask("code").served, "code is not touched"
    chat.finish()
    code.finish()
    world.advance(2)
    assert math.served


def test_a_rebind_spares_a_victim_which_serves_on_with_its_waiters() -> None:
    world, policy = house()
    chat, code = world.wake("chat"), world.wake("code")
    world.ask("big")
    late = world.ask("chat")
    assert late.waits
    policy.says = [Rebind(policy.numbers["big"], "math", 1, ("code",)), Stay()]
    math = world.ask("math")
    assert late.served and world.phase("chat") is Phase.AWAKE
    assert world.phase("code") is Phase.DRAINING
    (switch,) = world.switcher.switches()
    assert (switch.target, switch.place, switch.victims) == ("math", 1, ["code"])
    code.finish()
    world.advance(2)
    assert math.served
    assert world.switcher.capacity.free("gpu0") == 2, "of 24; big is next, and claims 22"
    chat.finish()


def test_a_rebind_may_take_another_victim_or_none() -> None:
    world, policy = house()
    chat, _ = world.wake("chat"), world.wake("code")
    math = world.ask("math")
    number = policy.numbers["math"]
    (switch,) = world.switcher.switches()
    assert switch.victims == ["chat"]
    policy.says = [Rebind(number, "math", 1, ("code",)), Stay()]
    world.ask("math")
    assert world.phase("chat") is Phase.AWAKE and world.phase("code") is Phase.DRAINING
    cpu = world.wake("embed")
    policy.says = [Rebind(number, "math", 0, ("chat",)), Stay()]
    world.ask("math")
    assert world.phase("chat") is Phase.DRAINING and world.phase("code") is Phase.AWAKE
    chat.finish()
    cpu.finish()
    world.advance(2)
    assert math.served


def test_a_switch_that_needs_no_victim_any_more_wakes_at_once() -> None:
    world, policy = house()
    chat = world.wake("chat")
    policy.says = [Switch("code", 0, ("chat",)), Stay()]
    code = world.ask("code")
    assert world.phase("chat") is Phase.DRAINING
    policy.says = [Rebind(policy.numbers["code"], "code", 1)]
    world.ask("code")
    assert world.phase("chat") is Phase.AWAKE and world.phase("code") is Phase.WAKING
    world.advance(1)
    assert code.served
    chat.finish()


def test_a_switch_whose_answer_would_take_what_is_reserved_is_refused() -> None:
    world, policy = house()
    world.wake("chat")
    world.ask("big")
    policy.says = [Switch("code", 1)]
    code = world.ask("code")
    assert code.waits and "code wake" not in world.ran(WAKE)
    text = world.switcher.metrics.expose().decode()
    assert 'llmux_policy_failures_total{question="nonsense"} 1.0' in text


def test_a_victim_that_does_not_sleep_leaves_the_others_asleep_and_fails_the_target() -> None:
    world, _ = house()
    world.wake("chat").finish()
    world.wake("code").finish()
    world.hooks.once("chat", SLEEP, 1.0, 1)
    big = world.ask("big")
    world.advance(1.5)
    assert big.error is not None and "chat does not go to sleep" in str(big.error)
    assert awake(world) == {"chat"} and world.phase("code") is Phase.ASLEEP
    assert world.switcher.capacity.free("gpu1") == 24, "the reservation is given back"


def test_fifo_wakes_at_most_as_many_at_a_time_as_parallel_wakes_says() -> None:
    context = PolicyContext(weights={}, resources=RESOURCES, places=PLACES, parallel_wakes=1)
    world = World(
        lambda: FifoPolicy(context),
        models=sorted(PLACES),
        resources=RESOURCES,
        places=PLACES,
    )
    first, second = world.ask("chat"), world.ask("code")
    assert len(world.hooks.running) == 1
    world.advance(1.5)
    assert first.served and second.waits
    world.advance(1)
    assert second.served


# --------------------------------------------------------------------- keep: always


def test_a_model_that_is_kept_awake_wakes_at_start_and_makes_room_for_nobody() -> None:
    world, policy = house(always=["embed"])
    world.advance(1)
    assert awake(world) == {"embed"}
    world.wake("chat").finish()
    world.wake("code").finish()
    assert world.ask("big").waits
    world.advance(3)
    assert awake(world) == {"embed", "big"}
    assert policy.view.may_sleep_from("embed") == float("inf")


def test_a_model_that_is_kept_awake_wakes_again_when_it_dies_and_keeps_its_room() -> None:
    world, policy = house(always=["embed"])
    world.advance(1)
    client = world.ask("embed")
    world.hooks.awake.discard("embed")
    world.hooks.script("embed", WAKE, 5.0)
    client.report_dead()
    world.advance(1.2)
    assert world.phase("embed") is Phase.ASLEEP, "it died without having answered: a back-off"
    assert world.switcher.capacity.free("gpu0") == 22, "its room is held for it"
    again = world.ask("embed")
    policy.says = [Switch("embed")]
    world.ask("chat")
    assert world.phase("embed") is Phase.ASLEEP, "no policy wakes such a model"
    world.advance(7)
    assert again.served and awake(world) >= {"embed"}


def test_the_wake_of_a_model_that_is_kept_awake_has_no_reason_of_another_decision() -> None:
    world, _ = house(always=["embed"])
    world.advance(1)
    world.wake("chat").finish()
    client = world.ask("embed")
    world.hooks.awake.discard("embed")
    client.report_dead()
    world.advance(5)
    told = [(each.target, each.reason) for each in world.switcher.chronicle.switches]
    assert [target for target, _ in told] == ["embed", "chat", "embed"]
    assert told[0][1] is told[2][1] is None and told[1][1] is not None


def test_a_model_that_is_kept_awake_is_tried_again_after_its_back_off() -> None:
    world, _ = house(always=["embed"], start=False)
    world.hooks.once("embed", WAKE, 1.0, 1)
    world.switcher.start()
    world.advance(1.5)
    assert world.phase("embed") is not Phase.AWAKE
    world.advance(10)
    assert world.phase("embed") is Phase.AWAKE
    assert world.ran(WAKE) == ["embed wake", "embed wake"]
    done = world.stop()
    world.advance(1)
    assert done == [None]


# ------------------------------------------------------------------------- at start


def test_all_that_are_awake_at_start_and_fit_are_adopted_where_they_were_woken() -> None:
    world, _ = house(awake=["chat", "code", "embed"], remembered={"chat": 1, "code": 0})
    assert awake(world) == {"chat", "code", "embed"}
    status = world.switcher.status()
    assert (status["chat"].place, status["code"].place, status["embed"].place) == (1, 0, 0)
    assert world.switcher.capacity.free("gpu0") == 2
    assert world.switcher.capacity.free("gpu1") == 4


def test_a_model_whose_place_nobody_knows_holds_all_its_places_until_it_has_slept() -> None:
    world, _ = house(awake=["chat", "embed"])
    assert awake(world) == {"chat", "embed"}
    assert world.switcher.status()["chat"].place is None
    assert world.switcher.capacity.held("chat") == {"gpu0": 20, "gpu1": 20}
    client = world.ask("code")
    world.advance(2)
    assert client.served and awake(world) == {"code", "embed"}
    world.wake("chat")
    assert awake(world) == {"code", "chat", "embed"}


def test_of_an_overdrawn_resource_all_sleep_but_those_that_are_kept_awake() -> None:
    world, _ = house(
        awake=["chat", "code", "big", "embed"],
        remembered={"chat": 0, "code": 1},
        always=["embed"],
        start=False,
    )
    world.switcher.start()
    client = world.ask("embed")
    world.settle()
    assert client.waits, "gpu0 is overdrawn: nobody on it is served"
    world.advance(1.1)
    assert client.served
    assert awake(world) == {"embed"}
    assert sorted(world.ran(SLEEP)) == ["big sleep", "chat sleep", "code sleep"]


def test_who_is_on_another_resource_does_not_wait_for_the_one_that_is_overdrawn() -> None:
    places = {"chat": 0, "code": 0, "math": 1}
    world, _ = house(awake=[*places, "embed"], remembered=places, always=["embed"], start=False)
    world.switcher.start()
    embed, math = world.ask("embed"), world.ask("math")
    world.settle()
    assert math.served and embed.waits
    world.advance(1.1)
    assert embed.served


def test_who_is_on_another_resource_is_adopted_though_one_is_overdrawn() -> None:
    world, _ = house(
        awake=["chat", "code", "math"], remembered={"chat": 0, "code": 0, "math": 1}
    )
    world.advance(2)
    assert awake(world) == {"math"}


# ------------------------------------------------------------------------ uncertain


def test_an_uncertain_model_blocks_only_who_needs_its_room() -> None:
    world, policy = house()
    policy.says = [Switch("chat", 0), Stay()]
    world.hooks.once("chat", WAKE, 1.0, 1)
    world.hooks.script("chat", SLEEP, 1.0, 1)
    failed = world.ask("chat")
    world.advance(3)
    assert failed.error is not None and world.phase("chat") is Phase.UNCERTAIN
    big, code = world.ask("big"), world.ask("code")
    embed = world.ask("embed")
    world.advance(2)
    assert big.waits and world.phase("chat") is Phase.UNCERTAIN
    assert code.waits, "big came first, and can use gpu1 as well"
    assert embed.waits
    big.leave()
    world.advance(2)
    assert code.served and world.switcher.status()["code"].place == 1
    assert embed.served, "2 of gpu0 are free beside what chat may hold"
    world.hooks.script("chat", SLEEP, 1.0)
    world.advance(100)
    assert world.phase("chat") is Phase.ASLEEP


# -------------------------------------------------------------------------- metrics


def test_metrics_say_what_is_held_and_how_many_made_room() -> None:
    world, _ = house()
    world.wake("chat").finish()
    world.wake("code").finish()
    text = world.switcher.metrics.expose().decode()
    for line in (
        'llmux_resource_capacity{resource="gpu0"} 24.0',
        'llmux_resource_held{model="chat",resource="gpu0"} 20.0',
        'llmux_resource_held{model="code",resource="gpu1"} 20.0',
    ):
        assert line in text, line
    world.wake("big").finish()
    world.wake("chat").finish()
    text = world.switcher.metrics.expose().decode()
    for line in (
        'llmux_resource_held{model="chat",resource="gpu0"} 20.0',
        'llmux_switch_total{from="several",result="success",to="big"} 1.0',
        'llmux_switch_total{from="big",result="success",to="chat"} 1.0',
        'llmux_switch_victims_bucket{le="0.0"} 2.0',
        'llmux_switch_victims_bucket{le="1.0"} 3.0',
        'llmux_switch_victims_bucket{le="2.0"} 4.0',
        "llmux_switch_victims_count 4.0",
    ):
        assert line in text, line
    assert 'model="big",resource' not in text
