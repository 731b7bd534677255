"""This module has the policy of another program, to compare with."""

from __future__ import annotations

from typing import Any

from llmux.interfaces import (
    Decision,
    IScheduleView,
    Phase,
    PolicyEvent,
    Rebind,
    Stay,
    Switch,
    WaitingRequest,
)
from llmux.policy.fifo import FifoPolicy

__all__ = ["ExhaustivePolicy"]


class ExhaustivePolicy(FifoPolicy):
    """
    This policy serves all that is queued, arrivals included, then goes to the model of the
    oldest waiter: llama-swap does that with one model at a time.
    """

    observed: frozenset[type[Any]] = frozenset()

    def observe(self, event: PolicyEvent) -> None:
        """Ignore all events."""

    def decide(self, view: IScheduleView) -> Decision:
        """Leave when nothing is in flight."""
        wanted = view.wanted()
        for switch in view.switches:
            if switch.phase is Phase.DRAINING and wanted:
                target = min(wanted, key=view.oldest)
                if view.oldest(target) < view.oldest(switch.target):
                    return Rebind(switch.number, target, 0, switch.victims)
            return Stay()
        if any(view.in_flight(model) for model in view.holders()):
            return Stay()
        decision = super().decide(view)
        return decision if isinstance(decision, Switch) else Stay()

    def admit(self, view: IScheduleView, request: WaitingRequest) -> bool:
        """Let every request in."""
        return True
