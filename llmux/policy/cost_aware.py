"""
The default policy serves the models that are awake until it is cheaper to leave one of them,
and limits the time that any request waits.

This policy, and the modules beside this one, use these words:

  - I{demand}: what makes a sleeping model wanted.  A model's demand begins when the
    first request since the model last woke arrives, and ends when the model wakes,
    even if that request has left by then.  The I{age} of a demand is the time since
    its beginning.
  - I{starving}: a demand is starving when its age has reached the I{limit},
    C{max_wait_secs} or more.  A starving model is the next to wake.
  - I{switch cost}: the seconds of a sleep hook and a wake hook together.
  - I{place}, I{victim}: see L{llmux.scheduling}.  I{plan}: a place for a model, and the
    victims that make room there (L{llmux.policy.plans}).
  - I{loss}: what the clients of a victim lose if the victim is left now.
  - I{reserved model}: the model for which room is kept, since that model starves, or will
    have a plan at a known time.  Other plans must not delay a reserved model.
  - I{turns}: the number of models that are served at a time.
  - I{size}: the part of all capacity that a model needs.
  - I{quantum}: the time after a wake in which a model that has requests in flight is
    not left, in switch costs.  I{floor}: the part of the quantum that holds even if
    another model starves.
  - I{drain}: the time in which a victim finishes what it has in flight, before its
    sleep hook runs.
  - I{door}: the decision, for each request that arrives for the model that drains,
    whether the request still goes in.  The door is open while the toll is low.
  - I{toll}: what one more second of drain costs all those who wait for other models,
    in weighted seconds.
  - I{absence}: the seconds from now until a model that is awake could be awake again if
    it were left now.
  - I{ghost}: a waiter that gave up before its model woke.  Ghosts count in the toll,
    so that a model with impatient clients is not forgotten.
  - I{linger}: to keep a model awake that has nothing to do, because its clients tend
    to come back soon after each reply, as agents do.
  - I{gap}: the time from when a model has nothing to do to its next request.
  - I{in time}: of a request that ends a gap: before lingering for the request ends, or
    would have ended, and before a model wakes for which this one made room.
  - I{pace}: the requests that are answered per second.  The door stays open for a
    model that answers faster than llmux did lately on as much room.
  - I{weight}: how much one second of a model's waiters counts, by configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from math import inf
from typing import Any

from zope.interface import implementer

from llmux.interfaces import (
    Decision,
    Estimate,
    Forecast,
    IForecaster,
    ILearningPolicy,
    IScheduleView,
    ISwitchPolicy,
    ISwitchPolicyFactory,
    Phase,
    PolicyContext,
    PolicyEvent,
    Rebind,
    Reopen,
    Stay,
    Switch,
    SwitchView,
    WaitingRequest,
    Why,
)
from llmux.policy.door import is_let_in
from llmux.policy.forecasting import forecasts
from llmux.policy.knowledge import Knowledge
from llmux.policy.outlook import Outlook, limit
from llmux.policy.parameters import CostAwareSettings
from llmux.policy.plans import Plan, Planner
from llmux.policy.recall import LastStay

__all__ = ["CostAwarePolicy", "CostAwarePolicyFactory", "CostAwareSettings"]


@implementer(ISwitchPolicy, IForecaster, ILearningPolicy)
class CostAwarePolicy:
    """
    The policy keeps a model awake as long as leaving the model would cost its clients more than
    it would save those who wait.

    A model that has just woken is not left for a quantum.  After that it begins to
    drain as soon as another model is wanted that needs its room, and its door decides
    about each further request: the request goes in if the delay that it causes to all
    who wait is less than the wait that it is spared, or if the model has so much in
    flight that it answers faster than llmux does on as much room.  A model that has
    nothing to do is left at once, unless it pays to linger.

    The next model is the one that starves for the longest time, if any does; otherwise the one
    whose waiters have the largest sum of ages per second that it takes to serve them.  If a
    model needs more room than there is now, room is kept for it; other models may wake in the
    meantime if that does not delay it.
    """

    def __init__(self, context: PolicyContext, settings: CostAwareSettings) -> None:
        self._context = context
        self._settings = settings
        self._knowledge = Knowledge(context, settings.initial_switch_cost_secs)
        self._last_stay = LastStay()
        # Each request brings three events; looking up the method here saves a call for each
        # event.
        self._learn = self._knowledge.learn
        self.observed = frozenset(self._learn)

    def learn_from(self, previous: ISwitchPolicy) -> None:
        """See L{ILearningPolicy.learn_from}."""
        if isinstance(previous, CostAwarePolicy):
            self._knowledge.take_over(previous._knowledge)

    def observe(self, event: PolicyEvent) -> None:
        """See L{ISwitchPolicy.observe}."""
        self._learn[type(event)](event)

    def decide(self, view: IScheduleView) -> Decision:
        """See L{ISwitchPolicy.decide}."""
        said = self._last_stay.recall(view)
        if said is not None:
            return said
        decision = self._decide(view)
        if isinstance(decision, Stay) and self._context.request_timeout is None:
            # With a time limit it matters how long the drains are that are ahead.
            self._last_stay.keep(view, decision)
        else:
            self._last_stay.forget()
        return decision

    def _decide(self, view: IScheduleView) -> Decision:
        outlook = self._outlook(view)
        planner = Planner(outlook, self._context.resources)
        again: list[float] = []
        for switch in view.switches:
            if switch.phase is Phase.DRAINING:
                decision = self._while_draining(outlook, planner, switch, again)
                if decision is not None:
                    return decision
        return self._begin(outlook, planner, again)

    def _outlook(self, view: IScheduleView) -> Outlook:
        return Outlook(view, self._knowledge, self._settings, self._context)

    def _begin(self, outlook: Outlook, planner: Planner, again: list[float]) -> Decision:
        """
        Begin a switch to the most urgent model for which a switch is possible.

        @param again: the times at which to ask again.
        """
        most = self._context.parallel_wakes
        full = most is not None and len(outlook.view.switches) >= most
        reserved: str | None = None
        why: Why | None = None
        later: str | None = None
        for model in outlook.order(outlook.wanted):
            starves = outlook.starves(model)
            if reserved is not None and planner.is_kept_out(model, reserved):
                # If hundreds of models wait, most of them are skipped here.
                if not starves and (
                    later is None or outlook.starves_at(model) < outlook.starves_at(later)
                ):
                    later = model
                continue
            if full and not starves:
                again.append(outlook.starves_at(model))
                why = why or Why("parallel_wakes", model)
                continue
            plan, obstacle = planner.plan(model)
            if plan is not None and (reserved is None or planner.is_allowed(plan, reserved)):
                return Switch(model, plan.place, plan.victims, _why(outlook, model))
            if obstacle is not None:
                again.append(obstacle.until)
                why = why or obstacle.why
            if reserved is None and (starves or obstacle is not None):
                reserved = model
            why = why or Why("no_room", model)
        if later is not None:
            # When this model starves, it may come before the reserved model.
            _, obstacle = planner.plan(later)
            if obstacle is not None:
                again.append(obstacle.until)
        first = min(again, default=inf)
        return Stay(first if first < inf else None, why)

    # ---------------------------------------------------------- while it drains

    def _while_draining(
        self, outlook: Outlook, planner: Planner, switch: SwitchView, again: list[float]
    ) -> Decision | None:
        """
        Decide about a switch that drains; None leaves the switch as it is.

        @param again: the times at which to ask again; more are added.
        """
        view = outlook.view
        if switch.drained or not view.waiting(switch.target):
            return self._bind(outlook, planner, switch)
        if any(view.in_flight(victim) for victim in switch.victims):
            # There may be room now for which no model has to drain.
            plan, _ = planner.plan(switch.target, switch, idle_only=True)
            if plan is not None and not self._is_in_the_way(outlook, planner, plan):
                return _rebind(switch, plan, Why("idle_room", switch.target))
            if not outlook.starves(switch.target, at_most=True):
                # There may be other victims now, which drain in less time.
                plan, at = planner.sooner(switch)
                again.append(at)
                if plan is not None and not self._is_in_the_way(outlook, planner, plan):
                    return _rebind(switch, plan, Why("drains_sooner", switch.target))
        return None

    def _is_in_the_way(self, outlook: Outlook, planner: Planner, plan: Plan) -> bool:
        """Tell whether a plan delays the wanted model that starves for the longest time."""
        starving = [name for name in outlook.wanted if outlook.starves(name)]
        if not starving:
            return False
        return not planner.is_allowed(plan, min(starving, key=outlook.demand_since))

    def _bind(self, outlook: Outlook, planner: Planner, switch: SwitchView) -> Decision | None:
        """
        Choose the model for which the victims of a switch make room, when all victims have
        drained, or when no request waits for the target any more.
        """
        view = outlook.view
        waits = view.waiting(switch.target) > 0
        names = [switch.target, *outlook.wanted] if waits else outlook.wanted
        reserved: str | None = None
        for model in outlook.order(names):
            if model == switch.target:
                return None
            starves = outlook.starves(model)
            plan, _ = planner.plan(model, switch)
            if plan is not None:
                own = frozenset(switch.victims)
                drains = any(view.in_flight(name) for name in plan.victims if name not in own)
                if (starves or not drains) and (
                    reserved is None or planner.is_allowed(plan, reserved)
                ):
                    return _rebind(switch, plan, _why(outlook, model))
            elif starves and waits and reserved is None:
                # The first starving model without room is the reserved model, as
                # when a switch begins.
                reserved = model
                needs = view.places(switch.target)[switch.place]
                present = Plan(switch.target, switch.place, needs, tuple(switch.victims))
                if not planner.is_allowed(present, model):
                    return Reopen(switch.number, Why("starves", model))
        # If no request waits for the target, the switcher calls the switch off.
        return None

    def admit(self, view: IScheduleView, request: WaitingRequest) -> bool:
        """See L{ISwitchPolicy.admit}.  This is the door."""
        model = request.model
        for switch in view.switches:
            if model in switch.victims:
                return is_let_in(self._outlook(view), switch, model)
        return True

    def forecast(self, view: IScheduleView) -> Iterator[Forecast]:
        """See L{IForecaster.forecast}."""
        return forecasts(self._outlook(view))

    def estimates(self) -> Iterable[Estimate]:
        """See L{ISwitchPolicy.estimates}."""
        knowledge = self._knowledge
        longest = Estimate(
            "starvation_limit_seconds",
            "Age of a model's oldest demand from which it goes first.",
            limit(knowledge, self._settings),
        )
        return chain((longest,), knowledge.estimates())


def _rebind(switch: SwitchView, plan: Plan, why: Why) -> Rebind:
    return Rebind(switch.number, plan.model, plan.place, plan.victims, why)


def _why(outlook: Outlook, model: str) -> Why:
    """Return the reason why a model is next."""
    since = outlook.demand_since(model)
    figures = {"since_at": since, "waiting": float(outlook.view.waiting(model))}
    if outlook.starves(model):
        return Why("starves", model, {**figures, "limit_secs": outlook.limit()})
    return Why("index", model, {**figures, "index": outlook.index(model)})


@implementer(ISwitchPolicyFactory)
class CostAwarePolicyFactory:
    """This factory makes policies of the class L{CostAwarePolicy}."""

    name = "cost_aware"
    settings = CostAwareSettings

    def build(self, context: PolicyContext, settings: Any) -> ISwitchPolicy:
        """See L{ISwitchPolicyFactory.build}."""
        return CostAwarePolicy(context, CostAwareSettings() if settings is None else settings)
