"""
This module asks C{alive} outside of the stories: whether the backend of a model that serves is
still alive, and whether a model that was put to sleep really sleeps.

Both questions are needed, because a backend can die behind a server that still answers, and a
sleep hook can succeed without having done anything.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from llmux.switching.facts.model import Model
from llmux.switching.facts.phases import Event, Phase
from llmux.switching.stories.recovery import Check
from llmux.switching.stories.sequences import Answer, HookSequence, answer_of
from llmux.switching.stories.story import Stage

__all__ = ["Watch"]

_SOON_AGAIN = 5.0
"""After errors of a backend, C{alive} is asked at most once in this many seconds."""

_SECOND_OPINION = 1.0
"""After a first no, C{alive} is asked again after this many seconds."""


class Watch:
    """
    A watch asks one model's C{alive} while no story moves the model.  If C{alive} of a model
    that should be awake says no twice in a row, a L{Check} begins with that answer.
    """

    _log = Logger()

    def __init__(self, stage: Stage, model: Model) -> None:
        self._stage = stage
        self._model = model
        self._timer: IDelayedCall | None = None
        self._sequence: HookSequence | None = None
        self._noes = 0
        # The log says only once, and not at each switch, that the model answers although it was
        # put to sleep.
        self._said_unconfirmed = False
        self._asked_at = float("-inf")

    def begin(self) -> None:
        """Begin to ask at intervals, if the settings of the model, which is awake, say so."""
        self._noes = 0
        check = self._model.settings.check
        if check is not None and not self._stage.stopping:
            self._ask_in(check)

    def ask_soon(self) -> None:
        """
        Ask soon, because the model's backend answers with errors, unless C{alive} has just been
        asked.
        """
        if self._sequence is None and self._serves():
            since = self._stage.clock.seconds() - self._asked_at
            self._ask_in(max(0.0, _SOON_AGAIN - since))

    def slept(self) -> None:
        """
        Ask some time after the model's sleep hook has succeeded whether the model really
        sleeps.
        """
        self.end()
        delay = self._stage.settings.look_after_sleep
        if delay is not None and not self._stage.stopping:
            self._ask_in(delay)

    def end(self) -> None:
        """Stop asking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sequence is not None:
            self._sequence.kill()
            self._sequence = None

    def _serves(self) -> bool:
        model = self._model
        return model.phase is Phase.AWAKE and not model.busy and not self._stage.stopping

    def _sleeps(self) -> bool:
        model = self._model
        return model.phase is Phase.ASLEEP and not model.busy and not self._stage.stopping

    def _ask_in(self, seconds: float) -> None:
        clock = self._stage.clock
        if self._timer is not None:
            if self._timer.getTime() <= clock.seconds() + seconds:
                return
            self._timer.cancel()
        self._timer = clock.callLater(seconds, self._ask)

    def _ask(self) -> None:
        self._timer = None
        if self._sequence is None and (self._serves() or self._sleeps()):
            asked = Deferred.fromCoroutine(self._asked(self._serves()))
            asked.addErrback(lambda failure: self._log.failure("a defect in a check", failure))

    async def _asked(self, serves: bool) -> None:
        self._sequence = sequence = HookSequence(self._stage.clock, self._stage.hooks)
        self._asked_at = self._stage.clock.seconds()
        result = await sequence.ask(self._model.name)
        if self._sequence is not sequence:
            return
        self._sequence = None
        answer = answer_of(result)
        if serves and self._serves():
            self._about_serving(answer, result.reason)
        elif not serves and self._sleeps():
            self._about_sleeping(answer)

    def _about_sleeping(self, answer: Answer) -> None:
        if answer is Answer.NO:
            self._said_unconfirmed = False
        elif answer is Answer.YES:
            self._stage.metrics.slept_in_name_only(self._model.name)
            if self._said_unconfirmed:
                return
            self._said_unconfirmed = True
            self._log.warn(
                "{model} answers though its sleep hook has succeeded: is its memory free? "
                "With confirm_sleep: true a wake waits until alive says no",
                event="sleep_not_confirmed",
                model=self._model.name,
            )

    def _about_serving(self, answer: Answer, reason: str) -> None:
        model = self._model
        if answer is not Answer.NO:
            self._noes = 0
            self.begin()
            return
        self._noes += 1
        if self._noes >= 2:
            self._noes = 0
            model.step(Event.DOUBTED, self._stage.clock.seconds())
            Check(self._stage, model, Answer.NO).begin()
            return
        self._log.warn(
            "alive of {model}, which should be awake, says no: {reason}",
            event="alive_says_no",
            model=model.name,
            reason=reason,
        )
        self._ask_in(_SECOND_OPINION)
