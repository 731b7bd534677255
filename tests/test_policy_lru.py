"""These tests check the policy lru, under the production switcher."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from llmux.interfaces import ISwitchPolicy, ISwitchPolicyFactory, PolicyContext
from llmux.policy.catalog import find_policy
from llmux.policy.fifo import FifoPolicy
from llmux.policy.lru import LruPolicy
from tests.world import World

TWO = {"gpu": 2}
ONE_EACH = {model: [{"gpu": 1}] for model in "abc"}
CONTEXT = PolicyContext(dict.fromkeys("abc", 1.0), resources=TWO, places=ONE_EACH)


def world(policy: type[FifoPolicy] = LruPolicy) -> World:
    return World(lambda: policy(CONTEXT), resources=TWO, places=ONE_EACH)


def test_the_policy_is_found_by_its_name() -> None:
    factory = find_policy("lru")
    assert verifyObject(ISwitchPolicyFactory, factory)
    policy = factory.build(CONTEXT, None)
    assert type(policy) is LruPolicy
    assert verifyObject(ISwitchPolicy, policy)


def test_the_idle_model_that_was_used_least_recently_makes_room() -> None:
    found = world()
    a, b = found.ask("a"), found.ask("b")
    found.advance(1)
    b.finish()
    found.advance(1)
    a.finish()
    found.ask("c")
    found.advance(2)
    assert found.switches() == ["+a", "+b", "-b", "+c"]


def test_an_idle_model_makes_room_before_a_busy_one_that_was_used_before_it() -> None:
    found = world()
    found.ask("a"), found.ask("b")
    found.advance(1)
    for client in found.clients_in_flight():
        client.release()
    found.advance(1)
    found.ask("a")
    found.advance(1)
    found.ask("b")
    for guard in found.switcher.models["b"].guards.copy():
        guard.release()
    found.ask("c")
    found.advance(2)
    assert found.switches()[-2:] == ["-b", "+c"], "b was used last, but a is busy"


@pytest.mark.parametrize(("policy", "is_served"), [(LruPolicy, True), (FifoPolicy, False)])
def test_the_door_of_a_model_that_is_to_go_stays_open(
    policy: type[FifoPolicy], is_served: bool
) -> None:
    """The other model waits as long as requests keep coming; fifo admits none of them."""
    found = world(policy)
    first, _ = found.ask("a"), found.ask("b")
    found.advance(1)
    found.ask("c")
    late = found.ask("a")
    assert late.served is is_served
    first.finish()
    found.advance(2)
    assert ("+c" in found.switches()) is not is_served
    if is_served:
        late.finish()
        found.advance(2)
        assert found.switches()[-2:] == ["-a", "+c"]
