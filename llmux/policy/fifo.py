"""The simplest policy: first come, first served; the least recently used makes room."""

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
"""The number of a place, and the victims that make room in that place."""


@implementer(ISwitchPolicy, ILearningPolicy)
class FifoPolicy:
    """
    The policy wakes the model whose first waiter is the oldest of all, as soon as there
    is room, or as models can be put to sleep for it.

    Models that have nothing to do make room first, the least recently used of them
    before the others; busy models make room if idle ones do not suffice.  As long as
    there is no way to make room for the model of the oldest waiter, no model wakes on
    any resource that the former can use.

    Each drain is a hard one: a request that arrives for a model that drains waits until
    that model is awake again.
    """

    observed: frozenset[type[Any]] = frozenset()

    def __init__(self, context: PolicyContext | None = None) -> None:
        """
        @param context: tells whether several models can be awake; without a context
            idle models make room in the order in which they woke.
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
        Begin a switch to the model of the oldest waiter; lead a switch to that model; call
        a switch off if the oldest waiter waits for one of its victims.
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
        # What the models of older waiters can use, who find no room.
        kept: set[str] = set()
        for model in wanted:
            all_is_kept = self._resources is not None and kept >= self._resources
            if all_is_kept and all(view.places(model)):
                # With hundreds of models that wait, this is what most of them meet.
                continue
            plan = make_room(view, model, order, kept)
            if plan is not None:
                return Switch(model, *plan, Why("oldest", model))
            kept.update(*view.places(model))
        return Stay(why=Why("no_room", wanted[0]) if wanted else None)

    def _order(self, view: IScheduleView) -> list[str]:
        """The models that can make room, those first that are to go first."""
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
        """Return nothing: the policy learns nothing that a person would want to know."""
        return ()


def _about(
    view: IScheduleView, switch: SwitchView, wanted: Sequence[str], order: Sequence[str]
) -> Decision | None:
    """Decide about a switch that drains; None leaves the switch as it is."""
    oldest = view.oldest(switch.target)
    # Those that are wanted are in the order of their first waiters.
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
    Find a place for the model, and who makes room: nobody, if the model fits somewhere.
    Otherwise that place is taken whose last victim is the first in C{order}.

    @param order: the models that can make room, those first that are to go first.
    @param kept: the resources that the place must not use.
    @param switch: a switch that is to be rebound: its victims, and what is claimed
        for its target, are to be had.
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
    """Spare those victims, the later first, without whom there is room as well."""
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
    """How much of each resource is missing without any victim."""
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
    """The factory of L{FifoPolicy}, which has no settings."""

    name = "fifo"
    settings = None

    def build(self, context: PolicyContext, settings: Any) -> ISwitchPolicy:
        """See L{ISwitchPolicyFactory.build}."""
        return FifoPolicy(context)
