"""
Hundreds of requests over three models, with hooks that take their time and
fail, clients that leave and backends that die: what must hold all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from llmux.interfaces import HookKind, ISwitchPolicy
from llmux.policy.fifo import FifoPolicy
from llmux.switching.phases import Phase
from tests.world import ALIVE, SLEEP, WAKE, Client, World, eager_cost_aware


class Chaos:
    """One run of it."""

    def __init__(self, seed: int, policy: Callable[[], ISwitchPolicy]) -> None:
        self.random = Random(seed)
        chance = self.random.random
        self.draining = chance() < 0.7
        self.world = World(
            policy,
            awake=[m for m in "abc" if chance() < 0.3],
            wake_limit=20.0,
            request_timeout=self.random.choice([None, 5.0, 60.0]),
            min_active=self.random.choice([0.0, 0.0, 3.0]),
            drain_before_switch=self.draining,
            drain_timeout=self.random.choice([None, None, 4.0]),
            sleep_on_exit=chance() < 0.5,
        )
        self.hooks = self.world.hooks
        self.hooks.limits = {WAKE: 15.0, SLEEP: 10.0, ALIVE: 2.0}
        self._start = self.hooks.start
        self.hooks.start = self._check_and_start  # type: ignore[method-assign]  # watches
        self.clients: list[Client] = []

    def _check_and_start(self, model: str, hook: HookKind) -> Any:
        phase = self.world.phase(model)
        if hook is SLEEP and self.draining and phase is not Phase.UNCERTAIN:
            flying = [g for g in self.world.clients_in_flight() if g.model == model]
            assert not flying, "a sleep hook began with requests in flight"
        if hook is not ALIVE:
            # Only at start several models may be cleaned up side by side.
            assert not any(
                h.hook is not ALIVE and (h.model == model or h.hook is WAKE or hook is WAKE)
                for h in self.hooks.running
            ), "two hooks at once"
        if hook is WAKE:
            assert not self.hooks.awake, f"woke {model} with {self.hooks.awake} awake"
        return self._start(model, hook)

    def _roll_hooks(self) -> None:
        random = self.random
        for model in "abc":
            for hook, failing in ((WAKE, 0.15), (SLEEP, 0.15)):
                code = 1 if random.random() < failing else 0
                delay = None if random.random() < 0.03 else random.choice([0.0, 0.3, 2.0])
                self.hooks.script(model, hook, delay, code)

    def _act(self) -> None:
        random = self.random
        deed = random.random()
        flying = [c for c in self.clients if c.guard is not None and not c.guard.released]
        waiting = [c for c in self.clients if c.waits]
        if deed < 0.4:
            self.clients.append(self.world.ask(random.choice("aabc")))
        elif deed < 0.7 and flying:
            random.choice(flying).finish()
        elif deed < 0.78 and waiting + flying:
            random.choice(waiting + flying).leave()
        elif deed < 0.84 and flying:
            victim = random.choice(flying)
            if random.random() < 0.7:
                self.hooks.awake.discard(victim.model)
            victim.report_dead()
        elif deed < 0.9:
            self._roll_hooks()
        else:
            self.world.advance(random.choice([0.1, 0.5, 3.0]))

    def run(self, steps: int) -> None:
        most = len(self.hooks.awake)
        for _ in range(steps):
            self._act()
            for client in self.clients:
                # One answer each: a guard or an error, never both.
                assert client.guard is None or client.error is None
            awake = len(self.hooks.awake)
            assert awake <= max(1, most), "two awake at once"
            most = awake
        # The weather clears: everything works, and everybody is served.
        for model in "abc":
            self.hooks.script(model, WAKE, 0.2)
            self.hooks.script(model, SLEEP, 0.2)
        for _ in range(400):
            for client in self.clients:
                if client.guard is not None:
                    client.guard.release()
            self.world.advance(0.5)
            if not any(client.waits for client in self.clients):
                break
        assert not any(client.waits for client in self.clients), "somebody waits for ever"
        for client in self.clients:
            if client.guard is not None:
                client.guard.release()
        done = self.world.stop()
        self.world.advance(100)
        assert done == [None]
        self.world.nothing_left()


@pytest.mark.parametrize("policy", [FifoPolicy, eager_cost_aware], ids=["fifo", "cost_aware"])
@pytest.mark.parametrize("seed", range(60))
def test_chaos(seed: int, policy: Callable[[], ISwitchPolicy]) -> None:
    Chaos(seed, policy).run(400)
