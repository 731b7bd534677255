"""
These tests run a small part of the random faults on random machines, and check that defects are
noticed.
"""

from __future__ import annotations

import pytest

from llmux.interfaces import Needs
from llmux.switching.facts.capacity import Capacity
from tests.benchmarks.faults import POLICIES, Episode


@pytest.mark.parametrize("seed", range(24))
def test_random_faults_on_a_random_machine_break_no_invariant(seed: int) -> None:
    episode = Episode(seed)
    episode.run(500)
    assert episode.counts["wake hooks"]


def test_the_episodes_have_every_policy_and_models_that_are_kept_awake() -> None:
    episodes = [Episode(seed) for seed in range(60)]
    assert {episode.policy for episode in episodes} == set(POLICIES)
    assert any(episode.machine.always for episode in episodes)
    assert any(len(episode.machine.resources) > 2 for episode in episodes)


def test_a_ledger_that_forgets_what_is_held_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(self: Capacity, model: str) -> Needs:
        return {}

    monkeypatch.setattr(Capacity, "held", forget)
    with pytest.raises(AssertionError, match="holds another place's needs"):
        for seed in range(5):
            Episode(seed).run(500)


def test_a_ledger_that_gives_more_than_there_is_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Capacity, "_suffices", lambda self, needs, victims: True)
    monkeypatch.setattr(Capacity, "free", lambda self, resource: self.total[resource])
    with pytest.raises(AssertionError, match=r"woke without|leaked|more is held"):
        for seed in range(10):
            Episode(seed).run(500)
