"""This module has an operator who gives commands to a switcher, and notes of the commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from llmux.control import CommandError
from llmux.switching.wishes.lasting import ICommandNotes
from tests.world import World

__all__ = ["TWO_SLOTS", "Command", "MemoryNotes", "Operator"]


TWO_SLOTS: dict[str, Any] = {
    "resources": {"gpu": 2},
    "places": {"a": [{"gpu": 1}], "b": [{"gpu": 1}], "c": [{"gpu": 2}]},
}


class Command:
    """A command that has been given is done, refused, or neither yet."""

    def __init__(self, deferred: Deferred[None]) -> None:
        self.done = False
        self.error: CommandError | None = None
        deferred.addCallbacks(self._done, self._failed)

    def _done(self, nothing: None) -> None:
        self.done = True

    def _failed(self, failure: Failure) -> None:
        assert isinstance(failure.value, CommandError), failure
        self.error = failure.value

    @property
    def waits(self) -> bool:
        return not self.done and self.error is None

    @property
    def code(self) -> str | None:
        return None if self.error is None else self.error.code


class Operator:
    """An operator gives commands to a world."""

    def __init__(self, world: World) -> None:
        self._control = world.switcher.steering

    def wake(self, model: str) -> Command:
        return Command(self._control.wake(model, "socket"))

    def switch(self, model: str, *, abort: bool = False) -> Command:
        return Command(self._control.switch(model, abort, "socket"))

    def sleep(self, *models: str, abort: bool = False, force: bool = False) -> Command:
        return Command(self._control.sleep(models or None, abort, force, "socket"))

    def pin(self, model: str, secs: float | None = None, *, refuse: bool = False) -> Command:
        return Command(self._control.pin(model, secs, refuse, "socket"))

    def unpin(self, model: str | None = None) -> Command:
        return Command(self._control.unpin(model, "socket"))

    def pause(
        self, secs: float | None = None, *, sleep: bool = False, refuse: bool = False
    ) -> Command:
        return Command(self._control.pause_switching(secs, sleep, refuse, "socket"))

    def resume(self) -> Command:
        return Command(self._control.resume("socket"))


@implementer(ICommandNotes)
class MemoryNotes:
    """These notes live as long as this object."""

    def __init__(self) -> None:
        self.text = "{}"

    def load(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self.text)
        return found

    def keep(self, commands: Mapping[str, Any]) -> None:
        self.text = json.dumps(commands)
