"""
This module has what all stories have in common.

A story is one coroutine that moves models through their phases.  A story has
its own hooks and timers, and each story ends.  Several stories run side by
side; a model is in at most one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmux.errors import SwitchError
from llmux.interfaces import IHookRunner, PolicyEvent, Slept
from llmux.monitoring.metrics import Metrics
from llmux.switching.facts.capacity import Capacity
from llmux.switching.facts.chronicle import Chronicle
from llmux.switching.facts.cost import SwitchCostTracker
from llmux.switching.facts.model import Model
from llmux.switching.facts.phases import Event, Phase
from llmux.switching.facts.settings import SwitchSettings
from llmux.switching.stories.sequences import Answer, HookSequence, SleepOutcome

__all__ = ["Orders", "Stage", "Story", "fell_asleep", "log", "stayed_awake"]

log = Logger()


class Orders(Protocol):
    """This protocol is what stories need of the orders that commands have given."""

    def is_ordered(self, model: Model) -> bool:
        """
        Tell whether the policy must not change a switch to the model, because a command wants
        it.
        """

    def slept(self, model: Model) -> None:
        """Note that the model is asleep."""

    def not_slept(self, model: Model, reason: str) -> None:
        """Note that a model that was to go to sleep does not; the reason is in a few words."""


class Stage(Protocol):
    """
    A stage is what stories need of the switcher.

    @ivar errands: what commands have left to be done.
    @ivar stories: the stories that run.
    @ivar models: all models by their names.
    @ivar stopping: whether llmux stops, so that nothing is woken, and each story comes to its
        end.
    @ivar aborting: whether everything that still runs is aborted.
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
    def chronicle(self) -> Chronicle: ...
    @property
    def errands(self) -> Orders: ...
    @property
    def stories(self) -> set[Story]: ...
    @property
    def models(self) -> Mapping[str, Model]: ...
    @property
    def stopping(self) -> bool: ...
    @property
    def aborting(self) -> bool: ...

    def holding_questions(self) -> AbstractContextManager[None]:
        """Have the policy asked only after the block, and not within it."""

    def choose_place(self, model: Model, place: int) -> None:
        """Tell the model's hooks in which place a switch is to wake the model."""

    def clean_up(self, model: Model, failed_try: float | None = None) -> None:
        """
        Begin to put a model to sleep that has come to UNCERTAIN.

        @param failed_try: when the wake that has failed began; None if there was none.
        """

    def check(self, model: Model) -> None:
        """Begin to ask whether a model that has come to CHECKING is alive."""

    def serve(self, model: Model) -> None:
        """Give the waiters of a model that has come to AWAKE their guards."""

    def refuse(self, model: Model, error: SwitchError) -> None:
        """Fail the waiters of the model with this error."""

    def abort_exchanges(
        self, model: Model, why: str, reason: str, *, may_wait_again: bool = False
    ) -> None:
        """Abort the requests in flight to the model."""

    def consider(self) -> None:
        """Ask the policy, because something has changed."""

    def tell(self, event: PolicyEvent) -> None:
        """Tell an event to the policy and to the observers."""

    def slept(self, model: Model) -> None:
        """Note that the model's sleep hook has succeeded."""

    def room_changed(self) -> None:
        """Note that a model has released what it held."""

    def who_waits_for_room_of(self, model: Model) -> Sequence[str]:
        """
        Return the names of the models that requests wait for and that need what this model
        holds.
        """


class Story:
    """
    A story is one coroutine that moves models.

    @ivar models: the models that the story moves; no other story moves them in the meantime.
    """

    def __init__(self, stage: Stage, models: Iterable[Model]) -> None:
        self.stage = stage
        self.models = list(models)
        self.sequence = HookSequence(stage.clock, stage.hooks)
        self._over = False

    def begin(self) -> None:
        """Run the story from its first step on."""
        for model in self.models:
            assert not model.busy, f"{model.name} is in a story already"
            model.busy = True
        self.has_begun()
        if self.stage.aborting:
            self.kill()
        told = Deferred.fromCoroutine(self.run())
        told.addErrback(self._broke)
        told.addCallback(lambda _: self._told())
        told.addErrback(lambda failure: log.failure("a defect after a story", failure))

    async def run(self) -> None:
        """
        Move the models; subclasses implement this method.

        Everything that follows from the result (models change their phase, waiters are served
        or refused, another story begins) must happen within one L{Stage.holding_questions},
        after L{end}.
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
            self.has_ended()

    def has_begun(self) -> None:
        """Note that the story runs from now on."""
        self.stage.stories.add(self)

    def has_ended(self) -> None:
        """Note that the story has let go of its models."""
        self.stage.stories.discard(self)

    def let_go(self, model: Model) -> None:
        """Let go of one model, which another story may have from now on."""
        self.models.remove(model)
        model.is_let_go()

    def stop(self) -> None:
        """
        Come to an end, because llmux stops.  Hooks that run may finish, unless a subclass says
        otherwise.
        """

    def kill(self) -> None:
        """End the hooks that run, because llmux stops at once."""
        self.sequence.kill()

    def _broke(self, failure: Failure) -> None:
        """
        Log a defect in a story, and clean up its models, so that none of them stays in an
        unfinished phase for ever.
        """
        log.failure("a defect in a story", failure)
        models = list(self.models)
        self.end()
        for model in models:
            if model.phase not in (Phase.ASLEEP, Phase.AWAKE, Phase.UNCERTAIN):
                model.step(Event.BROKEN, self.stage.clock.seconds())
            if model.phase is Phase.UNCERTAIN and not self.stage.stopping:
                self.stage.clean_up(model)

    # ------------------------------------------------- parts of several stories

    def now(self) -> float:
        """Return the time, in seconds on the switcher's clock."""
        return self.stage.clock.seconds()

    def log_sleep_failure(self, model: Model, to: str, outcome: SleepOutcome) -> None:
        """Log why a sleep hook has failed, if it has."""
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
    Note that the model is asleep, and holds nothing any more.

    @param cost: how many seconds its sleep hook took; None if the model was cleaned up.
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
    """Let a model that has not gone to sleep serve again, or ask whether it is alive."""
    known = outcome.alive is Answer.YES
    model.step(Event.NOT_SLEPT if known else Event.NOT_SURE_SLEPT, stage.clock.seconds())
    if stage.stopping:
        return
    if known:
        stage.serve(model)
    else:
        stage.check(model)
