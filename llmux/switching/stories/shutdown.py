"""This module ends the switcher: requests in flight finish, and stories come to their ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from llmux.errors import NotReady
from llmux.switching.facts.model import Model
from llmux.switching.facts.phases import Phase
from llmux.switching.stories.recovery import LastSleep
from llmux.switching.stories.story import Stage

__all__ = ["SHUTTING_DOWN", "TRY_AGAIN", "Shutdown"]

SHUTTING_DOWN = "llmux is shutting down"

TRY_AGAIN = 5.0
"""
A client that is refused is told to try again after this many seconds, when the next llmux may
be running.
"""


class Closing(Stage, Protocol):
    """
    This protocol is what a shutdown needs of the switcher, beyond what stories need.

    @ivar wanted: the models that requests wait for, by their names.
    """

    @property
    def wanted(self) -> Mapping[str, Model]: ...

    def end_questions(self) -> None:
        """Ask neither the policy nor any C{alive} any more, and give no guards."""

    def is_settled(self) -> bool:
        """
        Tell whether no story runs, nothing is in flight, and the policy is not being asked.
        """


class Shutdown:
    """
    A shutdown refuses requests that wait, lets those in flight finish within
    C{shutdown_timeout}, and puts the awake models to sleep if the configuration asks for that.

    @ivar begun: whether L{begin} has been called.
    @ivar aborting: whether L{abort} has been called.
    """

    _log = Logger()

    def __init__(self, stage: Closing) -> None:
        self.begun = False
        self.aborting = False
        self._stage = stage
        self._is_over = False
        self._waiters: list[Deferred[None]] = []
        self._closers: list[Callable[[], None]] = []
        self._settling: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None

    def begin(self) -> Deferred[None]:
        """
        Begin the shutdown; a second call does no harm.

        @return: a Deferred that fires when nothing runs and nothing is in flight any more.
        """
        if self._is_over:
            return succeed(None)
        over: Deferred[None] = Deferred()
        self._waiters.append(over)
        if not self.begun:
            self.begun = True
            self._give_time(self._time_is_up)
            Deferred.fromCoroutine(self._run()).addErrback(
                lambda failure: self._log.failure("a defect while stopping", failure)
            )
        return over

    def call_when_over(self, close: Callable[[], None]) -> None:
        """Register a function to be called at the end, when nothing is in flight any more."""
        self._closers.append(close)

    def abort(self) -> None:
        """Abort what L{begin} still waits for: exchanges and hooks."""
        self.aborting = True
        self._abort_exchanges()
        for story in list(self._stage.stories):
            story.kill()

    def something_ended(self) -> None:
        """Continue, if everything that is waited for has ended."""
        if self._settling is not None and self._stage.is_settled():
            settling, self._settling = self._settling, None
            settling.callback(None)

    async def _run(self) -> None:
        stage = self._stage
        with stage.holding_questions():
            stage.end_questions()
            for model in list(stage.wanted.values()):
                stage.refuse(model, NotReady(model.name, SHUTTING_DOWN, TRY_AGAIN))
            for story in list(stage.stories):
                story.stop()
        await self._settled()
        awake = [model for model in stage.models.values() if model.phase is Phase.AWAKE]
        if awake and stage.settings.sleep_on_exit and not self.aborting:
            self._give_time(self.abort)
            for model in awake:
                LastSleep(stage, model).begin()
            await self._settled()
        self._finish()

    def _settled(self) -> Deferred[None]:
        settling = self._settling = Deferred()
        self.something_ended()
        return settling

    def _finish(self) -> None:
        self._stop_timer()
        self._is_over = True
        left = (Phase.WAKING, Phase.CHECKING, Phase.UNCERTAIN)
        uncertain = [m.name for m in self._stage.models.values() if m.phase in left]
        if uncertain:
            self._log.error(
                "may still be awake: {models}", event="left_awake", models=", ".join(uncertain)
            )
        for close in self._closers:
            close()
        waiters, self._waiters = self._waiters, []
        for over in waiters:
            over.callback(None)

    def _give_time(self, then: Callable[[], None]) -> None:
        self._stop_timer()
        limit = self._stage.settings.shutdown_timeout
        self._timer = self._stage.clock.callLater(limit, then)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _time_is_up(self) -> None:
        if self._stage.settings.sleep_on_exit and not self._stage.stories:
            # The awake models must still be put to sleep, within the same time again.
            self._give_time(self.abort)
            self._abort_exchanges()
        else:
            self.abort()

    def _abort_exchanges(self) -> None:
        for model in self._stage.models.values():
            self._stage.abort_exchanges(model, SHUTTING_DOWN, "shutdown")
