"""This module says what is wrong with an answer of a policy that cannot be carried out."""

from __future__ import annotations

from collections.abc import Sequence

from llmux.interfaces import (
    IScheduleView,
    Phase,
    Rebind,
    Reopen,
    Stay,
    Switch,
    SwitchView,
    Why,
)

__all__ = ["problem_with"]


def problem_with(decision: object, view: IScheduleView) -> str | None:
    """
    Say why a decision cannot be carried out.

    @return: the reason in a few words; None if the decision can be carried out.
    """
    if isinstance(decision, Stay | Switch | Rebind | Reopen) and not _is_reason(decision.why):
        return f"{decision.why!r} is no reason"
    if isinstance(decision, Stay):
        at = decision.ask_again_at
        if at is not None and (not isinstance(at, int | float) or at != at):
            return f"{at!r} is no time"
        return None
    if isinstance(decision, Switch):
        if decision.target not in view.wanted():
            return f"a switch to {decision.target!r}, which cannot be woken now"
        return _without_room(decision, view, None)
    if isinstance(decision, Rebind | Reopen):
        for switch in view.switches:
            if switch.number == decision.switch and switch.phase is Phase.DRAINING:
                break
        else:
            return f"switch {decision.switch!r} does not drain"
        if isinstance(decision, Reopen):
            return None
        if decision.target != switch.target and decision.target not in view.wanted():
            return f"a switch that is to lead to {decision.target!r}, which cannot be woken now"
        return _without_room(decision, view, switch)
    return f"{type(decision).__name__} is no decision"


def _is_reason(why: object) -> bool:
    """Tell whether a reason can be logged and shown."""
    if why is None:
        return True
    return (
        isinstance(why, Why)
        and isinstance(why.code, str)
        and isinstance(why.model, str | None)
        and all(isinstance(value, int | float) for value in why.figures.values())
    )


def _without_room(
    decision: Switch | Rebind, view: IScheduleView, switch: SwitchView | None
) -> str | None:
    """
    Say why there would be no room for the target; None if there would be.

    @param switch: the switch that is to be rebound, if one is; what this switch claims can be
        used.
    """
    places = view.places(decision.target)
    if not (isinstance(decision.place, int) and 0 <= decision.place < len(places)):
        return f"{decision.target} has no place {decision.place!r}"
    own: Sequence[str] = () if switch is None else switch.victims
    taken = {victim for each in view.switches for victim in each.victims} - {*own}
    holders = view.holders()
    for victim in decision.victims:
        if victim not in holders or victim in taken:
            return f"{victim!r} cannot make room"
        if victim in own:
            continue
        if view.phase(victim) is not Phase.AWAKE or view.may_sleep_from(victim) > view.now:
            return f"{victim!r} cannot be put to sleep now"
    if len({*decision.victims}) < len(decision.victims):
        return "a model makes room twice"
    claimed = {} if switch is None else view.places(switch.target)[switch.place]
    for name, amount in places[decision.place].items():
        if not amount:
            continue
        room = view.free(name) + sum(view.held(v).get(name, 0) for v in decision.victims)
        if claimed.get(name, 0):
            given = sum(view.held(victim).get(name, 0) for victim in own)
            room += max(0, claimed[name] - given)
        if room < amount:
            return f"{decision.target} needs {amount} of {name}, and there is room for {room}"
    return None
