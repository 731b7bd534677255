"""
This module contains the faults of a policy: if the policy raises, or gives an answer that
cannot be carried out, the question is answered as FIFO would answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from llmux.interfaces import (
    Decision,
    Estimate,
    Forecast,
    IForecaster,
    IScheduleView,
    ISwitchPolicy,
    PolicyEvent,
    WaitingRequest,
)
from llmux.monitoring.metrics import Metrics
from llmux.policy.fifo import FifoPolicy
from llmux.switching.decisions.answers import problem_with

__all__ = ["ContainedPolicy"]

_QUIET = 60.0
"""At least this many seconds pass between two lines in the log about the same kind of fault."""


@implementer(ISwitchPolicy)
class ContainedPolicy:
    """
    A L{ContainedPolicy} calls another policy, whose faults are counted, and logged once a
    minute.

    @ivar policy: the other policy.
    @ivar observe: the other policy's own method, for speed; the caller must catch what it
        raises, and call L{listener_failed}.
    """

    _log = Logger()

    def __init__(self, policy: ISwitchPolicy, clock: IReactorTime, metrics: Metrics) -> None:
        self.policy = policy
        self._instead = FifoPolicy()
        self._clock = clock
        self._metrics = metrics
        self._said_at: dict[str, float] = {}
        self.observed: frozenset[type[Any]] = frozenset(policy.observed)
        self.observe: Callable[[PolicyEvent], None] = policy.observe

    def replace(self, policy: ISwitchPolicy) -> None:
        """Ask another policy from now on."""
        self.policy = policy
        self.observed = frozenset(policy.observed)
        self.observe = policy.observe

    def observed_late(self, event: PolicyEvent) -> None:
        """Show the policy an event that happened before the policy was there."""
        if type(event) in self.observed:
            try:
                self.observe(event)
            except Exception:
                self._failed("observe", "the policy raised in observe")

    def decide(self, view: IScheduleView) -> Decision:
        """See L{ISwitchPolicy.decide}.  The answer can always be carried out."""
        try:
            decision = self.policy.decide(view)
            problem = problem_with(decision, view)
        except Exception:
            self._failed("decide", "the policy raised in decide; FIFO answers")
            return self._instead.decide(view)
        if problem is None:
            return decision
        self._metrics.policy_failed("nonsense")
        if self._may_say("nonsense"):
            self._log.error(
                "the policy answered nonsense: {problem}; FIFO answers",
                event="policy_failed",
                problem=problem,
            )
        return self._instead.decide(view)

    def admit(self, view: IScheduleView, request: WaitingRequest) -> bool:
        """See L{ISwitchPolicy.admit}."""
        try:
            return bool(self.policy.admit(view, request))
        except Exception:
            self._failed("admit", "the policy raised in admit; FIFO answers")
            return self._instead.admit(view, request)

    def estimates(self) -> Iterable[Estimate]:
        """See L{ISwitchPolicy.estimates}."""
        try:
            return list(self.policy.estimates())
        except Exception:
            self._failed("estimates", "the policy raised in estimates")
            return ()

    def forecasts(self, view: IScheduleView) -> Mapping[str, Forecast]:
        """Return what the policy expects of models that are waited for, if it says so."""
        if not IForecaster.providedBy(self.policy):
            return {}
        try:
            return {each.model: each for each in IForecaster(self.policy).forecast(view)}
        except Exception:
            self._failed("forecast", "the policy raised in forecast")
            return {}

    def goes_in_circles(self) -> None:
        """
        Log and count that the policy has changed its decision too often in one turn of the
        reactor.
        """
        self._metrics.policy_failed("circles")
        if self._may_say("circles"):
            self._log.error(
                "the policy changes its mind for ever; it is asked again in a second",
                event="policy_failed",
            )

    def listener_failed(self, listener: Callable[[PolicyEvent], None]) -> None:
        """Log and count the exception that is being handled, which this listener has raised."""
        if listener is self.observe:
            self._failed("observe", "the policy raised in observe")
        else:
            self._failed("observer", "an observer raised")

    def _failed(self, question: str, text: str) -> None:
        self._metrics.policy_failed(question)
        if self._may_say(question):
            self._log.failure(text, event="policy_failed", question=question)

    def _may_say(self, question: str) -> bool:
        now = self._clock.seconds()
        said_at = self._said_at.get(question)
        if said_at is not None and now - said_at < _QUIET:
            return False
        self._said_at[question] = now
        return True
