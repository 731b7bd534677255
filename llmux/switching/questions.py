"""
The questions to the policy: when they are put, and what is done about the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from llmux.interfaces import SlotPhase
from llmux.switching.containment import ContainedPolicy
from llmux.switching.model import INFINITY, Model, Waiter
from llmux.switching.phases import Phase
from llmux.switching.story import Stage
from llmux.switching.transition import Transition
from llmux.switching.view import ScheduleContext

__all__ = ["Questions"]

_MOST_ROUNDS = 1000
"""Questions to the policy in one turn; each answer that changes something leads to another."""


class Questions:
    """
    Asks the policy when its answer may be another than before, and begins the
    switch that it wants.

    @ivar quiet_until: until then the answer would be the same, unless something
        changes for a model that is not awake; or, if not C{held_back}, the
        awake model empties.
    @ivar held_back: the policy is not even asked: a back-off, or a model that
        has not been awake for long enough.
    @ivar asking: a question is being put, or questions are held.
    """

    _log = Logger()

    def __init__(
        self,
        stage: Stage,
        policy: ContainedPolicy,
        wanted: Mapping[str, Model],
        transitions: Sequence[Transition],
    ) -> None:
        """
        @param wanted: the models that somebody waits for; others change this.
        @param transitions: the switches under way; others change this.
        """
        self.quiet_until = 0.0
        self.held_back = False
        self.asking = False
        self._stage = stage
        self._policy = policy
        self._wanted = wanted
        self._transitions = transitions
        self._context = ScheduleContext(stage.models, wanted, stage.costs)
        self._ask_again = False
        self._next: IDelayedCall | None = None
        self._said_held_until = 0.0

    def is_admitted(self, model: Model, waiter: Waiter, now: float) -> bool:
        """A request arrives for a model that drains: whether the policy lets it in."""
        for transition in self._transitions:
            if model in transition.victims:
                self._context.look(now, SlotPhase.DRAINING, model, transition.target)
                return self._policy.admit(self._context, waiter)
        return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the policy asked only after the block, and not in its middle."""
        asking, self.asking = self.asking, True
        try:
            yield
        finally:
            self.asking = asking

    def consider(self) -> None:
        """Something has happened: ask the policy, until it has nothing more to say."""
        self._ask_again = True
        if self.asking:
            return
        self.asking = True
        rounds = 0
        try:
            while self._ask_again:
                self._ask_again = False
                rounds += 1
                if rounds > _MOST_ROUNDS:
                    # A policy that starts a switch and calls it off, over and over.
                    self._policy.goes_in_circles()
                    self._ask_at(self._stage.clock.seconds() + 1.0, self._stage.clock.seconds())
                    break
                self._ask_what_matters()
        finally:
            self.asking = False

    def _ask_what_matters(self) -> None:
        drains = False
        for transition in list(self._transitions):
            phase = transition.phase
            if phase is Phase.DRAINING:
                drains = True
                self._ask_while_draining(transition, self._stage.clock.seconds())
            elif phase is Phase.WAKING:
                transition.somebody_waits(bool(transition.target.waiting) or not self._wanted)
        if self._wanted and not drains and not self._stage.stopping:
            awake = None
            for name in self._stage.capacity.holders():
                awake = self._stage.models[name]
                if awake.phase is not Phase.AWAKE:
                    # A story moves it, whose end will be the reason to ask.
                    return
            self._ask(awake, self._stage.clock.seconds())

    def _ask(self, awake: Model | None, now: float) -> None:
        context = self._context
        context.look(now, SlotPhase.IDLE if awake is None else SlotPhase.AWAKE, awake, None)
        held_until = 0.0
        if not context.wanted():
            held_until = self._next_backoff_end(now)
        elif awake is not None:
            held_until = max(
                awake.woke_at + self._stage.settings.min_active, awake.sleep_backoff.until
            )
            if now < awake.sleep_backoff.until:
                self._say_held_back(awake, context.wanted())
        if now < held_until:
            self.quiet_until = held_until
            self.held_back = True
            self._ask_at(held_until, now)
            return
        self.held_back = False
        decision = self._policy.decide(context)
        if decision.target is not None:
            self.quiet_until = 0.0
            self._switch(self._wanted[decision.target], awake)
            return
        again = INFINITY if decision.ask_again_at is None else decision.ask_again_at
        self.quiet_until = again if decision.holds_while_busy else 0.0
        self._ask_at(min(again, self._next_backoff_end(now)), now)

    def _switch(self, target: Model, victim: Model | None) -> None:
        victims = [] if victim is None else [victim]
        reservation = self._stage.capacity.reserve(
            target.name, target.settings.needs, [model.name for model in victims]
        )
        if reservation is not None:
            Transition(self._stage, target, victims, reservation).begin()

    def _say_held_back(self, awake: Model, waiting: Sequence[str]) -> None:
        until = awake.sleep_backoff.until
        if self._said_held_until != until:
            self._said_held_until = until
            self._log.warn(
                "requests for {waiting} wait because {model} did not go to sleep; it is tried "
                "again in {retry_secs:.0f} s",
                event="sleep_held_back",
                model=awake.name,
                waiting=", ".join(waiting),
                retry_secs=until - self._stage.clock.seconds(),
            )

    def _ask_while_draining(self, transition: Transition, now: float) -> None:
        drained = transition.is_drained()
        context = self._context
        phase = SlotPhase.DRAINED if drained else SlotPhase.DRAINING
        context.look(now, phase, transition.victims[0], transition.target)
        wanted = context.wanted()
        if not wanted:
            # Those who lost patience would never be served if their loss of
            # it called off each drain that is longer than that.
            if not transition.outwaited:
                transition.call_off()
            elif drained:
                transition.go_on()
            return
        decision = self._policy.decide(context)
        if decision.reopens:
            transition.call_off()
            return
        target = decision.target or transition.target.name
        if target not in wanted:
            # Whom the policy wanted is gone: who has waited longest is next.
            target = min(wanted, key=context.oldest)
        if target != transition.target.name:
            transition.rebind(self._stage.models[target])
        if drained:
            transition.go_on()
        elif decision.ask_again_at is not None:
            self._ask_at(decision.ask_again_at, now)

    def _next_backoff_end(self, now: float) -> float:
        return min(
            (
                model.wake_backoff.until
                for model in self._wanted.values()
                if model.wake_backoff.until > now
            ),
            default=INFINITY,
        )

    def _ask_at(self, at: float, now: float) -> None:
        timer = self._next
        if timer is not None and timer.active():
            if timer.getTime() <= at:
                # It asks early, and is then set anew.
                return
            timer.cancel()
            self._next = None
        if at < INFINITY:
            self._next = self._stage.clock.callLater(max(0.0, at - now), self._time_to_ask)

    def _time_to_ask(self) -> None:
        self._next = None
        self.quiet_until = 0.0
        self.consider()

    def cancel(self) -> None:
        """Forget when to ask again."""
        self.quiet_until = 0.0
        if self._next is not None:
            self._next.cancel()
            self._next = None
