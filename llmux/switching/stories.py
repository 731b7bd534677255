"""
What all stories have in common, and the stories about one model: a clean-up, a
check of a backend in doubt, the last sleep before llmux ends; and the adoption
at start.

A story is one coroutine that moves models through their phases.  A story has
its own hooks and timers, and each story ends.  Several stories run side by
side; a model is in at most one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmux.errors import SwitchError
from llmux.interfaces import Failed, HookKind, IHookRunner, IWakeNotes, PolicyEvent, Slept, Woke
from llmux.monitoring.metrics import Metrics
from llmux.switching.backoff import Backoff
from llmux.switching.capacity import Capacity
from llmux.switching.cost import SwitchCostTracker
from llmux.switching.model import Model
from llmux.switching.phases import Event, Phase
from llmux.switching.sequences import Answer, HookSequence, SleepOutcome, answer_of
from llmux.switching.settings import SwitchSettings

__all__ = ["Adoption", "Check", "Cleaning", "LastSleep", "Stage", "Story", "fell_asleep"]

_FIRST_RECHECK = 0.5
_LONGEST_RECHECK = 30.0
"""Seconds between two questions to C{alive} while no answer comes: the first pause, doubled
each time, and the longest."""

log = Logger()


class Stage(Protocol):
    """
    What stories need of the switcher.

    @ivar models: all models by their names.
    @ivar stopping: llmux stops: nothing is woken, and each story comes to its end.
    @ivar aborting: what still runs is cut short.
    """

    @property
    def clock(self) -> IReactorTime: ...
    @property
    def hooks(self) -> IHookRunner: ...
    @property
    def settings(self) -> SwitchSettings: ...
    @property
    def capacity(self) -> Capacity: ...
    @property
    def costs(self) -> SwitchCostTracker: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def models(self) -> Mapping[str, Model]: ...
    @property
    def stopping(self) -> bool: ...
    @property
    def aborting(self) -> bool: ...

    def story_began(self, story: Story) -> None:
        """The story runs from here on."""

    def story_ended(self, story: Story) -> None:
        """The story has moved what it had to."""

    def holding_questions(self) -> AbstractContextManager[None]:
        """Have the policy asked only after the block, and not in its middle."""

    def serve(self, model: Model) -> None:
        """The model has come to AWAKE: give its waiters their guards."""

    def refuse(self, model: Model, error: SwitchError) -> None:
        """The waiters of the model go away with this error."""

    def abort_exchanges(
        self, model: Model, why: str, reason: str, *, may_wait_again: bool = False
    ) -> None:
        """Cut short what is in flight to the model."""

    def consider(self) -> None:
        """Something has changed: ask the policy."""

    def cancel_next_question(self) -> None:
        """While a hook runs the policy's answer cannot matter: forget when to ask again."""

    def tell(self, event: PolicyEvent) -> None:
        """Something has happened that the policy and the observers may want to know."""

    def slept(self, model: Model) -> None:
        """The model's sleep hook has done its work."""

    def room_changed(self) -> None:
        """A model has released what it held."""

    def who_waits_for_room_of(self, model: Model) -> Sequence[str]:
        """The names of the models that are waited for and need what this model holds."""


class Story:
    """
    One coroutine that moves models.

    @ivar models: those that it moves; nobody else moves them meanwhile.
    """

    def __init__(self, stage: Stage, models: Iterable[Model]) -> None:
        self.stage = stage
        self.models = list(models)
        self.sequence = HookSequence(stage.clock, stage.hooks)
        self._over = False

    def begin(self) -> None:
        """Run, from the first step on."""
        for model in self.models:
            assert not model.busy, f"{model.name} is in a story already"
            model.busy = True
        self.stage.story_began(self)
        if self.stage.aborting:
            self.kill()
        told = Deferred.fromCoroutine(self.run())
        told.addErrback(self._broke)
        told.addCallback(lambda _: self._told())
        told.addErrback(lambda failure: log.failure("a defect after a story", failure))

    async def run(self) -> None:
        """
        The story, to be written by subclasses.

        What follows from its outcome (models step on, waiters are served or
        refused, another story begins) happens within one
        L{Stage.holding_questions}, after L{end}.
        """
        raise NotImplementedError

    def _told(self) -> None:
        self.end()
        self.stage.consider()

    def end(self) -> None:
        """Let go of the models, so that what follows may move them."""
        if not self._over:
            self._over = True
            for model in self.models:
                model.busy = False
            self.stage.story_ended(self)

    def let_go(self, model: Model) -> None:
        """Another story may have this model already."""
        self.models.remove(model)
        model.busy = False

    def stop(self) -> None:
        """
        llmux stops: come to an end.  What runs may finish, unless a subclass
        says otherwise.
        """

    def kill(self) -> None:
        """llmux stops at once: end the hooks that run."""
        self.sequence.kill()

    def _broke(self, failure: Failure) -> None:
        """A defect must not leave a model in the middle of something for ever."""
        log.failure("a defect in a story", failure)
        models = list(self.models)
        self.end()
        for model in models:
            if model.phase not in (Phase.ASLEEP, Phase.AWAKE, Phase.UNCERTAIN):
                model.phase = Phase.UNCERTAIN
                model.since = self.stage.clock.seconds()
            if model.phase is Phase.UNCERTAIN and not self.stage.stopping:
                Cleaning(self.stage, model).begin()

    # ------------------------------------------------- parts of several stories

    def now(self) -> float:
        """The time."""
        return self.stage.clock.seconds()

    def log_sleep_failure(self, model: Model, to: str, outcome: SleepOutcome) -> None:
        """The log says why a sleep hook has failed, if it has."""
        if outcome.failure is not None:
            log.error(
                "the sleep hook of {model} failed: {error}",
                event="sleep_hook_failed",
                model=model.name,
                to=to,
                error=outcome.failure,
            )


