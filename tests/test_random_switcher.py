"""
These tests run hundreds of requests over several models with random needs, with hooks that take
their time and fail, clients that leave, backends that die, policies that answer nonsense, and
an llmux that stops, is killed and starts again: they check what must hold all the same.
"""

from __future__ import annotations

import pytest

from tests.conftest import LoggedFailures
from tests.random_house import (
    House,
    MakePolicy,
    erratic,
    plain_cost_aware,
    plain_fifo,
)


@pytest.mark.parametrize(
    "policy",
    [plain_fifo, plain_cost_aware, erratic],
    ids=["fifo", "cost_aware", "erratic"],
)
@pytest.mark.parametrize("seed", range(60))
def test_random_lives_with_random_needs(
    seed: int, policy: MakePolicy, logged_failures: LoggedFailures
) -> None:
    house = House(seed, policy)
    house.live(150)
    house.kill()
    house.live(100)
    house.calm_down()
    house.live(50)
    house.stop()
    house.restart()
    house.calm_down()
    house.stop()
    assert house.events > 100
    # Only the errors that the erratic policy raises are taken away.
    logged_failures.flush(ZeroDivisionError)
