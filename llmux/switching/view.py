"""What a policy sees when it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zope.interface import implementer

from llmux.interfaces import IScheduleContext, SlotPhase
from llmux.switching.cost import SwitchCostTracker
from llmux.switching.model import ModelQueue

__all__ = ["ScheduleContext"]


@implementer(IScheduleContext)
class ScheduleContext:
    """The policy's view of the switcher: one object, brought up to date for each question."""

    def __init__(
        self,
        queues: Mapping[str, ModelQueue],
        wanted: Mapping[str, ModelQueue],
        costs: SwitchCostTracker,
    ) -> None:
        self._queues = queues
        self._wanted = wanted
        self._costs = costs
        self.now = 0.0
        self.phase = SlotPhase.IDLE
        self.awake: str | None = None
        self.woke_at = 0.0
        self.in_flight = 0
        self.target: str | None = None

    def wanted(self) -> Sequence[str]:
        now, awake = self.now, self.awake
        return [
            name
            for name, queue in self._wanted.items()
            if name != awake and queue.backoff.until <= now
        ]

    def waiting(self, model: str) -> int:
        return len(self._queues[model].waiters)

    def oldest(self, model: str) -> float:
        return self._queues[model].oldest()

    def sum_of_ages(self, model: str) -> float:
        return self._queues[model].sum_of_ages(self.now)

    def sum_of_squared_ages(self, model: str) -> float:
        return self._queues[model].sum_of_squared_ages(self.now)

    def switch_cost(self, source: str | None, target: str) -> float | None:
        return self._costs.estimate(source, target)
