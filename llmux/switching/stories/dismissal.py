"""
This module has the story of a model that goes to sleep for no other model, but because of a
command, a pause, or a time without requests.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from llmux.interfaces import Failed, HookKind, Phase
from llmux.switching.facts.model import Model
from llmux.switching.facts.phases import Event
from llmux.switching.stories.drain_limit import DrainLimit
from llmux.switching.stories.story import Stage, Story, fell_asleep, log, stayed_awake

__all__ = ["Dismissal"]


class Dismissal(Story):
    """
    In a dismissal a model drains and goes to sleep, and no other model is woken for that.

    Until the sleep hook begins the story can be called off.

    @ivar model: the model.
    @ivar why: the reason, in a few words, for the log.
    """

    def __init__(self, stage: Stage, model: Model, why: str) -> None:
        super().__init__(stage, [model])
        self.model = model
        self.why = why
        self._goes_on: Deferred[bool] = Deferred()

    async def run(self) -> None:
        """See L{Story.run}."""
        stage, model = self.stage, self.model
        log.info(
            "{model} is put to sleep: {why}",
            event="sleep_started",
            model=model.name,
            why=self.why,
            log_said=("why",),
        )
        model.step(Event.EVICTED, self.now())
        limit = DrainLimit(stage, model)
        self.look()
        goes_on = await self._goes_on
        limit.cancel()
        if not goes_on:
            with stage.holding_questions():
                self.end()
                model.step(Event.REOPENED, self.now())
                stage.serve(model)
            return
        began = self.now()
        model.step(Event.DRAINED, began)
        outcome = await self.sequence.put_to_sleep(model.name, model.settings)
        self.log_sleep_failure(model, "idle", outcome)
        with stage.holding_questions():
            self.end()
            now = self.now()
            if outcome.sleeps:
                fell_asleep(stage, model, Event.SLEPT, now - began)
                return
            failure = outcome.failure or ""
            model.sleep_backoff.failed(now, at_least=now - began, reason=failure)
            stage.tell(Failed(now, model.name, HookKind.SLEEP, model.sleep_backoff.until))
            stage.errands.not_slept(model, failure)
            stayed_awake(stage, model, outcome)

    def look(self) -> None:
        """Continue, if nothing is in flight that must finish first."""
        if self._goes_on.called:
            return
        if not (self.model.guards and self.stage.settings.drain_before_switch):
            self._goes_on.callback(True)

    @property
    def drains(self) -> bool:
        """
        Tell whether the model's sleep hook has not begun, so that the story can be called off.
        """
        return self.model.phase is Phase.DRAINING and not self._goes_on.called

    def call_off(self) -> None:
        """Let the model serve again; this is possible only while it drains."""
        self._goes_on.callback(False)

    def stop(self) -> None:
        """See L{Story.stop}.  A drain is called off; a sleep hook may finish."""
        if self.drains:
            self.call_off()
