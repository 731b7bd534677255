"""
This module has the door of a model that drains.  The words are those of
L{llmux.policy.cost_aware}.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmux.interfaces import SwitchView
from llmux.policy.outlook import Outlook

__all__ = ["is_let_in"]


def is_let_in(outlook: Outlook, switch: SwitchView, model: str) -> bool:
    """
    Decide whether one more request goes in to a model that drains.

    @param switch: the switch for which C{model} drains.
    """
    view = outlook.view
    waiting = _who_waits(outlook, switch)
    if not waiting:
        return True
    if view.waiting(model):
        # A request must not overtake earlier ones that were not let in.
        return False
    if any(outlook.starves(name, at_most=True) for name in waiting):
        return False
    if len(switch.victims) == 1 and _keeps_pace(outlook, waiting, model):
        return True
    if any(outlook.starves(name) for name in waiting):
        return False
    target = switch.target if view.waiting(switch.target) else outlook.order(waiting)[0]
    drain = outlook.drain(switch.victims)
    absence = outlook.absence(model, target, drain)
    known = outlook.models[model]
    extra = known.service.mean_excess(drain)
    interval = known.interval.seconds
    if interval is not None:
        extra = min(extra, interval)
    # Each busy victim has a door of its own, which may also cause this much delay.
    busy = sum(name == model or view.in_flight(name) > 0 for name in switch.victims)
    toll = _toll(outlook, waiting, target, absence)
    return extra * toll * busy < known.weight * absence


def _who_waits(outlook: Outlook, switch: SwitchView) -> list[str]:
    """Return the wanted models that could use what the victims hold, the target included."""
    view = outlook.view
    given = {
        resource
        for victim in switch.victims
        for resource, amount in view.held(victim).items()
        if amount
    }
    waiting = [switch.target] if view.waiting(switch.target) else []
    waiting += [
        name
        for name in outlook.wanted
        if any(place.get(resource, 0) for place in view.places(name) for resource in given)
    ]
    return waiting


def _keeps_pace(outlook: Outlook, waiting: Sequence[str], model: str) -> bool:
    """
    Tell whether the draining model answers faster than llmux as a whole does on as much room,
    so that it should not be left yet.

    This is the marginal value theorem (E. L. Charnov, "Optimal foraging, the marginal value
    theorem", 1976), which says when an animal should leave a patch of food: when the patch
    yields less than going from patch to patch yields on average.  A model's yield is the number
    of its requests in flight over the time that each of them takes (Little's law).
    """
    view, known = outlook.view, outlook.models[model]
    service = known.alone.value
    if not service:
        return False
    waiters = weighted = 0.0
    for name in waiting:
        count = view.waiting(name)
        waiters += count
        weighted += count * outlook.models[name].weight
    here = known.weight * (view.in_flight(model) + 1) / service
    overall = outlook.knowledge.pace.per_second(outlook.now) * known.size * weighted / waiters
    return here > outlook.settings.pace * overall


def _toll(outlook: Outlook, waiting: Sequence[str], target: str, absence: float) -> float:
    """
    Return what one more second of drain costs all who wait, in weighted seconds.  A model other
    than the target counts less, because it waits for one of several turns.
    """
    view = outlook.view
    toll = 0.0
    scale = absence**-2 if absence else 0.0
    for name in waiting:
        known = outlook.models[name]
        squares = view.sum_of_squared_ages(name) + known.ghosts.squares
        count = view.waiting(name) + known.ghosts.count
        share = 1 if name == target else outlook.turns
        toll += known.weight * (count + squares * scale) / share
    return toll
