"""This module has a world under the cost-aware policy."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from llmux.interfaces import (
    PolicyContext,
    PolicyEvent,
)
from llmux.policy.cost_aware import (
    CostAwarePolicy,
    CostAwareSettings,
)
from llmux.policy.knowledge import Knowledge, ModelKnowledge
from tests.world import SLEEP, WAKE, World

__all__ = ["PARAMETERS", "agent", "known", "make", "serve", "wake", "world"]

PARAMETERS = st.builds(
    CostAwareSettings,
    quantum=st.floats(0, 20),
    max_wait_secs=st.floats(0, 60),
    cap=st.floats(1, 4),
    stretch=st.floats(0, 5),
    floor=st.floats(0, 2),
    linger=st.floats(0, 5),
    pace=st.floats(0, 2),
)
"""The bound on waiting holds for all of these settings."""


def make(**values: float) -> CostAwarePolicy:
    """Make the policy with these settings; C{weight_a} is the weight of the model a."""
    weights = {name: values.pop(f"weight_{name}", 1.0) for name in "abc"}
    return CostAwarePolicy(PolicyContext(weights=weights), CostAwareSettings(**values))


def known(name: str) -> tuple[Callable[[PolicyEvent], None], ModelKnowledge]:
    """
    Return a function that shows an event to the policy's knowledge, and what that knows of one
    model.
    """
    knowledge = Knowledge(PolicyContext(weights=dict.fromkeys("abc", 1.0)), 10.0)
    return lambda event: knowledge.learn[type(event)](event), knowledge.models[name]


def world(cost: float = 10.0, **values: float) -> World:
    """
    Make a world with models a, b and c; any switch takes C{cost} seconds, and the policy knows
    it.
    """
    made = World(lambda: make(initial_switch_cost_secs=cost, **values))
    for name in "abc":
        made.hooks.script(name, WAKE, cost / 2)
        made.hooks.script(name, SLEEP, cost / 2)
    return made


def serve(at: World, model: str, seconds: float) -> None:
    """Ask for a model, have the request served for so many seconds, and finish it."""
    client = at.ask(model)
    while not client.served:
        at.advance(0.5)
    at.advance(seconds)
    client.finish()


def wake(at: World, model: str, *, service: float = 2.0, times: int = 6) -> None:
    """Wake a model until its service times are known, and its quantum is over."""
    for _ in range(times):
        serve(at, model, service)
    at.advance(100)


def agent(at: World, think: float, steps: int) -> None:
    """Run a client that asks for a again some time after each answer."""
    for _ in range(steps):
        serve(at, "a", 1.0)
        at.advance(think)
