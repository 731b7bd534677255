"""
These tests give a switcher other configurations at random, in the middle of random lives:
models come, go and change, there is more room or less, and another policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llmux.interfaces import Phase, PolicyContext
from llmux.switching.facts.settings import ModelSettings, SwitchSettings
from llmux.switching.reconfiguration import Arrangement
from llmux.switching.wishes.idleness import DefaultModel
from tests.conftest import LoggedFailures
from tests.random_house import (
    ErraticPolicy,
    House,
    MakePolicy,
    erratic,
    plain_cost_aware,
    plain_fifo,
    random_room,
)
from tests.world import SLEEP, WAKE


class RearrangedHouse(House):
    """A rearranged house gets another configuration now and then."""

    def _begin(
        self, awake: Sequence[str], remembered: dict[str, int], interrupted: Sequence[str]
    ) -> None:
        # A model that is configured no longer is a stray, of which llmux knows nothing; and a
        # place that is noted for another configuration has another number.
        super()._begin(
            [model for model in awake if model in self.places],
            {},
            [model for model in interrupted if model in self.places],
        )

    def act(self) -> None:
        """See L{House.act}."""
        if self.random.random() < 0.05:
            self.rearrange()
        else:
            super().act()

    def rearrange(self) -> None:
        """Take another configuration over."""
        random, switcher = self.random, self.world.switcher
        self._choose_models()
        self.models = models = sorted(self.places)
        for pin in switcher.steering.pins:
            if pin.model not in models:
                switcher.steering.unpin(pin.model, "test")
        own = {model: self._settings_of(model) for model in models}
        of_switches = SwitchSettings(
            **{key: value for key, value in self._settings.items() if key != "wake_limit"}
        )
        others = [model for model in models if model not in self.always]
        default = None
        if others and random.random() < 0.3:
            default = DefaultModel(random.choice(others), 3.0)
        leaving = [name for name in switcher.models if name not in models]
        context = PolicyContext(
            weights=dict.fromkeys([*models, *leaving], 1.0),
            resources=self.resources,
            places={**{name: ({},) for name in leaving}, **self.places},
            always=frozenset(self.always),
        )
        self.policy = self._make_policy(context, random)
        self.roll()
        preload = random.sample(models, random.randrange(2))
        arrangement = Arrangement(own, of_switches, self.resources, preload, default)
        switcher.reconfiguration.begin(arrangement, (self.policy, False))

    def _choose_models(self) -> None:
        random = self.random
        if random.random() < 0.5:
            self.resources, self.places, self.always = random_room(random)
            return
        places = dict(self.places)
        names = [name for name in places if name not in self.always]
        if len(names) > 1 and random.random() < 0.5:
            del places[random.choice(names)]
        else:
            places[random.choice("abcde")] = places[random.choice(names)]
        self.places = places

    def _settings_of(self, model: str) -> ModelSettings:
        random = self.random
        more: dict[str, Any] = {}
        if model in self.always:
            more["always"] = True
        else:
            more["idle_sleep"] = random.choice([None, None, 4.0])
        return ModelSettings(
            20.0,
            sleep_timeout=random.choice([5.0, 300.0]),
            check=random.choice([None, 2.0]),
            places=self.places[model],
            **more,
        )

    def calm_down(self) -> None:
        """See L{House.calm_down}."""
        self.rearrange()
        if isinstance(self.policy, ErraticPolicy):
            self.policy.calm = True
        for model in self.world.switcher.models:
            for hook in (WAKE, SLEEP):
                self.hooks.script(model, hook, 0.2)
        super().calm_down()

    def check(self) -> None:
        """See L{House.check}."""
        super().check()
        models = self.world.switcher.models
        for name in self.hooks.awake:
            assert name in models, f"{name} is awake, and forgotten"
            assert models[name].phase is not Phase.ASLEEP


@pytest.mark.parametrize(
    "policy",
    [plain_fifo, plain_cost_aware, erratic],
    ids=["fifo", "cost_aware", "erratic"],
)
@pytest.mark.parametrize("seed", range(20))
def test_random_configurations_lose_no_request_and_leave_no_model_behind(
    seed: int, policy: MakePolicy, logged_failures: LoggedFailures
) -> None:
    house = RearrangedHouse(seed, policy)
    house.live(120)
    house.kill()
    house.live(60)
    house.calm_down()
    house.stop()
    house.restart()
    house.live(20)
    house.calm_down()
    house.stop()
    assert house.events > 50
    # Only the errors that the erratic policy raises are taken away.
    logged_failures.flush(ZeroDivisionError)
