"""What a policy sees when a question is put to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zope.interface import implementer

from llmux.interfaces import IScheduleContext, SlotPhase
from llmux.switching.cost import SwitchCostTracker
from llmux.switching.model import Model

__all__ = ["ScheduleContext"]


@implementer(IScheduleContext)
class ScheduleContext:
    """The policy's view of the switcher, brought up to date for each question."""

    def __init__(
        self,
        models: Mapping[str, Model],
        wanted: Mapping[str, Model],
        costs: SwitchCostTracker,
    ) -> None:
        self._models = models
        self._wanted = wanted
        self._costs = costs
        self.now = 0.0
        self.phase = SlotPhase.IDLE
        self.awake: str | None = None
        self.woke_at = 0.0
        self.in_flight = 0
        self.target: str | None = None

    def look(
        self, now: float, phase: SlotPhase, awake: Model | None, target: Model | None
    ) -> None:
        """Bring the view up to date."""
        self.now = now
        self.phase = phase
        self.target = None if target is None else target.name
        if awake is None:
            self.awake = None
            self.in_flight = 0
        else:
            self.awake = awake.name
            self.woke_at = awake.woke_at
            self.in_flight = len(awake.guards)

    def wanted(self) -> Sequence[str]:
        """See L{IScheduleContext.wanted}."""
        now, awake = self.now, self.awake
        return [
            name
            for name, model in self._wanted.items()
            if name != awake and model.wake_backoff.until <= now
        ]

    def waiting(self, model: str) -> int:
        """See L{IScheduleContext.waiting}."""
        return self._models[model].waiting

    def oldest(self, model: str) -> float:
        """See L{IScheduleContext.oldest}."""
        return self._models[model].oldest()

    def sum_of_ages(self, model: str) -> float:
        """See L{IScheduleContext.sum_of_ages}."""
        return self._models[model].sum_of_ages(self.now)

    def sum_of_squared_ages(self, model: str) -> float:
        """See L{IScheduleContext.sum_of_squared_ages}."""
        return self._models[model].sum_of_squared_ages(self.now)

    def switch_cost(self, source: str | None, target: str) -> float | None:
        """See L{IScheduleContext.switch_cost}."""
        return self._costs.estimate(source, target)
