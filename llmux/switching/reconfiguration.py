"""
This module gives a running switcher another configuration: models are added, removed and
changed, and no request is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from llmux.errors import ModelNotFound
from llmux.interfaces import Arrived, ISwitchPolicy, Needs, Phase, Woke
from llmux.switching.decisions.containment import ContainedPolicy
from llmux.switching.decisions.listeners import Listeners
from llmux.switching.decisions.questions import Questions
from llmux.switching.facts.model import Model
from llmux.switching.facts.phases import COUNTS_AS_AWAKE
from llmux.switching.facts.settings import ModelSettings, SwitchSettings
from llmux.switching.stories.adoption import Adoption
from llmux.switching.stories.dismissal import Dismissal
from llmux.switching.wishes.errands import Steered
from llmux.switching.wishes.idleness import DefaultModel, Idleness
from llmux.switching.wishes.steering import Steering

__all__ = ["Arrangement", "Reconfiguration"]


_GIVE_ROOM = frozenset({Phase.DRAINING, Phase.SLEEPING, Phase.UNCERTAIN})
"""A model in one of these phases may soon free what it holds."""


class Arrangement(Struct, frozen=True):
    """
    An arrangement is what a configuration asks of the switcher.

    @ivar models: the settings of each model.
    @ivar resources: the resources of the machine.
    @ivar preload: the models that are woken at start, and when a pause ends.
    @ivar default: the model that is woken when there is nothing to do; or None.
    """

    models: Mapping[str, ModelSettings]
    settings: SwitchSettings
    resources: Needs
    preload: Sequence[str] = ()
    default: DefaultModel | None = None


class Reconfigured(Steered, Protocol):
    """This protocol is what this module needs of the switcher, beyond what commands need."""

    settings: SwitchSettings

    @property
    def steering(self) -> Steering: ...
    @property
    def idleness(self) -> Idleness: ...

    def add_model(self, name: str, settings: ModelSettings) -> Model:
        """Add a model, of which it is not known whether it is awake."""

    def forget_model(self, model: Model) -> None:
        """Remove a model, which is asleep."""


class Reconfiguration:
    """
    A reconfiguration brings a switcher from one arrangement to the next.

    A model that is awake keeps the settings with which it was woken, until it sleeps.  If a
    model is not configured any more, requests get no guards for it, those in flight finish, the
    model is put to sleep, and is then forgotten.  If more is held than there is, models are put
    to sleep: idle ones before busy ones, the longest awake first.
    """

    _log = Logger()

    def __init__(
        self,
        stage: Reconfigured,
        policy: ContainedPolicy,
        listeners: Listeners,
        questions: Questions,
    ) -> None:
        self._stage = stage
        self._policy = policy
        self._listeners = listeners
        self._questions = questions
        self._is_at_it = False
        self._adoptions: list[Adoption] = []
        self._next: IDelayedCall | None = None

    def check(self, models: Collection[str]) -> None:
        """
        Check that the switcher can go on with these models.

        @raise ValueError: a model that is pinned is not among these models.
        """
        for pin in self._stage.steering.pins:
            if pin.model not in models:
                raise ValueError(f"{pin.model} is pinned: `llmux unpin {pin.model}` first")

    def begin(
        self, arrangement: Arrangement, policy: tuple[ISwitchPolicy, bool] | None
    ) -> None:
        """
        Go on with another arrangement.  No request is lost, except those that wait for a model
        that is not configured any more.

        @param policy: the policy that decides from now on, and whether it knows what the
            present policy knows; None if the policy stays the same.
        @raise ValueError: see L{check}; nothing has changed then.
        """
        self.check(arrangement.models)
        stage, questions = self._stage, self._questions
        with stage.holding_questions():
            stage.settings = arrangement.settings
            questions.view.min_active = arrangement.settings.min_active
            self._rearrange(arrangement)
            questions.kept.changed()
            stage.steering.reconfigured(arrangement.preload)
            stage.idleness.reconfigured(arrangement.default)
            if policy is not None:
                latest, knows = policy
                self._policy.replace(latest)
                questions.latest = None
                self._listeners.choose()
                if not knows:
                    self._tell_what_is_known()
        questions.cancel()
        stage.consider()

    def _tell_what_is_known(self) -> None:
        """Show a new policy which models are awake, and which requests wait since when."""
        for model in self._stage.models.values():
            if model.phase in COUNTS_AS_AWAKE and not model.leaving:
                self._policy.observed_late(
                    Woke(model.woke_at, model.name, model.place, (), None)
                )
            for waiter in model.waiters():
                self._policy.observed_late(Arrived(waiter.arrived, model.name, waiter.request))

    def restart(self, model: Model) -> None:
        """
        Put the model, which is awake, to sleep, and have it woken again when the policy sees
        fit.
        """
        Dismissal(self._stage, model, "its configuration has changed").begin()
        self._stage.steering.want(model)

    def _rearrange(self, arrangement: Arrangement) -> None:
        """Change the models and the ledger; L{look} does what follows from that."""
        stage = self._stage
        capacity = stage.capacity
        if dict(arrangement.resources) != capacity.total:
            capacity.resize(arrangement.resources)
            for transition in list(stage.transitions):
                if transition.phase is Phase.DRAINING:
                    transition.call_off()
        added = []
        for name, settings in arrangement.models.items():
            model = stage.models.get(name)
            if model is None:
                added.append(stage.add_model(name, settings))
                continue
            model.configure(settings)
            if model.phase is Phase.ASLEEP and model.next_settings not in (
                None,
                model.settings,
            ):
                self._call_off(model, "the model is configured anew")
            if model.leaving:
                self._comes_back(model)
        for model in list(stage.models.values()):
            if model.name not in arrangement.models and not model.leaving:
                self._leaves(model)
        if added:
            adoption = Adoption(stage, added, None, None, _nothing)
            self._adoptions.append(adoption)
            adoption.begin()
        self._is_at_it = True

    def who_would_sleep(self, arrangement: Arrangement) -> list[str]:
        """
        Return the names of the models that are awake now, and that L{begin} would put to sleep
        because room is missing.
        """
        capacity, models = self._stage.capacity, self._stage.models
        staying = {
            name: capacity.held(name)
            for name in capacity.holders()
            if name in arrangement.models and models[name].phase is Phase.AWAKE
        }
        victims: list[str] = []
        while True:
            overdrawn = [
                resource
                for resource in {each for held in staying.values() for each in held}
                if sum(held.get(resource, 0) for held in staying.values())
                > arrangement.resources.get(resource, 0)
            ]
            holders = [
                models[name]
                for name, held in staying.items()
                if any(held.get(each, 0) for each in overdrawn)
            ]
            if not holders:
                return victims
            victim = min(holders, key=_goes_first).name
            victims.append(victim)
            del staying[victim]

    def _leaves(self, model: Model) -> None:
        model.leaving = True
        model.close_to_requests()
        self._stage.refuse(model, ModelNotFound(model.name))
        self._call_off(model, "the model is configured no longer")

    def _call_off(self, target: Model, why: str) -> None:
        """Call off the switch to this model, if there is one."""
        for transition in list(self._stage.transitions):
            if transition.target is target:
                if transition.phase is Phase.DRAINING:
                    transition.call_off()
                else:
                    transition.abandon(why)

    def _comes_back(self, model: Model) -> None:
        model.leaving = False
        if model.phase is Phase.AWAKE and not model.busy:
            self._stage.serve(model)

    def room_changed(self) -> None:
        """Tell the adoptions that a model has released what it held."""
        for adoption in self._adoptions:
            adoption.room_changed()

    def look(self) -> None:
        """Continue with what is not done yet, because something has happened."""
        if not self._is_at_it or self._stage.stopping:
            return
        stage = self._stage
        # A resource may have become larger, a reservation may have been given back, or a model
        # of another adoption may have been found asleep.
        stage.room_changed()
        running = stage.stories
        self._adoptions = [each for each in self._adoptions if each in running]
        is_done = not self._adoptions
        for model in list(stage.models.values()):
            if not model.leaving or stage.models.get(model.name) is not model:
                # A model that has just been put to sleep may have been forgotten within this
                # loop.
                continue
            is_done = False
            if any(model in transition.victims for transition in stage.transitions):
                # The end of that switch needs its victims.
                continue
            if model.phase is Phase.ASLEEP and not model.busy:
                if model.guards:
                    # Without drains, a model may sleep before its requests have ended.
                    continue
                self._log.info(
                    "{model} is configured no longer, and asleep: it is forgotten",
                    event="model_removed",
                    model=model.name,
                )
                stage.forget_model(model)
            elif model.phase is Phase.AWAKE and not model.busy:
                self._put_to_sleep([model], "it is configured no longer")
        # Room is made first, because an adoption may wait for that.
        self._is_at_it = not (self._make_room() and is_done)

    def _make_room(self) -> bool:
        """Put models to sleep if more is held than there is, and tell whether that is done."""
        capacity = self._stage.capacity
        overdrawn = capacity.overdrawn_resources()
        if not overdrawn:
            return True
        holders = [
            self._stage.models[name]
            for name in capacity.holders()
            if any(capacity.held(name).get(each, 0) for each in overdrawn)
        ]
        if any(
            model.phase in _GIVE_ROOM
            # A model that has not been asked yet may be asleep; one that has said yes waits for
            # this room.
            or (model.phase is Phase.UNKNOWN and not model.said_yes)
            for model in holders
        ):
            return False
        candidates = [
            model for model in holders if model.phase is Phase.AWAKE and not model.busy
        ]
        if candidates:
            self._put_to_sleep(candidates, "there is less room, by configuration")
        return False

    def _put_to_sleep(self, candidates: Sequence[Model], why: str) -> None:
        """
        Put one of these models to sleep.  A model whose sleep hook has failed is tried again
        after its back-off, as it would be for any switch.
        """
        clock = self._stage.clock
        now = clock.seconds()
        ready = [model for model in candidates if model.sleep_backoff.until <= now]
        if ready:
            Dismissal(self._stage, min(ready, key=_goes_first), why).begin()
            return
        at = min(model.sleep_backoff.until for model in candidates)
        if self._next is not None:
            if self._next.getTime() <= at:
                return
            self._next.cancel()
        self._next = clock.callLater(at - now, self._time_to_look)

    def _time_to_look(self) -> None:
        self._next = None
        self._stage.consider()

    def end(self) -> None:
        """Put no more models to sleep, because llmux stops."""
        if self._next is not None:
            self._next.cancel()
            self._next = None


def _goes_first(model: Model) -> tuple[bool, bool, float]:
    """
    Return a sort key: the model with the least key is put to sleep first if there is less room.
    """
    return model.settings.always, bool(model.guards), model.woke_at


def _nothing() -> None:
    pass