def fell_asleep(stage: Stage, model: Model, event: Event) -> None:
    """The model is asleep and holds nothing any more."""
    now = stage.clock.seconds()
    model.step(event, now)
    stage.capacity.release(model.name)
    if model.said_yes:
        model.said_yes = False
        model.sleep_backoff.reset()
        stage.metrics.went_to_sleep(model.name, now - model.woke_at)
    stage.tell(Slept(now, model.name))
    stage.slept(model)
    stage.room_changed()


class Adoption(Story):
    """
    llmux finds out what is awake, once, at its start.

    Models that say yes serve on, if they fit together.  Where they do not, all
    that hold something of the overdrawn resource are put to sleep, and so is
    whoever gives no answer twice.  Nobody is served while a resource that the
    model needs is overdrawn.

    @param known: called when all models have answered.
    @param notes: knows the models whose wake was cut short by the end of the
        llmux before this one: a no of C{alive} means nothing there.
    """

    def __init__(
        self, stage: Stage, notes: IWakeNotes | None, known: Callable[[], None]
    ) -> None:
        super().__init__(stage, stage.models.values())
        self._notes = notes
        self._interrupted: frozenset[str] = frozenset()
        self._known = known
        self._room: Deferred[None] | None = None

    async def run(self) -> None:
        """See L{Story.run}."""
        stage = self.stage
        if self._notes is not None:
            self._interrupted = self._notes.interrupted
            if self._interrupted:
                await self._notes.end_interrupted()
        answers = await self._answers()
        if stage.stopping:
            self._finish()
            return
        awake, unsure = self._judge(answers)
        for model in list(self.models):
            if model not in awake and model not in unsure:
                self.let_go(model)
                model.step(Event.FOUND_ASLEEP, self.now())
                stage.capacity.release(model.name)
        if unsure:
            log.warn(
                "not sure to be asleep, so put to sleep: {models}",
                event="strays_found",
                models=", ".join(model.name for model in unsure),
            )
        for model in unsure:
            self.let_go(model)
            model.step(Event.FOUND_UNSURE, self.now())
            Cleaning(stage, model).begin()
        self._known()
        while any(stage.capacity.overdrawn(model.settings.needs) for model in awake):
            await self._more_room()
            if stage.stopping:
                break
        if stage.stopping:
            self._finish()
            return
        with stage.holding_questions():
            self.end()
            for model in awake:
                self._adopt(model)

    async def _answers(self) -> dict[str, Answer]:
        """What each model says; who gives no answer is asked a second time."""
        names = [model.name for model in self.models]
        answers = {
            name: answer_of(result) for name, result in await self.sequence.ask_all(names)
        }
        silent = [
            name
            for name, answer in answers.items()
            if answer is Answer.UNKNOWN and name not in self._interrupted
        ]
        if silent and not self.stage.stopping:
            for name, result in await self.sequence.ask_all(silent):
                answers[name] = answer_of(result)
        return answers

    def _judge(self, answers: Mapping[str, Answer]) -> tuple[list[Model], list[Model]]:
        """
        The models that are to serve on, and those that are to be put to sleep.

        An interrupted wake is never a no: its model may be loading still.
        """
        awake, unsure = [], []
        for model in self.models:
            answer = answers[model.name]
            if model.name in self._interrupted and answer is not Answer.YES:
                model.wake_began = self.now()
                unsure.append(model)
            elif answer is Answer.YES:
                model.said_yes = True
                awake.append(model)
            elif answer is Answer.UNKNOWN:
                unsure.append(model)
        total = self.stage.capacity.total
        held = {
            name: sum(model.settings.needs.get(name, 0) for model in awake) for name in total
        }
        overdrawn = {name for name, amount in held.items() if amount > total[name]}
        surplus = [
            model
            for model in awake
            if any(
                amount and name in overdrawn for name, amount in model.settings.needs.items()
            )
        ]
        order = {model.name: place for place, model in enumerate(self.models)}
        return (
            [model for model in awake if model not in surplus],
            sorted([*surplus, *unsure], key=lambda model: order[model.name]),
        )

    def _adopt(self, model: Model) -> None:
        now = self.now()
        log.info("{model} is awake already", event="model_adopted", model=model.name)
        model.step(Event.FOUND_AWAKE, now)
        model.woke_at = now
        model.answered = False
        self.stage.tell(Woke(now, model.name, None, None))
        self.stage.serve(model)

    async def _more_room(self) -> None:
        self._room = Deferred()
        await self._room

    def room_changed(self) -> None:
        """Something has been released."""
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def _finish(self) -> None:
        self.end()
        self._known()

    def stop(self) -> None:
        """See L{Story.stop}: nobody need know any more what is awake."""
        self.sequence.kill()
        self.room_changed()


