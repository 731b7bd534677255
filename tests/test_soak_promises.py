"""These tests check that the soak finds what breaks a promise, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.clients import Outcome
from tests.soak.episode import Episode
from tests.soak.promises import check_promises
from tests.soak.story import Life

S = 10**9


class Staged:
    """This is an episode that has not been run: the test writes its truth."""

    def __init__(self, directory: Path) -> None:
        self.episode = Episode(1, 1, directory)
        self.episode.draining = True
        self.episode.few_descriptors = False
        self.episode.drain_timeout = None
        self.episode.request_timeout = 15.0
        self.episode.lives = [Life(0, 0, up=1, ended=1000 * S)]
        self.lines: list[str] = []

    def truth(self, at: float, what: str, model: str = "a", who: str = "1") -> None:
        self.lines.append(f"{int((100 + at) * S)} {what} {model} {who}\n")

    def request(self, start: float, end: float, nonce: str = "n", **keys: object) -> None:
        outcome = Outcome(nonce, "a", True, "", int((100 + start) * S))
        outcome.ended = int((100 + end) * S)
        outcome.status, outcome.whole = 200, True
        for key, value in keys.items():
            setattr(outcome, key, value)
        self.episode.outcomes.append(outcome)

    def fault(self, at: float, what: str, whom: str = "a") -> None:
        self.episode.faults.append((int((100 + at) * S), what, whom))

    def kinds(self) -> list[str]:
        (self.episode.directory / "truth").write_text("".join(self.lines))
        check_promises(self.episode)
        return [violation.kind for violation in self.episode.violations]


@pytest.fixture
def staged(tmp_path: Path) -> Staged:
    return Staged(tmp_path)


def served(staged: Staged, start: float, end: float, nonce: str = "n") -> None:
    staged.truth(start, "begin", who=nonce)
    staged.truth(start, "first", who=nonce)
    staged.truth(end, "end", who=nonce)


def test_a_request_that_is_served_between_wake_and_sleep_is_right(staged: Staged) -> None:
    staged.truth(0, "wake-begin")
    staged.truth(1, "wake-end")
    served(staged, 2, 3)
    staged.request(0, 3)
    staged.truth(4, "sleep-begin")
    assert staged.kinds() == []


def test_two_models_awake_are_seen(staged: Staged) -> None:
    staged.truth(1, "TWO", "b", "beside-a/1-2")
    assert staged.kinds() == ["two models awake"]


def test_a_sleep_hook_beside_a_request_is_seen(staged: Staged) -> None:
    staged.truth(0, "wake-begin")
    served(staged, 2, 4)
    staged.request(0, 4)
    staged.truth(3, "sleep-begin")
    assert staged.kinds() == ["a sleep hook with a request in flight"]


def test_without_draining_a_sleep_hook_may_run_beside_a_request(staged: Staged) -> None:
    staged.episode.draining = False
    staged.truth(0, "wake-begin")
    served(staged, 2, 4)
    staged.request(0, 4)
    staged.truth(3, "sleep-begin")
    assert staged.kinds() == []


def test_a_request_after_the_begin_of_sleep_is_seen(staged: Staged) -> None:
    staged.truth(0, "wake-begin")
    staged.truth(1, "sleep-begin")
    served(staged, 2, 3)
    staged.request(0, 3)
    assert staged.kinds() == ["a request after the begin of sleep"]


def test_a_model_whose_sleep_failed_and_that_says_yes_may_serve_on(staged: Staged) -> None:
    staged.truth(0, "wake-begin")
    staged.truth(1, "sleep-begin")
    staged.truth(1.5, "alive-begin")
    served(staged, 2, 3)
    staged.request(0, 3)
    assert staged.kinds() == []


def test_a_third_execution_is_seen_and_so_is_one_after_a_byte(staged: Staged) -> None:
    for at in (1, 2, 3):
        staged.truth(at, "begin", who="n")
    staged.truth(4, "begin", who="m")
    staged.truth(4.1, "first", who="m")
    staged.truth(5, "begin", who="m")
    assert staged.kinds() == ["begun more than twice", "begun anew after a byte of reply"]


def test_a_reply_that_was_cut_off_needs_a_reason(staged: Staged) -> None:
    staged.request(0, 3, whole=False)
    assert staged.kinds() == ["a reply cut off for no reason"]


def test_the_death_of_a_server_is_a_reason(staged: Staged) -> None:
    staged.request(0, 3, whole=False)
    staged.fault(2, "kill -9 of a server")
    assert staged.kinds() == []


def test_no_reply_at_all_needs_a_reason_too(staged: Staged) -> None:
    staged.request(0, 3, status=0, whole=False)
    assert staged.kinds() == ["no reply"]


def test_a_wait_beyond_the_limit_is_seen(staged: Staged) -> None:
    staged.request(0, 60)
    assert staged.kinds() == ["waited too long"]


def test_what_a_client_says_is_wrong_is_wrong(staged: Staged) -> None:
    staged.request(0, 3, problem="another's reply: b'm'")
    assert staged.kinds() == ["another's reply"]


@pytest.mark.parametrize(("counted", "agrees"), [(0, False), (1, True), (2, True), (3, False)])
def test_counters_agree_within_what_clients_cannot_know(
    staged: Staged, counted: int, agrees: bool
) -> None:
    staged.request(0, 3)
    staged.request(0, 3, stayed=False, whole=False)
    staged.episode.lives[0].counters = {("a", "200"): counted}
    assert (staged.kinds() == []) is agrees


def test_a_request_to_a_model_that_sleeps_is_seen(staged: Staged) -> None:
    staged.truth(0, "wake-begin")
    staged.truth(1, "sleep-begin")
    staged.truth(1.5, "alive-begin")
    staged.truth(2, "begin", who="n")
    staged.truth(2, "asleep", who="n")
    staged.request(0, 3, status=500)
    assert staged.kinds() == ["a request to a model that sleeps"]


def test_a_server_that_died_and_is_back_asleep_may_be_asked_for_a_while(staged: Staged) -> None:
    staged.truth(0, "wake-begin")
    staged.fault(1, "kill -9 of a server")
    staged.truth(2, "begin", who="n")
    staged.truth(2, "asleep", who="n")
    staged.request(0, 3, status=500)
    assert staged.kinds() == []
