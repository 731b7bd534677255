"""
What all stories have in common.

A story is one coroutine that moves models through their phases.  A story has
its own hooks and timers, and each story ends.  Several stories run side by
side; a model is in at most one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmux.errors import SwitchError
from llmux.interfaces import IHookRunner, PolicyEvent, Slept
from llmux.monitoring.metrics import Metrics
from llmux.switching.capacity import Capacity
from llmux.switching.cost import SwitchCostTracker
from llmux.switching.model import Model
from llmux.switching.phases import Event, Phase
from llmux.switching.sequences import Answer, HookSequence, SleepOutcome
from llmux.switching.settings import SwitchSettings

__all__ = ["Stage", "Story", "end_drain", "fell_asleep", "log", "stayed_awake"]

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

    def switch_rebound(self, switch: Any) -> None:
        """The switch leads to another target now."""

    def holding_questions(self) -> AbstractContextManager[None]:
        """Have the policy asked only after the block, and not in its middle."""

    def choose_place(self, model: Model, place: int) -> None:
        """A switch is to wake the model in this place: its hooks get to know."""

    def clean_up(self, model: Model, failed_try: float | None = None) -> None:
        """
        The model has come to UNCERTAIN: begin to put it to sleep.

        @param failed_try: when the wake began that has failed, if one has.
        """

    def check(self, model: Model) -> None:
        """The model has come to CHECKING: begin to ask whether it is alive."""

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

    def tell(self, event: PolicyEvent) -> None:
        """Something has happened that the policy and the observers may want to know."""

    def slept(self, model: Model) -> None:
        """The model's sleep hook has done its work."""

    def room_changed(self) -> None:
        """A model has released what it held."""

    def did_not_sleep(self, model: Model, reason: str) -> None:
        """The model was to go to sleep, and does not; the reason in a few words."""

    def is_ordered(self, model: Model) -> bool:
        """A switch to the model is not the policy's to change: a command wants it."""

    def somebody_waits_for_room_of(self, model: Model) -> bool:
        """A model is waited for that needs what this model holds."""

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
                model.is_let_go()
            self.stage.story_ended(self)

    def let_go(self, model: Model) -> None:
        """Another story may have this model already."""
        self.models.remove(model)
        model.is_let_go()

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
                self.stage.clean_up(model)

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


def fell_asleep(stage: Stage, model: Model, event: Event, cost: float | None = None) -> None:
    """
    The model is asleep and holds nothing any more.

    @param cost: seconds of its sleep hook; None if it was cleaned up.
    """
    now = stage.clock.seconds()
    model.step(event, now)
    stage.capacity.release(model.name)
    model.place = None
    model.is_asleep()
    if model.said_yes:
        model.said_yes = False
        model.sleep_backoff.reset()
        stage.metrics.went_to_sleep(model.name, now - model.woke_at)
    stage.tell(Slept(now, model.name, cost))
    stage.slept(model)
    stage.room_changed()


def stayed_awake(stage: Stage, model: Model, outcome: SleepOutcome) -> None:
    """The model has not gone to sleep: it serves on, or is asked whether it is alive."""
    known = outcome.alive is Answer.YES
    model.step(Event.NOT_SLEPT if known else Event.NOT_SURE_SLEPT, stage.clock.seconds())
    if stage.stopping:
        return
    if known:
        stage.serve(model)
    else:
        stage.check(model)


def end_drain(stage: Stage, model: Model, limit: float) -> None:
    """The model has drained for as long as it may, in seconds: cut off what is in flight."""
    log.warn(
        "{model} has drained for {timeout_secs} s: aborting {count} exchanges",
        event="drain_timeout",
        model=model.name,
        timeout_secs=limit,
        count=len(model.guards),
    )
    stage.abort_exchanges(
        model, f"model {model.name} was drained for {limit:g} s", "drain_timeout"
    )
