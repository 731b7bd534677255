"""This module has the story of a switch: its victims drain and sleep, and its target wakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall

from llmux.errors import HookFailed
from llmux.interfaces import Failed, HookKind, SwitchView, Why, Woke
from llmux.monitoring.metrics import IDLE
from llmux.switching.facts.capacity import Reservation
from llmux.switching.facts.model import Model
from llmux.switching.facts.phases import Event, Phase
from llmux.switching.stories.drain_limit import DrainLimit
from llmux.switching.stories.preparation import Preparation
from llmux.switching.stories.sequences import SleepOutcome
from llmux.switching.stories.story import Stage, Story, fell_asleep, log, stayed_awake

__all__ = ["Transition"]

_FIRST_REMARK = 10.0
"""
After this many seconds the log says that a model is not ready yet; the time to the next such
line is doubled each time.
"""

SEVERAL = "several"
"""If there is more than one victim, logs and metrics have this word for them."""


class SwitchStage(Stage, Protocol):
    """
    This protocol is what switches need of the switcher, beyond what other stories need.

    @ivar transitions: the switches under way.
    """

    @property
    def transitions(self) -> list[Transition]: ...


class Transition(Story):
    """
    A transition is a switch to C{target}.

    All victims drain; when all have drained the policy is asked a last time;
    then they sleep side by side, and the target wakes.  Until the first sleep
    hook begins the switch can be called off, or be bound to another target, another
    place and other victims.

    @ivar number: the number of the switch, which no later switch has.
    @ivar target: the model that is to wake.
    @ivar place: the number of the place in which the target is to wake.
    @ivar began: when the switch began.
    @ivar victims: the models that make room for the target.
    @ivar why: the reason of the decision that chose the target and the victims; None if the
        policy gave no reason, or did not decide.
    @ivar outwaited: whether a request for the target has reached its time limit during this
        switch, which therefore goes on even if no request waits any more.
    """

    stage: SwitchStage

    def __init__(
        self,
        stage: SwitchStage,
        number: int,
        target: Model,
        place: int,
        victims: Sequence[Model],
        reservation: Reservation,
        why: Why | None,
    ) -> None:
        super().__init__(stage, [target, *victims])
        self.number = number
        self.target = target
        self.place = place
        self.victims = list(victims)
        self.why = why
        self.outwaited = False
        self._reservation: Reservation | None = reservation
        self._preparation = Preparation(stage.hooks)
        self.began = self.now()
        self._goes_on: Deferred[bool] = Deferred()
        self._drain_limits: dict[str, DrainLimit] = {}
        self._remarks: IDelayedCall | None = None
        self._abandoning: IDelayedCall | None = None
        self._is_abandoned = False

    def has_begun(self) -> None:
        """See L{Story.has_begun}."""
        super().has_begun()
        self.stage.transitions.append(self)
        self.stage.chronicle.switch_began(self)

    def has_ended(self) -> None:
        """See L{Story.has_ended}."""
        super().has_ended()
        self.stage.transitions.remove(self)
        self.stage.chronicle.switch_ended(self)

    @property
    def source(self) -> str | None:
        """Return the victim's name; "several" for more than one; None if there is none."""
        if not self.victims:
            return None
        return self.victims[0].name if len(self.victims) == 1 else SEVERAL

    @property
    def phase(self) -> Phase:
        """
        Return DRAINING as long as the switch may be called off, then SLEEPING, then WAKING.
        """
        if self.target.phase is Phase.WAKING:
            return Phase.WAKING
        if self.victims and not self._goes_on.called:
            return Phase.DRAINING
        return Phase.SLEEPING

    def seen(self) -> SwitchView:
        """
        Return the switch as the policy sees it; the policy must not change a switch that a
        command wants.
        """
        phase = self.phase
        drains = phase is Phase.DRAINING
        if drains and self.stage.errands.is_ordered(self.target):
            drains, phase = False, Phase.SLEEPING
        return SwitchView(
            self.number,
            self.target.name,
            self.place,
            tuple(model.name for model in self.victims),
            phase,
            drains and self.is_drained(),
        )

    async def run(self) -> None:
        """See L{Story.run}."""
        stage, target = self.stage, self.target
        log.info(
            "switching from {from} to {to}",
            event="switch_started",
            to=target.name,
            **{"from": self.source or IDLE},
        )
        stage.choose_place(target, self.place)
        self._preparation.begin(target)
        if self.victims and not await self._drained():
            with stage.holding_questions():
                self._call_off()
            return
        hooks_began = self.now()
        if self.victims:
            failed = await self._sleep()
            if stage.stopping or failed or self._is_abandoned:
                with stage.holding_questions():
                    self._not_made_room(failed, hooks_began)
                return
        await self._wake(hooks_began)

    # -------------------------------------------------------------- draining

    async def _drained(self) -> bool:
        """
        Wait until the victims have drained; return False if the switch is called off first.
        """
        stage = self.stage
        for model in self.victims:
            self._evict(model)
        # If nothing is in flight, the policy is asked for the last time now.
        stage.consider()
        goes_on = await self._goes_on
        for limit in self._drain_limits.values():
            limit.cancel()
        return goes_on

    def _evict(self, model: Model) -> None:
        model.step(Event.EVICTED, self.now())
        self._drain_limits[model.name] = DrainLimit(self.stage, model)

    def is_drained(self) -> bool:
        """Tell whether no victim has anything in flight that must finish first."""
        if not self.stage.settings.drain_before_switch:
            return True
        return not any(model.guards for model in self.victims)

    def go_on(self) -> None:
        """
        Go on to the sleep hooks, because the victims have drained and the switch is still
        wanted.
        """
        self._goes_on.callback(True)

    def call_off(self) -> None:
        """Call the switch off, and let the victims serve again."""
        self._goes_on.callback(False)

    def _call_off(self) -> None:
        stage = self.stage
        log.info(
            "the switch from {from} to {to} is called off",
            event="switch_called_off",
            to=self.target.name,
            **{"from": self.source or IDLE},
        )
        self.end()
        for model in self.victims:
            model.step(Event.REOPENED, self.now())
        for model in self.victims:
            stage.serve(model)

    def rebind(
        self, target: Model, place: int, victims: Sequence[Model], why: Why | None
    ) -> bool:
        """
        Change the switch, whose victims still drain, to another target, another place, or other
        victims.  A model that is no longer a victim serves again.

        @return: whether the room suffices; if it does not, nothing has changed.
        """
        assert self._reservation is not None
        if not self.stage.capacity.rebind(
            self._reservation,
            target.name,
            target.settings.places[place],
            [model.name for model in victims],
        ):
            return False
        is_another = target is not self.target
        if is_another:
            self.let_go(self.target)
            self._take_up(target)
            self.target = target
            self.outwaited = False
        if is_another or place != self.place:
            self.place = place
            self.stage.choose_place(target, place)
            self._preparation.begin(target)
        spared = [model for model in self.victims if model not in victims]
        for model in victims:
            if model not in self.victims:
                self._take_up(model)
                self._evict(model)
        self.victims = list(victims)
        self.why = why
        self.stage.chronicle.switch_rebound(self)
        log.info(
            "the switch from {from} leads to {to} now",
            event="switch_rebound",
            to=target.name,
            **{"from": self.source or IDLE},
        )
        for model in spared:
            self._drain_limits.pop(model.name).cancel()
            self.let_go(model)
            model.step(Event.REOPENED, self.now())
        for model in spared:
            self.stage.serve(model)
        if not victims:
            self.go_on()
        return True

    def _take_up(self, model: Model) -> None:
        assert not model.busy, f"{model.name} is in a story already"
        model.busy = True
        self.models.append(model)

    def end(self) -> None:
        """See L{Story.end}.  What was reserved, and has not been taken, becomes free."""
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            self.stage.capacity.cancel(reservation)
        super().end()
        self._preparation.end()

    # -------------------------------------------------------------- sleeping

    async def _sleep(self) -> list[tuple[Model, SleepOutcome]]:
        """Put all victims to sleep, side by side, and return those that did not sleep."""
        stage, now = self.stage, self.now()
        failed: list[tuple[Model, SleepOutcome]] = []

        async def put_to_sleep(model: Model) -> None:
            began = self.now()
            outcome = await self.sequence.put_to_sleep(model.name, model.settings)
            self.log_sleep_failure(model, self.target.name, outcome)
            if outcome.sleeps:
                self.let_go(model)
                fell_asleep(stage, model, Event.SLEPT, self.now() - began)
                if model.waiting:
                    # Those who came while the model went to sleep could not be decided about.
                    stage.consider()
            else:
                failed.append((model, outcome))

        for model in self.victims:
            stage.metrics.drained(model.name, self.target.name, now - model.since)
            model.step(Event.DRAINED, now)
        await DeferredList(
            [Deferred.fromCoroutine(put_to_sleep(model)) for model in self.victims],
            fireOnOneErrback=True,
        )
        return failed

    def _not_made_room(
        self, failed: list[tuple[Model, SleepOutcome]], hooks_began: float
    ) -> None:
        """
        End the switch without a wake, because a victim does not sleep, llmux stops, or the
        target is not to wake any more.
        """
        stage, target, now = self.stage, self.target, self.now()
        self.end()
        if not failed:
            return
        for model, outcome in failed:
            model.sleep_backoff.failed(
                now, at_least=now - hooks_began, reason=outcome.failure or ""
            )
            retry_at = model.sleep_backoff.until
            stage.tell(Failed(now, model.name, HookKind.SLEEP, retry_at))
        model, outcome = failed[0]
        retry_at = max(model.sleep_backoff.until for model, _ in failed)
        error = f"{model.name} does not go to sleep ({outcome.failure})"
        if not stage.stopping:
            self._failed(error)
            stage.refuse(
                target,
                HookFailed(
                    target.name,
                    f"Model {target.name} cannot be woken: {error}",
                    retry_at - now,
                ),
            )
        for model, outcome in failed:
            stayed_awake(stage, model, outcome)

    # ---------------------------------------------------------------- waking

    async def _wake(self, hooks_began: float) -> None:
        stage, target, now = self.stage, self.target, self.now()
        assert self._reservation is not None
        if not stage.capacity.can_take(self._reservation):
            # A new configuration has made the room smaller; the waiters wait for another
            # switch.
            log.warn(
                "there is no room for {to} any more",
                event="switch_called_off",
                to=target.name,
                **{"from": self.source or IDLE},
            )
            with stage.holding_questions():
                self.end()
            return
        reservation, self._reservation = self._reservation, None
        stage.capacity.take(reservation)
        target.place = self.place
        # A new configuration may have come while the victims slept, and has hooks of its own.
        stage.choose_place(target, self.place)
        target.step(Event.CHOSEN, now)
        target.wake_began = now
        target.said_yes = False
        self._remarks = stage.clock.callLater(_FIRST_REMARK, self._remark, _FIRST_REMARK)
        try:
            outcome = await self.sequence.wake(target.name, target.settings)
        finally:
            self._remarks.cancel()
            self.somebody_waits(True)
        with stage.holding_questions():
            if outcome.failure is None and not stage.stopping:
                self._woke(hooks_began, now)
            else:
                self._not_woken(outcome.failure or "", now)

    def _woke(self, hooks_began: float, wake_began: float) -> None:
        stage, target, now = self.stage, self.target, self.now()
        cost, source = now - hooks_began, self.source
        stage.costs.record(source, target.name, cost)
        stage.metrics.switch_ended(source, target.name, now - self.began, succeeded=True)
        stage.metrics.made_room(len(self.victims))
        log.info(
            "{model} is awake after {duration_secs:.3f} s",
            event="model_activated",
            model=target.name,
            duration_secs=now - self.began,
            **{"from": source or IDLE},
        )
        self.end()
        target.step(Event.WOKE, now)
        target.woke_at = now
        target.said_yes = True
        target.answered = False
        victims = tuple(model.name for model in self.victims)
        stage.tell(Woke(now, target.name, self.place, victims, now - wake_began))
        stage.serve(target)

    def _not_woken(self, failure: str, wake_began: float) -> None:
        stage, target, now = self.stage, self.target, self.now()
        self.end()
        if stage.stopping or self._is_abandoned:
            # The hook is not at fault, and no request waits.
            target.step(Event.NOT_WOKEN, now)
            stage.clean_up(target)
            return
        target.wake_backoff.failed(now, at_least=now - wake_began, reason=failure)
        retry_at = target.wake_backoff.until
        stage.tell(Failed(now, target.name, HookKind.WAKE, retry_at))
        self._failed(failure)
        target.step(Event.NOT_WOKEN, now)
        stage.refuse(
            target,
            HookFailed(
                target.name,
                f"Model {target.name} failed to wake ({failure})",
                retry_at - now,
            ),
        )
        stage.clean_up(target, failed_try=wake_began)

    def _failed(self, error: str) -> None:
        source = self.source
        self.stage.metrics.switch_ended(
            source, self.target.name, self.now() - self.began, succeeded=False
        )
        log.error(
            "switching from {from} to {model} failed: {error}",
            event="switch_failed",
            model=self.target.name,
            error=error,
            **{"from": source or IDLE},
        )

    def _remark(self, since: float) -> None:
        """Log that the model is not ready yet, at growing intervals."""
        alive = self.sequence.last_alive
        if alive is None:
            last = "its wake hook still runs"
        else:
            last = f"alive says: {alive.reason}"
            words = alive.stderr.strip().rpartition("\n")[2].strip()[:200]
            if words:
                last += f" ({words})"
        log.warn(
            "{model} is not ready after {secs:.0f} s of {limit_secs:.0f} s; {last}",
            event="wake_not_ready",
            model=self.target.name,
            secs=self.now() - (self.target.wake_began or 0.0),
            limit_secs=self.target.settings.wake_timeout,
            last=last,
        )
        # This was called 10 s after the wake began; the next calls come after 20 s, 40 s, and
        # so on.
        self._remarks = self.stage.clock.callLater(since, self._remark, 2 * since)

    # ------------------------------------------------------------ ends from elsewhere

    def somebody_waits(self, wanted: bool) -> None:
        """
        Note, while the target wakes, whether the wake is still wanted, because requests wait
        for the target, or none wait for its room.  A wake that has not been wanted for
        C{abandon_wake} seconds is called off.
        """
        limit = self.stage.settings.abandon_wake
        if wanted and self._abandoning is not None:
            self._abandoning.cancel()
            self._abandoning = None
        elif not wanted and self._abandoning is None and limit is not None:
            self._abandoning = self.stage.clock.callLater(limit, self._nobody_waits, limit)

    def _nobody_waits(self, limit: float) -> None:
        self._abandoning = None
        self.abandon(f"nobody has waited for it for {limit:g} s, and others wait for its room")

    def abandon(self, why: str) -> None:
        """
        Call off a wake that is under way, whose hook is killed, so that the model is cleaned
        up; or the wake that would follow when the victims sleep.

        @param why: the reason, for the log.
        """
        if self._is_abandoned:
            return
        self._is_abandoned = True
        log.info(
            "the wake of {to} is called off: {why}",
            event="switch_called_off",
            to=self.target.name,
            why=why,
            **{"from": self.source or IDLE},
        )
        if self.target.phase is Phase.WAKING:
            self.sequence.kill()

    def stop(self) -> None:
        """
        See L{Story.stop}.  A drain is called off, a sleep hook may finish, and a wake is
        killed.
        """
        phase = self.phase
        if phase is Phase.DRAINING:
            self.call_off()
        elif phase is Phase.WAKING:
            self.sequence.kill()
