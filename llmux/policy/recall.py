"""This module recalls the last answer, for a question that is the same as before."""

from __future__ import annotations

from llmux.interfaces import IScheduleView, Phase, Stay

__all__ = ["LastStay"]

RECALLED = 1.0
"""An answer is given again for this many seconds."""


class LastStay:
    """
    This object keeps the last answer that changed nothing, and what was seen then.

    Most questions come because one more request waits for a model that other requests wait for
    already.  Such a request changes the figures by little, and nothing of what is possible:
    which models are awake, have something in flight, are waited for.  So the last answer
    is given again for a second, or until the time at which the policy wanted to be asked
    again.

    The answer is not given again while a model that is awake has nothing to do: whether
    such a model lingers depends on how many requests wait.
    """

    __slots__ = ("_seen", "_stay", "_until")

    def __init__(self) -> None:
        self._stay: Stay | None = None
        self._until = 0.0
        self._seen: object = None

    def recall(self, view: IScheduleView) -> Stay | None:
        """Return the last answer, if it may be given again; else None."""
        if self._stay is None or view.now >= self._until or _seen(view) != self._seen:
            return None
        return self._stay

    def keep(self, view: IScheduleView, stay: Stay) -> None:
        """Keep an answer."""
        self._stay = None
        seen = _seen(view)
        if seen is not None:
            again = stay.ask_again_at
            until = view.now + RECALLED
            self._until = until if again is None else min(until, again)
            self._stay, self._seen = stay, seen

    def forget(self) -> None:
        """Forget the last answer."""
        self._stay = None


def _seen(view: IScheduleView) -> object:
    """Return what must be the same; None if a model that is awake has nothing to do."""
    holders = view.holders()
    phases = [view.phase(name) for name in holders]
    busy = [view.in_flight(name) > 0 for name in holders]
    if any(p is Phase.AWAKE and not b for p, b in zip(phases, busy, strict=True)):
        return None
    return (
        view.switches,
        [view.waiting(switch.target) > 0 for switch in view.switches],
        view.wanted(),
        holders,
        phases,
        busy,
        [view.may_sleep_from(name) for name in holders],
    )
