"""
This module takes the commands of operators: switch now, sleep, keep a model awake, pause.

Commands have precedence over the policy, but the rules of the switcher hold for them too: a
switch that a command asks for takes its room from the ledger, drains its victims, and is
checked like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from llmux.control import CommandError, IControl, Pause, Pin
from llmux.errors import ModelPinned, NotReady, Paused, SwitchError
from llmux.interfaces import Phase
from llmux.scheduling import fit_together
from llmux.switching.facts.model import InFlightGuard, Model
from llmux.switching.stories.recovery import Cleaning
from llmux.switching.stories.shutdown import SHUTTING_DOWN
from llmux.switching.wishes.errands import Errands, Steered
from llmux.switching.wishes.lasting import LastingCommands

__all__ = ["Steering"]


@implementer(IControl)
class Steering:
    """
    The steering takes commands, refuses those that are not possible, and keeps those that last:
    pins and the pause.

    @ivar errands: the work that commands have left to be done.
    """

    def __init__(
        self, stage: Steered, lasting: LastingCommands, preload: Iterable[str]
    ) -> None:
        """
        @param lasting: the pins and the pause, which last longer than this llmux.
        @param preload: the models that are woken when a pause ends.
        """
        self._stage = stage
        self._lasting = lasting
        self.errands = Errands(stage, lasting)
        self._preload = list(preload)
        # For each model that a command wants awake, a Deferred that waits as a request would.
        self._wakes: dict[str, Deferred[InFlightGuard]] = {}
        lasting.call_when_over(self._pin_is_over, self._pause_is_over)
        lasting.restore(stage.models)

    # ------------------------------------------------------------------ commands

    @property
    def pins(self) -> Sequence[Pin]:
        """See L{IControl.pins}."""
        return list(self._lasting.pins.values())

    @property
    def pause(self) -> Pause | None:
        """See L{IControl.pause}."""
        return self._lasting.pause

    def wake(self, model: str, by: str) -> Deferred[None]:
        """See L{IControl.wake}."""
        return self._command(lambda: self._wake(self._stage.models[model]))

    def switch(self, model: str, abort: bool, by: str) -> Deferred[None]:
        """See L{IControl.switch}."""
        return self._command(lambda: self._switch(self._stage.models[model], abort))

    def sleep(
        self, models: Sequence[str] | None, abort: bool, force: bool, by: str
    ) -> Deferred[None]:
        """See L{IControl.sleep}."""
        all_models = self._stage.models
        if models is None:
            chosen = [
                model
                for model in all_models.values()
                if model.phase is not Phase.ASLEEP and not model.settings.always
            ]
        else:
            chosen = [all_models[name] for name in models]
        return self._command(lambda: self._sleep(chosen, abort, force))

    def pin(self, model: str, secs: float | None, refuse: bool, by: str) -> Deferred[None]:
        """See L{IControl.pin}."""
        return self._command(lambda: self._pin(self._stage.models[model], secs, refuse))

    def unpin(self, model: str | None, by: str) -> Deferred[None]:
        """See L{IControl.unpin}."""
        names = list(self._lasting.pins) if model is None else [model]
        return self._command(lambda: self._unpin(names))

    def pause_switching(
        self, secs: float | None, sleep: bool, refuse: bool, by: str
    ) -> Deferred[None]:
        """See L{IControl.pause_switching}."""
        return self._command(lambda: self._pause(secs, sleep, refuse, by))

    def resume(self, by: str) -> Deferred[None]:
        """See L{IControl.resume}."""
        return self._command(self._resume)

    def _command(self, carry_out: Callable[[], Deferred[None]]) -> Deferred[None]:
        if self._stage.stopping:
            return fail(CommandError(f"{SHUTTING_DOWN}.", 503, "shutting_down"))
        try:
            with self._stage.holding_questions():
                done = carry_out()
        except CommandError as error:
            return fail(error)
        self._stage.consider()
        return done

    # ---------------------------------------------------------- each command's work

    def _wake(self, model: Model) -> Deferred[None]:
        self._check_may_wake(model)
        self.errands.end_sleep_orders([model.name])
        self.want(model)
        return succeed(None)

    def want(self, model: Model) -> None:
        """Wait for the model as a request does, and release the guard at once."""
        if model.open or model.name in self._wakes:
            return
        waiting = self._stage.acquire(model.name)
        if waiting.called:
            waiting.addCallbacks(_give_back, _ignore)
            return
        self._wakes[model.name] = waiting

        def over(result: InFlightGuard | Failure) -> None:
            if self._wakes.get(model.name) is waiting:
                del self._wakes[model.name]
            if isinstance(result, Failure):
                # The log and the model's back-off have the reason.
                return
            _give_back(result)

        waiting.addBoth(over)

    def wake_if_quiet(self, model: Model) -> None:
        """Wake the default model, unless there is something to do."""
        now = self._stage.clock.seconds()
        if model.phase is not Phase.ASLEEP or self.pause or model.wake_backoff.until > now:
            return
        if not self._pinned_in_the_way(model):
            # Nothing is in flight to its victims, so they sleep at once, before a new request
            # could wait for them.
            self.errands.order_quietly(model)
            self._stage.consider()

    def _switch(self, model: Model, abort: bool) -> Deferred[None]:
        self._check_may_wake(model)
        self.errands.end_sleep_orders([model.name])
        for dismissal in self.errands.dismissals():
            if dismissal.model is model and dismissal.drains:
                dismissal.call_off()
        if model.open:
            return succeed(None)
        return self._give_order(model, abort)

    def _give_order(self, model: Model, abort: bool) -> Deferred[None]:
        for other in self.errands.ordered_models():
            if other is not model and not self._fit([other.name, model.name]):
                self.errands.supersede(other.name)
        # A command that says "now" does not wait for the end of a back-off.
        model.wake_backoff.reset()
        return self.errands.order(model, abort)

    def _sleep(self, models: Sequence[Model], abort: bool, force: bool) -> Deferred[None]:
        for model in models:
            self._check_may_sleep(model, abort)
        if force and not any(model.phase is Phase.UNCERTAIN for model in models):
            raise CommandError(
                "--force is for a model that is uncertain; "
                + ", ".join(f"{model.name} is {model.phase.value}" for model in models)
                + ". Leave out --force.",
                code="not_uncertain",
                param="force",
            )
        for model in models:
            self.errands.supersede(model.name)
            self._forget_wake(model.name)
            if abort and model.waiting:
                error = NotReady(model.name, f"{model.name} is put to sleep by command", 5.0)
                self._stage.refuse(model, error)
        if force:
            for story in list(self._stage.stories):
                if isinstance(story, Cleaning) and story.models[0] in models:
                    story.believe()
        return self.errands.put_to_sleep(models, abort)

    def _pin(self, model: Model, secs: float | None, refuse: bool) -> Deferred[None]:
        self._check_may_wake(model)
        self._lasting.pin(Pin(model.name, self._end_of(secs), refuse))
        self.errands.end_sleep_orders([model.name])
        if refuse:
            for other in list(self._stage.wanted.values()):
                error = self.refusal(other)
                if error is not None:
                    self._stage.refuse(other, error)
        return self._switch(model, False)

    def _unpin(self, names: Iterable[str]) -> Deferred[None]:
        for name in names:
            if self._lasting.unpin(name):
                self.errands.supersede(name)
        return succeed(None)

    def _pause(self, secs: float | None, sleep: bool, refuse: bool, by: str) -> Deferred[None]:
        self._lasting.begin_pause(Pause(self._end_of(secs), refuse, sleep, by))
        for model in self.errands.ordered_models():
            self.errands.supersede(model.name)
        for transition in list(self._stage.transitions):
            if transition.phase is Phase.DRAINING:
                transition.call_off()
        if refuse:
            for model in list(self._stage.wanted.values()):
                error = self.refusal(model)
                assert error is not None
                self._stage.refuse(model, error)
        if not sleep:
            return succeed(None)
        return self.errands.put_to_sleep(self._stage.models.values(), False)

    def _resume(self) -> Deferred[None]:
        if self._lasting.end_pause():
            self._pause_is_over()
        return succeed(None)

    def _pause_is_over(self) -> None:
        if self._stage.stopping:
            return
        with self._stage.holding_questions():
            self.errands.end_sleep_orders(list(self._stage.models))
            for dismissal in self.errands.dismissals():
                if dismissal.drains:
                    dismissal.call_off()
            self.preload()
        self._stage.consider()

    def _pin_is_over(self) -> None:
        if not self._stage.stopping:
            self._stage.consider()

    def preload(self) -> None:
        """Have the models woken that must be awake from the start, when the policy sees fit."""
        if self.pause is None:
            for name in self._preload:
                self.want(self._stage.models[name])

    def reconfigured(self, preload: Iterable[str]) -> None:
        """
        Apply other models to be woken when a pause ends, and drop the orders for models that
        are not configured any more.
        """
        self._preload = list(preload)
        for model in self.errands.ordered_models():
            if model.leaving:
                self.errands.supersede(model.name)

    def _end_of(self, secs: float | None) -> float | None:
        return None if secs is None else self._stage.clock.seconds() + secs

    # --------------------------------------------------------------- their checks

    def _check_may_wake(self, model: Model) -> None:
        """
        Check that a command may wake the model.

        @raise CommandError: there is a pause, or the pinned models leave no room.
        """
        if self.pause is not None:
            raise CommandError("Switching is paused: `llmux resume` ends that.", code="paused")
        in_the_way = self._pinned_in_the_way(model)
        if in_the_way:
            names = " and ".join(in_the_way)
            raise CommandError(
                f"{names} {'is' if len(in_the_way) == 1 else 'are'} pinned, and {model.name} "
                f"does not fit beside: `llmux unpin {in_the_way[0]}` first.",
                code="pinned",
            )

    def _check_may_sleep(self, model: Model, abort: bool) -> None:
        name = model.name
        if model.settings.always:
            raise CommandError(
                f"{name} is kept awake (`keep: always`): `llmux pause --sleep` puts "
                "everything to sleep.",
                code="kept",
            )
        if name in self._lasting.pins:
            raise CommandError(f"{name} is pinned: `llmux unpin {name}` first.", code="pinned")
        if model.phase is Phase.UNKNOWN:
            raise CommandError(
                f"llmux does not know yet whether {name} is awake: try again in a moment.",
                code="unknown_state",
            )
        requests = model.waiting - (name in self._wakes)
        if requests > 0 and not abort:
            raise CommandError(
                f"{requests} request{' waits' if requests == 1 else 's wait'} for {name}: "
                "`llmux pause` first, or give --abort, which answers with 503.",
                code="requests_wait",
            )

    def _pinned_in_the_way(self, model: Model) -> list[str]:
        """Return the pinned models beside which the model does not fit."""
        pins = [name for name in self._lasting.pins if name != model.name]
        if not pins or self._fit([*pins, model.name]):
            return []
        alone = [name for name in pins if not self._fit([name, model.name])]
        return alone or pins

    def _fit(self, names: Sequence[str]) -> bool:
        """
        Tell whether these models can be awake at once, beside those that are always kept awake.
        """
        models = self._stage.models
        kept = [name for name, model in models.items() if model.settings.always]
        needed = [models[name].settings.places for name in dict.fromkeys([*kept, *names])]
        return fit_together(self._stage.capacity.total, needed)

    # ------------------------------------------------------- what the switcher asks

    def refusal(self, model: Model) -> SwitchError | None:
        """Return the error for a request that would wait for the model; None to let it wait."""
        lasting = self._lasting
        pause = lasting.pause
        if pause is not None and pause.refuses:
            return Paused(model.name, lasting.seconds_left(pause.until))
        if any(pin.refuses for pin in lasting.pins.values()):
            in_the_way = self._pinned_in_the_way(model)
            refusing = [name for name in in_the_way if lasting.pins[name].refuses]
            if refusing:
                until = lasting.pins[refusing[0]].until
                return ModelPinned(model.name, refusing[0], lasting.seconds_left(until))
        return None

    def is_pinned(self, model: str) -> bool:
        """Tell whether a command keeps the model awake."""
        return model in self._lasting.pins

    def end(self) -> None:
        """Fail all commands that wait, because llmux stops."""
        self._lasting.end()
        self.errands.end()

    def _forget_wake(self, name: str) -> None:
        waiting = self._wakes.pop(name, None)
        if waiting is not None:
            waiting.cancel()


def _give_back(guard: InFlightGuard) -> None:
    guard.release(answered=False)


def _ignore(failure: Failure) -> None:
    """Do nothing, because the log has the reason."""
