"""
This module makes the forecasts of the policy C{cost_aware}.  The words are those of
L{llmux.policy.cost_aware}.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmux.interfaces import Forecast, Phase, SwitchView, Why
from llmux.policy.outlook import Outlook

__all__ = ["forecasts"]

_FAST = 0.6
_SLOW = 1.6
"""
A hook is expected to take at least and at most these multiples of the time that it took lately.
"""

_LEAVING = frozenset({Phase.DRAINING, Phase.SLEEPING})


def forecasts(outlook: Outlook) -> Iterator[Forecast]:
    """
    Forecast the turn of each model that is waited for and not awake: first those that are
    targets of switches, then the others in the order in which they would come if nothing
    changed.

    A range holds in nine cases of ten (C{tests/benchmarks/scheduling/forecasts.py}).
    """
    view = outlook.view
    under_way = {switch.target: switch for switch in view.switches}
    # There is no forecast for a model that has failed, or is in doubt.
    may_wake = {*outlook.wanted, *under_way}
    waiting = [
        name
        for name in outlook.models
        if view.waiting(name) and (name in may_wake or view.phase(name) in _LEAVING)
    ]
    next_ones = [name for name in waiting if name in under_way]
    order = next_ones + outlook.order(name for name in waiting if name not in under_way)
    for position, name in enumerate(order, 1):
        switch = under_way.get(name)
        if switch is not None and switch.phase is not Phase.DRAINING:
            yield _of_hooks(outlook, position, switch)
        else:
            yield _of_waiting(outlook, position, name, waiting)


def _of_hooks(outlook: Outlook, position: int, switch: SwitchView) -> Forecast:
    """Return the forecast for the target of a switch whose hooks run."""
    name = switch.target
    wake = outlook.knowledge.wakes.of(name)
    if switch.phase is Phase.WAKING:
        return Forecast(name, position, 0.0, _SLOW * wake, Why("wakes", name))
    most = _SLOW * outlook.cost_of(name)
    return Forecast(name, position, _FAST * wake, most, Why("sleeps", name))


def _of_waiting(outlook: Outlook, position: int, name: str, waiting: list[str]) -> Forecast:
    """Return the forecast for a model for which no hook runs yet."""
    waits, now = outlook.knowledge.first_waits, outlook.now
    since = outlook.demand_since(name)
    cost = outlook.cost_of(name)
    known = waits.rest(name, now - since)
    if known is not None:
        return Forecast(name, position, *known, Why("lately", name))
    # At the latest, the model's turn begins when its demand starves, after older demands, each
    # with its floor.
    starves_at = outlook.starves_at(name)
    turn = 1 + outlook.settings.floor
    ahead = sum(
        outlook.cost_of(other) * turn
        for other in waiting
        if outlook.demand_since(other) < since
    )
    most = max(0.0, starves_at - now) + ahead + _SLOW * cost
    most += 2 * outlook.drain(outlook.view.holders())
    most = max(most, waits.at_most(name, now - since))
    why = Why("starves_by", name, {"limit_at": starves_at})
    return Forecast(name, position, _FAST * outlook.knowledge.wakes.of(name), most, why)
