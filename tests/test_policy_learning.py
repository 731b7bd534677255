"""These tests check that what a policy knows is kept when the configuration is read anew."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from llmux.interfaces import (
    ONE_SLOT,
    Arrived,
    Completed,
    Forwarded,
    ILearningPolicy,
    ISwitchPolicy,
    PolicyContext,
    Slept,
    Woke,
)
from llmux.policy.catalog import find_policy


def build(name: str, models: str, **settings: float) -> ISwitchPolicy:
    factory = find_policy(name)
    context = PolicyContext(
        dict.fromkeys(models, 1.0), ONE_SLOT, dict.fromkeys(models, (ONE_SLOT,))
    )
    own = None if factory.settings is None else factory.settings(**settings)
    return factory.build(context, own)


def known_of(policy: ISwitchPolicy, model: str) -> dict[str, float]:
    return {e.name: e.value for e in policy.estimates() if e.labels.get("model") == model}


def serve(policy: ISwitchPolicy, model: str, now: float) -> None:
    """Tell the policy that a request waits for the model, is answered, and the model sleeps."""
    for event in (
        Arrived(now, model, 1),
        Woke(now + 3, model, 0, (), 3.0),
        Forwarded(now + 3, model, 1, 3.0),
        Completed(now + 8, model, 1, 5.0, True),
        Slept(now + 10, model, 2.0),
    ):
        policy.observe(event)


@pytest.mark.parametrize("name", ["cost_aware", "fifo", "lru"])
def test_each_policy_of_ours_goes_on_with_what_it_has_learnt(name: str) -> None:
    assert verifyObject(ILearningPolicy, build(name, "ab"))


def test_cost_aware_knows_of_the_models_that_stay_what_it_knew_before() -> None:
    before = build("cost_aware", "ab")
    serve(before, "a", 1.0)
    known = known_of(before, "a")
    assert {"service_seconds", "first_wait_seconds"} <= set(known)
    after = build("cost_aware", "ac", max_wait_secs=30.0)
    assert known_of(after, "a") == {}
    ILearningPolicy(after).learn_from(before)
    assert known_of(after, "a") == known
    for model in "ac":
        serve(after, model, 20.0)
    assert known_of(after, "c")["first_wait_seconds"] == 3.0


def test_what_another_policy_knows_is_of_no_use() -> None:
    policy = build("cost_aware", "ab")
    ILearningPolicy(policy).learn_from(build("fifo", "ab"))
    assert known_of(policy, "a") == {}
