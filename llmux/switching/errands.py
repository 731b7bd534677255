"""
What commands have left to be done: switches that are to take place whatever the policy
thinks, and models that are to sleep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred, succeed

from llmux.control import CommandError
from llmux.errors import SwitchError
from llmux.interfaces import Decision, IScheduleView, Phase, Rebind, Reopen, Switch
from llmux.policy.fifo import make_room
from llmux.switching.dismissal import Dismissal
from llmux.switching.lasting import LastingCommands
from llmux.switching.model import INFINITY, InFlightGuard, Model
from llmux.switching.shutdown import SHUTTING_DOWN
from llmux.switching.story import Stage, Story
from llmux.switching.transition import Transition

__all__ = ["Errands", "Steered"]


class Steered(Stage, Protocol):
    """What the steering needs of the switcher, beyond what stories need."""

    def transitions(self) -> Sequence[Transition]:
        """The switches under way."""

    def stories(self) -> list[Story]:
        """The stories that are being told."""

    def wanted(self) -> list[Model]:
        """The models that somebody waits for."""

    def acquire(self, model: str) -> Deferred[InFlightGuard]:
        """Wait for the model, as a request does."""


@dataclass(slots=True)
class _Order:
    """
    A switch that is to take place as soon as it can, whatever the policy thinks.

    @ivar done: the Deferreds of those who gave the order.
    @ivar abort: what is in flight to its victims is cut short.
    """

    model: Model
    abort: bool = False
    done: list[Deferred[None]] = field(default_factory=list)


@dataclass(slots=True)
class _Rest:
    """Models that are to sleep, and the Deferred of who wants that."""

    models: set[str]
    done: Deferred[None]


class Errands:
    """
    Does what commands ask for, as soon as that can be done, and tells when it is done.

    A model has at most one order; a model that is pinned, and is asleep, is woken
    like one that has an order, but not before its back-off has ended.
    """

    def __init__(self, stage: Steered, lasting: LastingCommands) -> None:
        """
        @param lasting: the pins and the pause.
        """
        self._stage = stage
        self._lasting = lasting
        self._orders: dict[str, _Order] = {}
        self._rests: list[_Rest] = []

    def order(self, model: Model, abort: bool = False) -> Deferred[None]:
        """
        Have the model woken whatever the policy thinks.

        @param abort: what is in flight to its victims is cut short.
        @return: fires when the model is awake; fails with L{CommandError}.
        """
        order = self._orders.setdefault(model.name, _Order(model))
        order.abort |= abort
        done: Deferred[None] = Deferred()
        order.done.append(done)
        return done

    def order_quietly(self, model: Model) -> None:
        """Have the model woken whatever the policy thinks; nobody wants to know when."""
        self._orders.setdefault(model.name, _Order(model))

    def ordered_models(self) -> list[Model]:
        """The models that have an order."""
        return [order.model for order in self._orders.values()]

    def lay_to_rest(self, models: Iterable[Model], abort: bool) -> Deferred[None]:
        """
        Have these models sleep.

        @param abort: what is in flight to them is cut short.
        @return: fires when they sleep; fails with L{CommandError}.
        """
        restless = [model for model in models if model.phase is not Phase.ASLEEP]
        if not restless:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._rests.append(_Rest({model.name for model in restless}, done))
        for model in restless:
            self._move_towards_sleep(model)
            if abort:
                self._stage.abort_exchanges(
                    model, f"{model.name} is put to sleep by command", "command"
                )
        return done

    def is_ordered(self, model: Model) -> bool:
        """A switch to the model is not the policy's to change."""
        return model.name in self._orders or model.name in self._lasting.pins

    def _sleeps(self) -> bool:
        """There is a pause, and all models are to sleep for it."""
        pause = self._lasting.pause
        return pause is not None and pause.sleeps

    @property
    def asks(self) -> bool:
        """There is something to be done, or to be held back."""
        lasting = self._lasting
        return bool(self._orders or self._rests or lasting.pins or lasting.pause)

    def look(self) -> None:
        """Something has happened: have those go on that wait for that."""
        for dismissal in self.dismissals():
            dismissal.look()
        if not self.asks:
            return
        for transition in list(self._stage.transitions()):
            if transition.phase is not Phase.DRAINING:
                continue
            if not self.is_ordered(transition.target):
                continue
            order = self._orders.get(transition.target.name)
            if order is not None and order.abort:
                for victim in transition.victims:
                    self._stage.abort_exchanges(
                        victim, f"{victim.name} makes room by command", "command"
                    )
            if transition.is_drained():
                transition.go_on()
        sleeps = self._sleeps()
        resting = {name for rest in self._rests for name in rest.models}
        now = self._stage.clock.seconds()
        for model in self._stage.models.values():
            # One that did not sleep is tried again after its back-off, as for any switch.
            if model.name in resting or (sleeps and model.sleep_backoff.until <= now):
                self._move_towards_sleep(model)

    def _move_towards_sleep(self, model: Model) -> None:
        if model.phase is Phase.AWAKE and not model.busy:
            Dismissal(self._stage, model, "by command").begin()
        elif model.phase is Phase.WAKING:
            for transition in self._stage.transitions():
                if transition.target is model:
                    transition.abandon("it is put to sleep by command")

    def decide(self, view: IScheduleView) -> Decision | None:
        """What an order asks for now; None leaves the decision to the policy."""
        for model in self._ordered():
            if model.phase is Phase.ASLEEP and not model.busy:
                if model.wake_backoff.until > view.now:
                    continue
                decision = self._make_room(view, model)
                if decision is not None:
                    return decision
            elif model.phase is Phase.DRAINING:
                for switch in view.switches:
                    if model.name in switch.victims and switch.phase is Phase.DRAINING:
                        return Reopen(switch.number)
        return None

    def _ordered(self) -> Iterator[Model]:
        for order in self._orders.values():
            yield order.model
        for name in self._lasting.pins:
            if name not in self._orders:
                yield self._stage.models[name]

    def _make_room(self, view: IScheduleView, model: Model) -> Decision | None:
        pins, models = self._lasting.pins, self._stage.models
        # An order tries once what has failed before; a pin lasts, and would try without end.
        is_now = model.name in self._orders
        taken = {victim for switch in view.switches for victim in switch.victims}
        order = sorted(
            (
                name
                for name in view.holders()
                if view.phase(name) is Phase.AWAKE
                and not (name in taken or name in pins or models[name].busy)
                and not models[name].settings.always
                and (is_now or models[name].sleep_backoff.until <= view.now)
            ),
            key=lambda name: (view.in_flight(name) > 0, view.awake_since(name)),
        )
        plan = make_room(view, model.name, order, ())
        if plan is not None:
            return Switch(model.name, *plan)
        for switch in view.switches:
            if switch.phase is Phase.DRAINING:
                plan = make_room(view, model.name, order, (), switch)
                if plan is not None:
                    return Rebind(switch.number, model.name, *plan)
        return None

    def next_time(self, now: float) -> float:
        """
        The time at which the next back-off ends: of a model that is pinned and to be woken,
        or of one that is to sleep for that, or during a pause in which all sleep.
        """
        times = [
            model.wake_backoff.until for model in self._ordered() if model.phase is Phase.ASLEEP
        ]
        if times or self._sleeps():
            times += [
                model.sleep_backoff.until
                for model in self._stage.models.values()
                if model.phase is Phase.AWAKE
            ]
        return min((time for time in times if time > now), default=INFINITY)

    def served(self, model: Model) -> None:
        """The model serves."""
        order = self._orders.pop(model.name, None)
        if order is not None:
            for done in order.done:
                done.callback(None)

    def slept(self, model: Model) -> None:
        """The model is asleep."""
        for rest in list(self._rests):
            rest.models.discard(model.name)
            if not rest.models:
                self._rests.remove(rest)
                rest.done.callback(None)

    def not_slept(self, model: Model, reason: str) -> None:
        """The model does not go to sleep."""
        error = f"{model.name} does not go to sleep ({reason}); the log says more."
        for rest in list(self._rests):
            if model.name in rest.models:
                self._rests.remove(rest)
                rest.done.errback(CommandError(error, 500, "hook_failed"))

    def not_woken(self, model: Model, error: SwitchError) -> None:
        """A switch to the model has failed."""
        order = self._orders.pop(model.name, None)
        if order is not None:
            for done in order.done:
                done.errback(CommandError(f"{error}; the log says more.", 500, "hook_failed"))

    def end(self) -> None:
        """llmux stops: whoever waits for the end of an errand is told so."""
        orders, self._orders = self._orders, {}
        rests, self._rests = self._rests, []
        for done in [
            *(done for order in orders.values() for done in order.done),
            *(rest.done for rest in rests),
        ]:
            done.errback(CommandError(f"{SHUTTING_DOWN}.", 503, "shutting_down"))

    def dismissals(self) -> list[Dismissal]:
        """The stories of models that go to sleep for nobody."""
        return [story for story in self._stage.stories() if isinstance(story, Dismissal)]

    def supersede(self, name: str) -> None:
        """The model is not to be woken any more: who has ordered that is told so."""
        order = self._orders.pop(name, None)
        if order is not None:
            for done in order.done:
                done.errback(_superseded())

    def end_rests(self, names: Iterable[str]) -> None:
        """These models need not sleep any more: who has wanted that is told so."""
        ended = set(names)
        for rest in list(self._rests):
            if rest.models & ended:
                self._rests.remove(rest)
                rest.done.errback(_superseded())


def _superseded() -> CommandError:
    return CommandError("A later command has superseded this one.", code="superseded")
