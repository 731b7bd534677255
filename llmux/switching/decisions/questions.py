"""This module decides when the policy is asked, and carries out the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from llmux.interfaces import Decision, Phase, Rebind, Reopen, Stay, Switch, Why
from llmux.switching.decisions.containment import ContainedPolicy
from llmux.switching.decisions.view import ScheduleView
from llmux.switching.facts.capacity import Reservation
from llmux.switching.facts.model import INFINITY, Model, Waiter
from llmux.switching.stories.transition import SwitchStage, Transition
from llmux.switching.wishes.kept_awake import KeptAwake
from llmux.switching.wishes.steering import Steering

__all__ = ["Questions"]

_MOST_ROUNDS = 1000
"""
The policy is asked at most this many times in one turn; each answer that changes something
leads to another question.
"""


class Questions:
    """
    L{Questions} ask the policy when its answer may have changed, and begin the switches that it
    wants.

    @ivar asking: whether the policy is being asked, or questions are held.
    @ivar view: the policy's view of the switcher.
    @ivar kept: the models that must always be awake.
    @ivar latest: when the policy last answered, and its answer; None before its first.
    """

    _log = Logger()

    def __init__(
        self,
        stage: SwitchStage,
        policy: ContainedPolicy,
        wanted: Mapping[str, Model],
        steering: Steering,
    ) -> None:
        """
        @param wanted: the models that requests wait for; this mapping is changed elsewhere.
        """
        self.asking = False
        self.latest: tuple[float, Decision] | None = None
        self.view = ScheduleView(
            stage.models,
            wanted,
            stage.capacity,
            stage.transitions,
            stage.settings.min_active,
            steering.is_pinned,
        )
        self.kept = KeptAwake(stage.models, stage.capacity)
        self._stage = stage
        self._policy = policy
        self._steering = steering
        self._wanted = wanted
        self._transitions = stage.transitions
        self._begun = 0
        self._ask_again = False
        self._next: IDelayedCall | None = None
        self._said_held_until: dict[str, float] = {}
        self._said_lingers: dict[str, float] = {}

    def is_admitted(self, waiter: Waiter, now: float) -> bool:
        """Tell whether the policy admits a request that arrives for a model that drains."""
        for transition in self._transitions:
            if waiter.state in transition.victims:
                if self._steering.errands.is_ordered(transition.target):
                    return False
                self.view.look(now)
                return self._policy.admit(self.view, waiter)
        return False

    def depend_on(self, model: Model) -> bool:
        """
        Tell whether an answer may be another because this model has run out of requests,
        or has one again.  That is not so while the model may not go to sleep anyway, and
        while there is nothing to decide: when either ends, the policy is asked.
        """
        if model.phase is not Phase.AWAKE or model.leaving or self._stage.stopping:
            return True
        if self._steering.errands.asks:
            return True
        now = self._stage.clock.seconds()
        if model.may_sleep_from(self.view.min_active) > now:
            return False
        self.view.look(now)
        drains = any(switch.phase is Phase.DRAINING for switch in self.view.switches)
        return drains or bool(self.view.wanted())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the policy asked only after the block, and not in its middle."""
        asking, self.asking = self.asking, True
        try:
            yield
        finally:
            self.asking = asking

    def consider(self) -> None:
        """Ask the policy, because something has happened, until it changes nothing more."""
        self._ask_again = True
        if self.asking:
            return
        self.asking = True
        rounds = 0
        try:
            while self._ask_again:
                self._ask_again = False
                rounds += 1
                now = self._stage.clock.seconds()
                if rounds > _MOST_ROUNDS:
                    # The policy begins a switch and calls it off, again and again.
                    self._policy.goes_in_circles()
                    self._ask_at(now + 1.0, now)
                    break
                self._ask_what_matters(now)
        finally:
            self.asking = False

    def _ask_what_matters(self, now: float) -> None:
        steering = self._steering
        steering.errands.look()
        drains = False
        for transition in self._transitions:
            phase = transition.phase
            if phase is Phase.DRAINING:
                drains = True
            elif phase is Phase.WAKING:
                target = transition.target
                transition.somebody_waits(
                    bool(target.waiting)
                    or target.settings.always
                    or steering.errands.is_ordered(target)
                    or not self._stage.who_waits_for_room_of(target)
                )
        if self._stage.stopping:
            return
        steering.errands.kept_out = (
            self._wake_who_is_kept(now) if self.kept and steering.pause is None else ()
        )
        if not (drains or self._wanted or steering.errands.asks):
            return
        view = self.view
        view.look(now)
        decision = self._decision(now, drains)
        if decision is None:
            return
        if isinstance(decision, Stay):
            self._stay(decision, now)
        else:
            # A question that was planned for later is not needed, because the policy is asked
            # again now.
            self.cancel()
            self._ask_again = True
            self._carry_out(decision)

    def _wake_who_is_kept(self, now: float) -> Sequence[Model]:
        """
        Wake the models that must always be awake, as far as there is room.

        @return: those for which others must make room.
        """
        without_room = self.kept.hold_room()
        for model, reservation in self.kept.due(now):
            self._begin(model, 0, (), reservation, None)
        # This timer is set before the policy is asked, because there may be nothing to ask.
        self._ask_at(self.kept.next_time(now), now)
        models = self._stage.models.values()
        if without_room and any(model.phase is Phase.UNKNOWN for model in models):
            # What these models hold may be free.
            return ()
        return without_room

    def _begin(
        self,
        target: Model,
        place: int,
        victims: Sequence[Model],
        reservation: Reservation,
        why: Why | None,
    ) -> None:
        self._begun += 1
        Transition(self._stage, self._begun, target, place, victims, reservation, why).begin()

    def _decision(self, now: float, drains: bool) -> Decision | None:
        """
        Return what a command asks for, or else the policy's answer; None if neither is asked.
        """
        view, steering = self.view, self._steering
        if steering.pause is not None:
            self._ask_at(steering.errands.next_time(now), now)
            return Stay() if drains else None
        if steering.errands.asks:
            ordered = steering.errands.decide(view)
            if ordered is not None:
                return ordered
            self._ask_at(steering.errands.next_time(now), now)
        if not (drains or view.wanted()):
            self._ask_at(view.next_time(), now)
            return None
        decision = self._policy.decide(view)
        self.latest = now, decision
        return decision

    def _carry_out(self, decision: Decision) -> None:
        models = self._stage.models
        if isinstance(decision, Switch):
            target = models[decision.target]
            reservation = self._stage.capacity.reserve(
                target.name, target.settings.places[decision.place], decision.victims
            )
            assert reservation is not None, "each answer has been checked"
            victims = [models[name] for name in decision.victims]
            self._begin(target, decision.place, victims, reservation, decision.why)
        elif isinstance(decision, Rebind):
            self._transition(decision.switch).rebind(
                models[decision.target],
                decision.place,
                [models[name] for name in decision.victims],
                decision.why,
            )
        elif isinstance(decision, Reopen):
            self._transition(decision.switch).call_off()

    def _transition(self, number: int) -> Transition:
        return next(each for each in self._transitions if each.number == number)

    def _stay(self, decision: Stay, now: float) -> None:
        """Let the switches that have drained go on, because the policy changes nothing."""
        view = self.view
        drained = {switch.number for switch in view.switches if switch.drained}
        for transition in list(self._transitions):
            if transition.phase is not Phase.DRAINING:
                continue
            if self._steering.errands.is_ordered(transition.target):
                continue
            if not (transition.target.waiting or transition.outwaited):
                # If a drain takes longer than the time limit of requests, and each expired
                # request called the drain off, the model would never be served.
                transition.call_off()
            elif transition.number in drained:
                self.cancel()
                transition.go_on()
        again = INFINITY if decision.ask_again_at is None else decision.ask_again_at
        self._ask_at(min(again, view.next_time()), now)
        self._say_what_is_held_back(now)
        if decision.why is not None and decision.why.code == "lingers":
            self._say_that_it_lingers(decision.why, now)

    def _say_that_it_lingers(self, why: Why, now: float) -> None:
        """Log, once for each time, that an idle model is kept awake, and why."""
        until = why.figures.get("until_at", now)
        model = self._stage.models.get(why.model or "")
        if model is None or self._said_lingers.get(model.name) == until:
            return
        self._said_lingers[model.name] = until
        self._log.info(
            "{model} has nothing to do, and stays awake for {linger_secs:.1f} s for clients "
            "that tend to come back within {gap_secs:.1f} s; requests for {waiting} wait",
            event="lingers",
            model=model.name,
            linger_secs=until - now,
            gap_secs=why.figures.get("gap_secs", 0.0),
            waiting=", ".join(self._stage.who_waits_for_room_of(model)),
        )

    def _say_what_is_held_back(self, now: float) -> None:
        """Log, once for each failure, that a model in the way did not sleep."""
        for name in self._stage.capacity.holders():
            model = self._stage.models[name]
            until = model.sleep_backoff.until
            if until <= now or self._said_held_until.get(name) == until:
                continue
            waiting = self._stage.who_waits_for_room_of(model)
            if model.phase is Phase.AWAKE and waiting:
                self._said_held_until[name] = until
                self._log.warn(
                    "requests for {waiting} wait because {model} did not go to sleep; it is "
                    "tried again in {retry_secs:.0f} s",
                    event="sleep_held_back",
                    model=name,
                    waiting=", ".join(waiting),
                    retry_secs=until - now,
                )

    def _ask_at(self, at: float, now: float) -> None:
        timer = self._next
        if timer is not None and timer.active():
            if timer.getTime() <= at:
                # The timer fires earlier, and is then set anew.
                return
            timer.cancel()
            self._next = None
        if at < INFINITY:
            self._next = self._stage.clock.callLater(max(0.0, at - now), self._time_to_ask)

    def _time_to_ask(self) -> None:
        self._next = None
        self.consider()

    def forget(self, model: str) -> None:
        """Forget what the log has said of a model that does not exist any more."""
        self._said_held_until.pop(model, None)
        self._said_lingers.pop(model, None)

    def cancel(self) -> None:
        """Cancel the timer of the next question."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
