"""
This module has the stories of one model that is not as it should be, a clean-up and the check
of a backend in doubt, and the story of the last sleep before llmux ends.
"""

from __future__ import annotations

from llmux.interfaces import Failed, HookKind
from llmux.switching.facts.backoff import Backoff
from llmux.switching.facts.model import Model
from llmux.switching.facts.phases import Event
from llmux.switching.stories.sequences import Answer, answer_of
from llmux.switching.stories.story import Stage, Story, fell_asleep, log, stayed_awake

__all__ = ["Check", "Cleaning", "LastSleep"]

_FIRST_RECHECK = 0.5
_LONGEST_RECHECK = 30.0
"""
While C{alive} gives no answer, the pause between two questions grows from C{_FIRST_RECHECK} to
this many seconds, doubled each time.
"""


class Cleaning(Story):
    """
    A cleaning puts a model to sleep that may be awake and must not be, however often that has
    to be tried.

    After a wake that failed, a C{no} of C{alive} counts only when another C{wake_timeout} has
    passed, because a server that is still loading says no all the time.
    """

    def __init__(self, stage: Stage, model: Model, failed_try: float | None = None) -> None:
        """
        @param failed_try: when the wake that has failed began; None if there was none; the
            model's back-off will be at least as long as this try and its clean-up took.
        """
        super().__init__(stage, [model])
        self._model = model
        self._failed_try = failed_try
        self._began = self.now()
        self._backoff = Backoff()
        self._pausing = False
        self._is_believed = False

    async def run(self) -> None:
        """See L{Story.run}."""
        stage, model = self.stage, self._model
        while True:
            began = self.now()
            outcome = await self.sequence.put_to_sleep(model.name, model.settings)
            if self._is_believed:
                break
            self.log_sleep_failure(model, "idle", outcome)
            if outcome.failure is None or (outcome.alive is Answer.NO and self._no_counts()):
                break
            if stage.stopping:
                return
            now = self.now()
            self._backoff.failed(now, at_least=now - began)
            await self._wait_for_next_try(self._backoff.until - now)
            if stage.aborting:
                return
            if self._is_believed:
                break
        now = self.now()
        if self._failed_try is not None:
            model.wake_backoff.at_least(now + now - self._failed_try)
        with stage.holding_questions():
            self.end()
            fell_asleep(stage, model, Event.CLEANED)

    def _no_counts(self) -> bool:
        model = self._model
        return (
            model.said_yes
            or model.wake_began is None
            or self.now() >= self._began + model.settings.wake_timeout
        )

    async def _wait_for_next_try(self, seconds: float) -> None:
        waiting = ", ".join(self.stage.who_waits_for_room_of(self._model))
        log.error(
            "{model} may still be awake: nothing that needs its room is woken until its "
            "sleep hook succeeds; next try in {retry_secs:.0f} s"
            + ("; requests wait for: {waiting}" if waiting else ""),
            event="blocked",
            model=self._model.name,
            retry_secs=seconds,
            waiting=waiting,
        )
        self._pausing = True
        await self.sequence.pause(seconds)
        self._pausing = False

    def believe(self) -> None:
        """Let the model count as asleep, because an operator has freed by hand what it held."""
        self._is_believed = True
        log.warn(
            "{model} counts as asleep, by command",
            event="believed_asleep",
            model=self._model.name,
        )
        if self._pausing:
            self.sequence.wake_up()
        else:
            self.sequence.kill()

    def stop(self) -> None:
        """See L{Story.stop}.  The sleep hook gets one last try, now."""
        if self._pausing:
            self.sequence.wake_up()


class Check(Story):
    """
    A check finds out whether a backend in doubt is alive.  New requests wait until C{alive}
    answers: after a yes the model serves again, after a no it is cleaned up.  As long as
    C{alive} gives no answer, it is asked again, at growing intervals; after C{wake_timeout}
    without an answer the model is cleaned up.
    """

    def __init__(self, stage: Stage, model: Model, answer: Answer = Answer.UNKNOWN) -> None:
        """@param answer: the answer that C{alive} has given already."""
        super().__init__(stage, [model])
        self._model = model
        self._answer = answer

    async def run(self) -> None:
        """See L{Story.run}."""
        stage, model = self.stage, self._model
        answer = self._answer
        deadline = self.now() + model.settings.wake_timeout
        pause = _FIRST_RECHECK
        while answer is Answer.UNKNOWN:
            answer = answer_of(await self.sequence.ask(model.name))
            if answer is not Answer.UNKNOWN:
                break
            left = deadline - self.now()
            if left <= 0 or stage.stopping:
                break
            log.warn(
                "alive of {model} gives no answer: requests wait, next question in "
                "{retry_secs:.1f} s",
                event="alive_unknown",
                model=model.name,
                retry_secs=min(pause, left),
            )
            await self.sequence.pause(min(pause, left))
            pause = min(2 * pause, _LONGEST_RECHECK)
        with stage.holding_questions():
            self.end()
            if answer is Answer.YES:
                model.step(Event.ALIVE, self.now())
                model.said_yes = True
                # The model serves before the failed requests are told, because they must find
                # it open.
                stage.serve(model)
                self._answer_doubts(dead=False)
            elif answer is Answer.UNKNOWN and stage.stopping:
                self._answer_doubts(dead=False)
            else:
                self._is_dead()

    def _is_dead(self) -> None:
        """Abort everything that the model had in flight, and have its sleep hook clean up."""
        stage, model = self.stage, self._model
        now = self.now()
        if not model.answered:
            # The backend died before it had completed anything since the wake.  A prompt that
            # kills its backend must not lead to an endless loop.
            model.wake_backoff.failed(now, reason="its backend died")
        log.error("the backend of {model} is dead", event="backend_died", model=model.name)
        stage.tell(Failed(now, model.name, None, max(now, model.wake_backoff.until)))
        model.step(Event.DEAD, now)
        stage.abort_exchanges(
            model, f"the backend of {model.name} died", "backend_died", may_wait_again=True
        )
        self._answer_doubts(dead=True)
        stage.clean_up(model)

    def _answer_doubts(self, dead: bool) -> None:
        doubts, self._model.doubts = self._model.doubts, []
        for doubt in doubts:
            doubt.callback(dead)

    def stop(self) -> None:
        """See L{Story.stop}.  No further question is asked."""
        self.sequence.wake_up()


class LastSleep(Story):
    """
    In this story llmux stops, and an awake model is put to sleep because the configuration asks
    for that.
    """

    def __init__(self, stage: Stage, model: Model) -> None:
        super().__init__(stage, [model])
        self._model = model

    async def run(self) -> None:
        """See L{Story.run}."""
        stage, model = self.stage, self._model
        model.step(Event.EVICTED, self.now())
        model.step(Event.DRAINED, self.now())
        outcome = await self.sequence.put_to_sleep(model.name, model.settings)
        self.log_sleep_failure(model, "idle", outcome)
        with stage.holding_questions():
            self.end()
            if outcome.sleeps:
                fell_asleep(stage, model, Event.SLEPT)
                return
            stage.tell(Failed(self.now(), model.name, HookKind.SLEEP, self.now()))
            stayed_awake(stage, model, outcome)