class Cleaning(Story):
    """
    A model that may be awake, and must not be, is put to sleep, however often
    that has to be tried.

    After a wake that failed, a C{no} of C{alive} counts only when another
    C{wake_timeout} has passed: a server that is still loading has been saying no
    all along.
    """

    def __init__(self, stage: Stage, model: Model, failed_try: float | None = None) -> None:
        """
        @param failed_try: when the wake began that has failed; the model's
            back-off will be at least as long as this try and its clean-up took.
        """
        super().__init__(stage, [model])
        self._model = model
        self._failed_try = failed_try
        self._began = self.now()
        self._backoff = Backoff()
        self._pausing = False

    async def run(self) -> None:
        """See L{Story.run}."""
        stage, model = self.stage, self._model
        while True:
            began = self.now()
            outcome = await self.sequence.put_to_sleep(model.name, model.settings)
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

    def stop(self) -> None:
        """See L{Story.stop}: the sleep hook gets one last try, now."""
        if self._pausing:
            self.sequence.wake_up()


class Check(Story):
    """
    A backend is in doubt.  Arrivals wait until C{alive} says whether the model
    is there: yes, and it serves on; no, and it is cleaned up.  As long as
    C{alive} gives no answer it is asked again, at growing intervals; after
    the model's C{wake_timeout} without an answer the model is cleaned up.
    """

    def __init__(self, stage: Stage, model: Model, answer: Answer = Answer.UNKNOWN) -> None:
        """
        @param answer: what C{alive} has said already.
        """
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
                # Before those whose requests failed: what they do next must find it open.
                stage.serve(model)
                self._answer_doubts(dead=False)
            elif answer is Answer.UNKNOWN and stage.stopping:
                self._answer_doubts(dead=False)
            else:
                self._is_dead()

    def _is_dead(self) -> None:
        """Whatever else the model had in flight is cut off, and its sleep hook cleans up."""
        stage, model = self.stage, self._model
        now = self.now()
        if not model.answered:
            # The model died without having completed anything since it woke: a
            # prompt that kills its backend must not make a loop.
            model.wake_backoff.failed(now)
        log.error("the backend of {model} is dead", event="backend_died", model=model.name)
        stage.tell(Failed(now, model.name, None, max(now, model.wake_backoff.until)))
        model.step(Event.DEAD, now)
        stage.abort_exchanges(
            model, f"the backend of {model.name} died", "backend_died", may_wait_again=True
        )
        self._answer_doubts(dead=True)
        Cleaning(stage, model).begin()

    def _answer_doubts(self, dead: bool) -> None:
        doubts, self._model.doubts = self._model.doubts, []
        for doubt in doubts:
            doubt.callback(dead)

    def stop(self) -> None:
        """See L{Story.stop}: no further question is asked."""
        self.sequence.wake_up()


class LastSleep(Story):
    """llmux stops, and an awake model is put to sleep because its owner wants that."""

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
            if outcome.failure is None or outcome.alive is Answer.NO:
                fell_asleep(stage, model, Event.SLEPT)
                return
            stage.tell(Failed(self.now(), model.name, HookKind.SLEEP, self.now()))
            known = outcome.alive is Answer.YES
            model.step(Event.NOT_SLEPT if known else Event.NOT_SURE_SLEPT, self.now())
