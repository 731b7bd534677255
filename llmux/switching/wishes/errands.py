"""
This module does what commands have left to be done: switches that are to take place whatever
the policy would decide, and models that are to sleep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct, field
from twisted.internet.defer import Deferred

from llmux.control import CommandError
from llmux.errors import SwitchError
from llmux.interfaces import Decision, IScheduleView, Phase, Rebind, Reopen, Switch
from llmux.policy.fifo import make_room
from llmux.switching.facts.model import INFINITY, InFlightGuard, Model
from llmux.switching.stories.dismissal import Dismissal
from llmux.switching.stories.shutdown import SHUTTING_DOWN
from llmux.switching.stories.transition import SwitchStage
from llmux.switching.wishes.lasting import LastingCommands

__all__ = ["Errands", "Steered"]


class Steered(SwitchStage, Protocol):
    """
    A L{Steered} is what the steering needs of the switcher, beyond what switches need.

    @ivar wanted: the models that requests wait for, by their names.
    """

    @property
    def wanted(self) -> Mapping[str, Model]: ...

    def acquire(self, model: str) -> Deferred[InFlightGuard]:
        """Wait for the model, as a request does."""


class _SwitchOrder(Struct):
    """
    A switch order is a switch that is to take place as soon as possible, whatever the
    policy would decide.

    @ivar done: the Deferreds of the commands that gave the order.
    @ivar abort: whether requests in flight to the victims are aborted.
    """

    model: Model
    abort: bool = False
    done: list[Deferred[None]] = field(default_factory=list)


class _SleepOrder(Struct):
    """
    A sleep order is a set of models that are to sleep, and the Deferred of the command that
    wants that.
    """

    models: set[str]
    done: Deferred[None]


class Errands:
    """
    L{Errands} do what commands ask for, as soon as that is possible, and tell when it is done.

    A model has at most one order; a model that is pinned, and is asleep, is woken
    like one that has an order, but not before its back-off has ended.

    @ivar kept_out: the models that must always be awake, and whose room others hold, which were
        awake before; they are woken like models that are pinned.
    """

    def __init__(self, stage: Steered, lasting: LastingCommands) -> None:
        """
        @param lasting: the pins and the pause.
        """
        self._stage = stage
        self._lasting = lasting
        self._orders: dict[str, _SwitchOrder] = {}
        self._sleep_orders: list[_SleepOrder] = []
        self.kept_out: Sequence[Model] = ()

    def order(self, model: Model, abort: bool = False) -> Deferred[None]:
        """
        Have the model woken, whatever the policy would decide.

        @param abort: whether requests in flight to the victims are aborted.
        @return: a Deferred that fires when the model is awake, or fails with L{CommandError}.
        """
        order = self._orders.setdefault(model.name, _SwitchOrder(model))
        order.abort |= abort
        done: Deferred[None] = Deferred()
        order.done.append(done)
        return done

    def order_quietly(self, model: Model) -> None:
        """
        Have the model woken, whatever the policy would decide; nobody is told when that is
        done.
        """
        self._orders.setdefault(model.name, _SwitchOrder(model))

    def ordered_models(self) -> list[Model]:
        """Return the models that have an order."""
        return [order.model for order in self._orders.values()]

    def put_to_sleep(self, models: Iterable[Model], abort: bool) -> Deferred[None]:
        """
        Put these models to sleep.

        @param abort: whether requests in flight to these models are aborted.
        @return: a Deferred that fires when they sleep, or fails with L{CommandError}.
        """
        chosen = list(models)
        not_asleep = {model.name for model in chosen if model.phase is not Phase.ASLEEP}
        done: Deferred[None] = Deferred()
        if not_asleep:
            self._sleep_orders.append(_SleepOrder(not_asleep, done))
        else:
            done.callback(None)
        for model in chosen:
            self._move_towards_sleep(model)
            if abort:
                self._stage.abort_exchanges(
                    model, f"{model.name} is put to sleep by command", "command"
                )
        return done

    def is_ordered(self, model: Model) -> bool:
        """
        Tell whether the policy must not change a switch to the model, because a command wants
        it.
        """
        return (
            model.name in self._orders
            or model.name in self._lasting.pins
            or model in self.kept_out
        )

    def _sleeps(self) -> bool:
        """Tell whether there is a pause for which all models are to sleep."""
        pause = self._lasting.pause
        return pause is not None and pause.sleeps

    @property
    def asks(self) -> bool:
        """Tell whether something is to be done, or to be held back."""
        lasting = self._lasting
        return bool(
            self._orders or self._sleep_orders or lasting.pins or lasting.pause or self.kept_out
        )

    def look(self) -> None:
        """Continue with what waits, because something has happened."""
        for dismissal in self.dismissals():
            dismissal.look()
        if not self.asks:
            return
        for transition in list(self._stage.transitions):
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
        to_sleep = {name for order in self._sleep_orders for name in order.models}
        now = self._stage.clock.seconds()
        for model in self._stage.models.values():
            # A model that did not sleep is tried again after its back-off, as it would be for
            # any switch.
            if model.name in to_sleep or (sleeps and model.sleep_backoff.until <= now):
                self._move_towards_sleep(model)

    def _move_towards_sleep(self, model: Model) -> None:
        if model.phase is Phase.AWAKE and not model.busy:
            Dismissal(self._stage, model, "by command").begin()
        elif model.busy and model.phase in (Phase.WAKING, Phase.ASLEEP):
            for transition in self._stage.transitions:
                # A switch that drains is called off when no request waits for its target.
                if transition.target is model and transition.phase is not Phase.DRAINING:
                    transition.abandon("it is put to sleep by command")

    def decide(self, view: IScheduleView) -> Decision | None:
        """Return what an order asks for now; None leaves the decision to the policy."""
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
        yield from self.kept_out

    def _make_room(self, view: IScheduleView, model: Model) -> Decision | None:
        pins, models = self._lasting.pins, self._stage.models
        # An order tries a model in back-off once; a pin lasts, so it would try without end.
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
        Return the time at which the next back-off ends: that of a model that is pinned and to
        be woken, or that of a model that is to sleep for this, or for a pause.
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
        """Fulfil the order for a model that serves now."""
        order = self._orders.pop(model.name, None)
        if order is not None:
            for done in order.done:
                done.callback(None)

    def slept(self, model: Model) -> None:
        """Note that the model is asleep."""
        for order in list(self._sleep_orders):
            order.models.discard(model.name)
            if not order.models:
                self._sleep_orders.remove(order)
                order.done.callback(None)

    def not_slept(self, model: Model, reason: str) -> None:
        """Fail the commands that wait for the sleep of a model that does not go to sleep."""
        error = f"{model.name} does not go to sleep ({reason}); the log says more."
        for order in list(self._sleep_orders):
            if model.name in order.models:
                self._sleep_orders.remove(order)
                order.done.errback(CommandError(error, 500, "hook_failed"))

    def not_woken(self, model: Model, error: SwitchError) -> None:
        """Fail the order for a model, because a switch to the model has failed."""
        order = self._orders.pop(model.name, None)
        if order is not None:
            for done in order.done:
                done.errback(CommandError(f"{error}; the log says more.", 500, "hook_failed"))

    def end(self) -> None:
        """Fail all commands that wait, because llmux stops."""
        orders, self._orders = self._orders, {}
        sleep_orders, self._sleep_orders = self._sleep_orders, []
        for done in [
            *(done for order in orders.values() for done in order.done),
            *(order.done for order in sleep_orders),
        ]:
            done.errback(CommandError(f"{SHUTTING_DOWN}.", 503, "shutting_down"))

    def dismissals(self) -> list[Dismissal]:
        """Return the stories of models that go to sleep for no other model."""
        return [story for story in self._stage.stories if isinstance(story, Dismissal)]

    def supersede(self, name: str) -> None:
        """Fail the order for a model that is not to be woken any more."""
        order = self._orders.pop(name, None)
        if order is not None:
            for done in order.done:
                done.errback(_superseded())

    def end_sleep_orders(self, names: Iterable[str]) -> None:
        """
        Fail the commands that wait for the sleep of these models, which need not sleep any
        more.
        """
        ended = set(names)
        for order in list(self._sleep_orders):
            if order.models & ended:
                self._sleep_orders.remove(order)
                order.done.errback(_superseded())


def _superseded() -> CommandError:
    return CommandError("A later command has superseded this one.", code="superseded")
