"""
A control for a llmux that takes no commands, and what the status needs of a control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from llmux.control import CommandError, IControl, Pause, Pin

__all__ = ["NoControl", "pins_by_model"]


@implementer(IControl)
class NoControl:
    """A control that can do nothing yet: each command is refused with 501."""

    pins: Sequence[Pin] = ()
    pause: Pause | None = None

    def _cannot(self, *arguments: object) -> Deferred[None]:
        return fail(CommandError("This llmux has no such command.", 501, "not_supported"))

    wake = switch = sleep = pin = unpin = pause_switching = resume = _cannot


def pins_by_model(control: IControl) -> Mapping[str, Pin]:
    """The pins of a control by their models' names."""
    return {pin.model: pin for pin in control.pins}
