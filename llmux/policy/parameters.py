"""
This module has the parameters of the policy C{cost_aware}.  The words are those of
L{llmux.policy.cost_aware}.
"""

from __future__ import annotations

import msgspec

__all__ = ["LATENESS", "LEAST_RETURNING", "LOOK_AGAIN", "SOONER", "TICK", "CostAwareSettings"]

TICK = 0.001
"""
A deadline that is this close, in seconds, counts as reached, since a timer may fire early by a
rounding error.
"""

LATENESS = 0.25
"""
A model lingers for this many seconds after the expected return of its clients, but at most for
a tenth of what it costs to leave the model and to come back.
"""

LEAST_RETURNING = 0.3
"""
A model lingers if, of the requests that would not have come in time by chance, this part did
come in time.
"""

LOOK_AGAIN = 1.0
"""
While a switch drains, and other victims are possible, what they cost is looked at again after
this many seconds.
"""

SOONER = 0.8
"""
Other models become the victims of a switch that drains, if that costs less than this part of
what the present victims cost.
"""


class CostAwareSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    These settings are the keys that C{policy: {name: cost_aware}} may have.

    @ivar quantum: the time after its wake for which a model that has work is not
        left, in switch costs (there and back, halved).
    @ivar max_wait_secs: the age of a demand, in seconds, from which its model is
        next, whatever the switch costs; more under overload.
    @ivar stretch: the limit grows to this many times the age that demands lately
        had when they were met.
    @ivar cap: the limit grows to at most this many times C{max_wait_secs}.
    @ivar floor: a model that woke less than this many switch costs ago is not left
        even for a starving model.
    @ivar linger: the weight of the wait that lingering saves, against the wait that
        lingering causes; 0 turns lingering off.
    @ivar pace: the door stays open, even for longer than C{max_wait_secs}, while the
        draining model answers this many times as many requests per second as llmux
        answered lately on as much room, its switches included.
    @ivar initial_switch_cost_secs: the seconds that a switch is assumed to cost
        until a switch has been made.
    """

    quantum: float = 1.5
    max_wait_secs: float = 120.0
    stretch: float = 1.5
    cap: float = 4.0
    floor: float = 1.0
    linger: float = 1.0
    pace: float = 1.2
    initial_switch_cost_secs: float = 10.0

    def __post_init__(self) -> None:
        """
        Check that each value is in its range.

        @raise ValueError: a value is out of range; the message names the key.
        """
        for key in self.__struct_fields__:
            value = getattr(self, key)
            least = 1.0 if key == "cap" else 0.0
            if not least <= value < float("inf"):
                raise ValueError(f"{key} must be {least:g} or more, not {value:g}")
