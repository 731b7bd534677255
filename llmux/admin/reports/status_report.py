"""
This module makes the status as an object: which models are awake, which requests wait, and why.

A status is built only when somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llmux._version import __version__
from llmux.admin.reports.moments import Moments
from llmux.admin.reports.reasons import in_words, reason_in_words, verb_of
from llmux.backend.whereabouts import address_text
from llmux.control import IControl
from llmux.monitoring.metrics import Metrics
from llmux.scheduling import Amount, Forecast, Needs, Phase, Stay
from llmux.switching.facts.chronicle import SwitchRecord
from llmux.switching.facts.model import Model
from llmux.switching.switcher import ModelSwitcher

__all__ = ["StatusReport"]


def _secs(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _plain(amount: Amount) -> int | float:
    return amount if isinstance(amount, int) else round(float(amount), 6)


def _amounts(needs: Needs) -> dict[str, int | float]:
    return {name: _plain(amount) for name, amount in needs.items() if amount}


class StatusReport:
    """
    A L{StatusReport} makes statuses of one switcher.

    @ivar generation: the number of configurations so far: 1 at the start, and one more for each
        reload.
    @ivar reload: the result of the last reload, or None if there was none.
    """

    def __init__(
        self,
        switcher: ModelSwitcher,
        metrics: Metrics,
        moments: Moments,
        policy: str,
        backends: Mapping[str, tuple[str, int | None]],
        names: Mapping[str, str],
        *,
        started: float,
        max_wait: float | None = None,
    ) -> None:
        """
        @param policy: the policy's name.
        @param backends: the host and port of each model's backend, as they are now; the port is
            0 if it is not known yet.
        @param names: all names by which requests may call models, each with the model's own
            name.
        @param started: when llmux started, on the switcher's clock.
        @param max_wait: the longest time that a request is to wait, in seconds, if the policy
            has one.
        """
        self._switcher = switcher
        self._metrics = metrics
        self._moments = moments
        self._backends = backends
        self._started = started
        self.reconfigured(policy, names, max_wait)
        self.generation = 1
        self.reload: Mapping[str, Any] | None = None

    def reconfigured(
        self, policy: str, names: Mapping[str, str], max_wait: float | None
    ) -> None:
        """Report this policy, these names and this longest wait from now on."""
        self._policy = policy
        self._names = names
        self._aliases: dict[str, list[str]] = {}
        for name, own in names.items():
            if name != own:
                self._aliases.setdefault(own, []).append(name)
        self._max_wait = max_wait

    def of_all(self, control: IControl, model: str | None = None) -> dict[str, Any]:
        """
        Return the whole status.

        @param model: the only model whose entry C{models} is to have; there is no entry if
            there is no such model.
        """
        switcher, at = self._switcher, self._moments.of
        now = switcher.clock.seconds()
        pause = control.pause
        paused = None
        if pause is not None:
            until = None if pause.until is None else at(pause.until)
            paused = {"until": until, "refuse": pause.refuses, "by": pause.by}
        pins = [
            {
                "model": pin.model,
                "until": None if pin.until is None else at(pin.until),
                "others": "refuse" if pin.refuses else "wait",
            }
            for pin in control.pins
        ]
        chosen = switcher.models.values() if model is None else self._only(model)
        entries = self.of_models(list(chosen), control, now)
        return {
            "schema": 1,
            "version": __version__,
            "now": at(now),
            "started": at(self._started),
            "generation": self.generation,
            "mode": "auto" if pause is None else "paused",
            "paused": paused,
            "pins": pins,
            "reload": self.reload,
            "policy": {
                "name": self._policy,
                "max_wait_secs": self._max_wait,
                "decision": self.decision(),
            },
            "resources": self._resources(),
            "switches": [self.of_switch(record) for record in switcher.chronicle.under_way],
            "models": entries,
        }

    def _only(self, name: str) -> list[Model]:
        found = self._switcher.models.get(self._names.get(name, name))
        return [] if found is None else [found]

    def latest_decision(self) -> object:
        """Return an object that is another one after each decision; None before the first."""
        return self._switcher.latest_decision

    def decision(self) -> dict[str, Any] | None:
        """Return the policy's last decision; None before the first."""
        latest = self._switcher.latest_decision
        if latest is None:
            return None
        when, decision = latest
        at, why = self._moments.of, decision.why
        until = decision.ask_again_at if isinstance(decision, Stay) else None
        return {
            "at": at(when),
            "do": verb_of(decision),
            "why": None if why is None else why.code,
            "model": None if why is None else why.model,
            "until": None if until is None else at(until),
            "text": in_words(decision, self._moments),
        }

    def history(self, since: float) -> dict[str, Any]:
        """
        Return what has happened to models, and in switches.

        @param since: a time on the switcher's clock; each model's first entry is its phase at
            that time.
        """
        at, chronicle = self._moments.of, self._switcher.chronicle
        models = {}
        for name in self._switcher.models:
            steps = list(chronicle.steps(name))
            first = 0
            for number, (when, _, _) in enumerate(steps):
                if when <= since:
                    first = number
            models[name] = [
                [at(when), phase.value, _amounts(held)] for when, phase, held in steps[first:]
            ]
        return {
            "now": at(self._switcher.clock.seconds()),
            "models": models,
            "switches": [
                self.of_past_switch(record)
                for record in chronicle.switches
                if record.began >= since
            ],
        }

    def _resources(self) -> list[dict[str, Any]]:
        capacity = self._switcher.capacity
        held: dict[str, dict[str, int | float]] = {name: {} for name in capacity.total}
        for model in capacity.holders():
            for resource, amount in capacity.held(model).items():
                if amount:
                    held[resource][model] = _plain(amount)
        return [
            {
                "name": name,
                "capacity": _plain(amount),
                "free": _plain(capacity.free(name)),
                "held": held[name],
            }
            for name, amount in capacity.total.items()
        ]

    # ---------------------------------------------------------------- switches

    def of_switch(self, record: SwitchRecord) -> dict[str, Any]:
        """Return the entry of a switch that is under way, or has just ended."""
        switcher, at = self._switcher, self._moments.of
        target = switcher.models[record.target]
        phase, since = Phase.DRAINING, record.began
        if record.result == "ok" or target.phase is Phase.WAKING:
            phase, since = Phase.WAKING, target.since
        elif record.hooks_began is not None:
            phase, since = Phase.SLEEPING, record.hooks_began
        return {
            "id": record.number,
            "target": record.target,
            "place": _amounts(target.settings.places[record.place]),
            "victims": list(record.victims),
            "phase": phase.value,
            "began": at(record.began),
            "since": at(since),
            "expected_secs": self._expected(record, phase),
            "result": record.result,
        }

    def _expected(self, record: SwitchRecord, phase: Phase) -> list[float] | None:
        """
        Return how many seconds the switch will take, as a least and a most, by what was learnt;
        None if nothing was.
        """
        chronicle = self._switcher.chronicle
        wake = chronicle.wake_secs.get(record.target)
        if wake is None or wake.value is None:
            return None
        sleeps = [chronicle.sleep_secs.get(victim) for victim in record.victims]
        sleep = max((s.value or 0.0 for s in sleeps if s is not None), default=0.0)
        drains = [each.drain_secs for each in chronicle.switches if each.drain_secs is not None]
        hooks = wake.value + sleep
        drain = max(drains[-20:], default=0.0) if record.victims else 0.0
        return [round(0.8 * hooks, 1), round(1.25 * hooks + drain, 1)]

    def of_past_switch(self, record: SwitchRecord) -> dict[str, Any]:
        """Return the entry of a switch that is over, for the history."""
        return {
            "id": record.number,
            "at": self._moments.of(record.began),
            "target": record.target,
            "victims": list(record.victims),
            "reason": None if record.reason is None else record.reason.code,
            "drain_secs": _secs(record.drain_secs),
            "cost_secs": _secs(record.cost_secs),
            "result": record.result,
        }

    # ------------------------------------------------------------------ models

    def of_models(
        self, models: list[Model], control: IControl, now: float
    ) -> list[dict[str, Any]]:
        """Return the entries of these models."""
        answered = self._metrics.answered()
        averages = self._switcher.chronicle.averages()
        costs: dict[str, dict[str, float]] = {}
        for source, target, secs in self._switcher.costs:
            if source is not None:
                costs.setdefault(source, {})[target] = round(secs, 3)
        pins = {pin.model: pin for pin in control.pins}
        # The policy does not know of pauses and pins, so its forecasts would be wrong.
        held_back = control.pause is not None or bool(control.pins)
        forecasts = {} if held_back else self._switcher.forecasts()
        return [
            self._of_model(model, now, answered, averages, costs, pins, forecasts)
            for model in models
        ]

    def _of_model(
        self,
        model: Model,
        now: float,
        answered: Mapping[str, tuple[int, int]],
        averages: Mapping[str, tuple[float | None, float | None]],
        costs: Mapping[str, Mapping[str, float]],
        pins: Mapping[str, Any],
        forecasts: Mapping[str, Forecast],
    ) -> dict[str, Any]:
        at, name = self._moments.of, model.name
        host, port = self._backends.get(name, ("", None))
        good, bad = answered.get(name, (0, 0))
        wake, sleep = averages.get(name, (None, None))
        last = self._switcher.chronicle.last_switch(name)
        oldest = model.oldest()
        pin = pins.get(name)
        sleeps_at = self._switcher.idleness.sleeps_at(model)
        return {
            "name": name,
            "aliases": self._aliases.get(name, []),
            "state": model.phase.value,
            "since": at(model.since) if model.phase is not Phase.UNKNOWN else None,
            "place": _amounts(self._switcher.capacity.held(name)) or None,
            "backend": address_text((host, port)) if port else None,
            "in_flight": len(model.guards),
            "waiters": model.waiting,
            "oldest_wait_secs": None if oldest == math.inf else round(now - oldest, 3),
            "turn": self._turn(forecasts.get(name)),
            "wake_secs": _secs(wake),
            "sleep_secs": _secs(sleep),
            "cost_secs": costs.get(name, {}),
            "last_switch": None if last is None else self._of_last(last),
            "answered": good,
            "failed": bad,
            "backoff": (
                self._backoff(model, now)
                if model.wake_backoff.until > now or model.sleep_backoff.until > now
                else None
            ),
            "idle_sleep_at": None if sleeps_at is None else at(sleeps_at),
            "pinned_until": None if pin is None or pin.until is None else at(pin.until),
        }

    def _turn(self, forecast: Forecast | None) -> dict[str, Any] | None:
        if forecast is None:
            return None
        why = forecast.why
        return {
            "position": forecast.position,
            "secs": [round(forecast.low, 1), round(forecast.high, 1)],
            "because": None if why is None else reason_in_words(why, self._moments),
        }

    def _of_last(self, record: SwitchRecord) -> dict[str, Any]:
        return {
            "at": self._moments.of(record.began),
            "victims": list(record.victims),
            "cost_secs": _secs(record.cost_secs),
            "drain_secs": _secs(record.drain_secs),
            "result": record.result,
        }

    def _backoff(self, model: Model, now: float) -> dict[str, Any] | None:
        for backoff, what in (
            (model.wake_backoff, "it did not wake"),
            (model.sleep_backoff, "it did not go to sleep"),
        ):
            if backoff.until > now:
                return {
                    "until": self._moments.of(backoff.until),
                    "tries": backoff.tries,
                    "reason": f"{what} ({backoff.reason})" if backoff.reason else what,
                }
        return None
