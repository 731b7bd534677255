"""
This module has the simplest policy: first come, first served; the least recently used model
makes room.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile
from typing import Any

from zope.interface import implementer

from llmux.interfaces import (
    ONE_SLOT,
    Amount,
    Completed,
    Decision,
    Estimate,
    ILearningPolicy,
    IScheduleView,
    ISwitchPolicy,
    ISwitchPolicyFactory,
    Needs,
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

__all__ = ["FifoPolicy", "FifoPolicyFactory", "make_room"]

_Plan = tuple[int, tuple[str, ...]]
"""A plan is the number of a place, and the victims that make room in that place."""


@implementer(ISwitchPolicy, ILearningPolicy)
class FifoPolicy:
    """
    The policy wakes the model whose first waiter is the oldest of all, as soon as there
    is room, or as models can be put to sleep for it.

    Models that have nothing to do make room first, the least recently used of them before the
    others; busy models make room if idle ones do not suffice.  As long as room cannot be made
    for the model of the oldest waiter, no other model wakes on any resource that this model can
    use.

    A model that drains takes no more requests: a request that arrives for it waits until the
    model is awake again.
    """

    observed: frozenset[type[Any]] = frozenset()

    def __init__(self, context: PolicyContext | None = None) -> None:
        """
        @param context: the configuration, which says whether several models can be awake;
            without a context, idle models make room in the order in which they woke.
        """
        self._parallel_wakes = None if context is None else context.parallel_wakes
        self._resources = None if context is None else context.resources.keys()
        self._last_used: dict[str, float] = {}
        if context is not None and context.resources != ONE_SLOT:
            # With one slot there is never a choice of victims, and requests cost no event.
            self.observed = type(self).observed | {Completed}

    def learn_from(self, previous: ISwitchPolicy) -> None:
        """See L{ILearningPolicy.learn_from}."""
        if isinstance(previous, FifoPolicy):
            self._last_used = previous._last_used

    def observe(self, event: PolicyEvent) -> None:
        """Remember when a model was last used."""
        if isinstance(event, Completed):
            self._last_used[event.model] = event.now

    def decide(self, view: IScheduleView) -> Decision:
        """
        Begin a switch to the model of the oldest waiter, or rebind a switch to that model, or
        call a switch off if the oldest waiter waits for one of its victims.
        """
        wanted = sorted(view.wanted(), key=view.oldest)
        order = self._order(view) if wanted else []
        for switch in view.switches:
            if switch.phase is Phase.DRAINING:
                decision = _about(view, switch, wanted, order)
                if decision is not None:
                    return decision
        limit = self._parallel_wakes
        if limit is not None and len(view.switches) >= limit:
            return Stay(why=Why("parallel_wakes"))
        # These resources are kept for models of older waiters that find no room.
        kept: set[str] = set()
        for model in wanted:
            all_is_kept = self._resources is not None and kept >= self._resources
            if all_is_kept and all(view.places(model)):
                # If hundreds of models wait, most of them are skipped here.
                continue
            plan = make_room(view, model, order, kept)
            if plan is not None:
                return Switch(model, *plan, Why("oldest", model))
            kept.update(*view.places(model))
        return Stay(why=Why("no_room", wanted[0]) if wanted else None)

    def _order(self, view: IScheduleView) -> list[str]:
        """
        Return the models that can make room; those that should make room first come first.
        """
        taken = {victim for switch in view.switches for victim in switch.victims}
        return sorted(
            (
                model
                for model in view.holders()
                if view.phase(model) is Phase.AWAKE
                and model not in taken
                and view.may_sleep_from(model) <= view.now
            ),
            key=lambda model: (
                view.in_flight(model) > 0,
                self._last_used.get(model, 0.0),
                view.awake_since(model),
            ),
        )

    def admit(self, view: IScheduleView, request: WaitingRequest) -> bool:
        """Admit no request."""
        return False

    def estimates(self) -> Iterable[Estimate]:
        """Return nothing, because this policy learns nothing."""
        return ()


def _about(
    view: IScheduleView, switch: SwitchView, wanted: Sequence[str], order: Sequence[str]
) -> Decision | None:
    """Decide about a switch that drains; None leaves the switch as it is."""
    oldest = view.oldest(switch.target)
    # C{wanted} is in the order of the first waiters.
    rivals = list(takewhile(lambda model: view.oldest(model) < oldest, wanted))
    ahead = view.oldest(rivals[0]) if rivals else oldest
    if any(view.oldest(victim) < ahead for victim in switch.victims):
        return Reopen(switch.number, Why("oldest"))
    for model in rivals:
        plan = make_room(view, model, order, (), switch)
        if plan is not None:
            return Rebind(switch.number, model, *plan, Why("oldest", model))
    return None


def make_room(
    view: IScheduleView,
    model: str,
    order: Sequence[str],
    kept: Collection[str],
    switch: SwitchView | None = None,
) -> _Plan | None:
    """
    Find a place for the model, and the victims that make room there: none, if the model fits
    somewhere.  If several places are possible, the one is chosen whose last victim comes first
    in C{order}.

    @param order: the models that can make room; those that should make room first come first.
    @param kept: the resources that the place must not use.
    @param switch: a switch that is to be rebound; its victims, and what is claimed for its
        target, can be used.
    """
    own = () if switch is None else tuple(switch.victims)
    candidates = [*own, *order]
    best: tuple[int, _Plan] | None = None
    for number, needs in enumerate(view.places(model)):
        if any(amount and name in kept for name, amount in needs.items()):
            continue
        short = _shortage(view, needs, switch)
        chosen: list[str] = []
        last = -1
        for rank, victim in enumerate(candidates):
            if not short:
                break
            held = view.held(victim)
            if any(held.get(name, 0) for name in short):
                chosen.append(victim)
                last = rank
                short = {n: left for n, a in short.items() if (left := a - held.get(n, 0)) > 0}
        if not short and (best is None or last < best[0]):
            best = last, (number, _needed(view, needs, switch, chosen))
    return None if best is None else best[1]


def _needed(
    view: IScheduleView, needs: Needs, switch: SwitchView | None, chosen: Sequence[str]
) -> tuple[str, ...]:
    """
    Return the victims that are needed; those without which there is room too are left out, the
    last ones first.
    """
    needed = list(chosen)
    short = _shortage(view, needs, switch)
    for victim in reversed(chosen):
        others = [model for model in needed if model != victim]
        if all(
            sum(view.held(model).get(name, 0) for model in others) >= amount
            for name, amount in short.items()
        ):
            needed = others
    return tuple(needed)


def _shortage(
    view: IScheduleView, needs: Needs, switch: SwitchView | None
) -> dict[str, Amount]:
    """Return how much of each resource is missing if no model makes room."""
    short: dict[str, Amount] = {}
    claimed: Needs = {}
    if switch is not None:
        claimed = view.places(switch.target)[switch.place]
    for name, amount in needs.items():
        room = view.free(name)
        if switch is not None and claimed.get(name, 0):
            given = sum(view.held(victim).get(name, 0) for victim in switch.victims)
            room += max(0, claimed[name] - given)
        if amount and room < amount:
            short[name] = amount - room
    return short


@implementer(ISwitchPolicyFactory)
class FifoPolicyFactory:
    """This factory makes policies of the class L{FifoPolicy}, which has no settings."""

    name = "fifo"
    settings = None

    def build(self, context: PolicyContext, settings: Any) -> ISwitchPolicy:
        """See L{ISwitchPolicyFactory.build}."""
        return FifoPolicy(context)
