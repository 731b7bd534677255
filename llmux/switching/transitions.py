"""
What changes models: hooks run, models wake and sleep, fail and recover.

L{Transitions} is what the slot's state machine (L{llmux.switching.slot}) acts through.
It knows which model is awake and what is being done about it; who waits and
who is in flight is its switcher's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmux.errors import HookFailed, SwitchError
from llmux.interfaces import Failed, HookKind, HookResult, PolicyEvent, Slept, Woke
from llmux.monitoring.metrics import IDLE, Metrics
from llmux.switching.backoff import Backoff
from llmux.switching.cost import SwitchCostTracker
from llmux.switching.model import ModelQueue
from llmux.switching.sequences import Lifecycle, SleepOutcome, WakeOutcome
from llmux.switching.settings import SwitchSettings
from llmux.switching.slot import Slot, SlotState, make_slot

__all__ = ["STOPPING", "Transitions"]

T = TypeVar("T")

STOPPING = frozenset(
    {
        SlotState.CLOSING,
        SlotState.LAST_SLEEP,
        SlotState.LAST_WAKE,
        SlotState.LAST_CLEANING,
        SlotState.LAST_DOUBT,
        SlotState.STOPPED,
    }
)
"""llmux stops: no new requests."""


class Waitlist(Protocol):
    """What transitions need of the switcher."""

    def serve(self, queue: ModelQueue) -> None:
        """The model is awake: give its waiters their guards."""

    def refuse(self, queue: ModelQueue, error: SwitchError) -> None:
        """Its waiters go away with this error."""

    def abort_exchanges(
        self, queue: ModelQueue, why: str, reason: str, *, may_wait_again: bool = False
    ) -> None:
        """Cut short what is in flight to it."""

    def consider(self) -> None:
        """Ask the policy."""

    def hush(self) -> None:
        """Nobody need be asked for now: forget when to ask again."""

    def in_flight(self) -> int:
        """How many exchanges there are, all models together."""

    def tell(self, event: PolicyEvent) -> None:
        """Something happened."""


class Transitions:
    """
    The slot's core.

    @ivar state: where the slot is.
    @ivar awake: the model that is awake (draining and going to sleep
        included), or None.
    @ivar target: the model that a switch leads to, or None.
    @ivar outwaited: a request for the target has waited too long during this
        switch, which therefore goes on even if nobody waits any more.
    @ivar sleep_backoff: until when the awake model is not put to sleep,
        because its sleep hook has failed.
    """

    _log = Logger()

    def __init__(
        self,
        waitlist: Waitlist,
        clock: IReactorTime,
        lifecycle: Lifecycle,
        queues: Mapping[str, ModelQueue],
        settings: SwitchSettings,
        costs: SwitchCostTracker,
        metrics: Metrics,
    ) -> None:
        self.state = SlotState.NEW
        self.slot: Slot = make_slot(self)
        self.awake: ModelQueue | None = None
        self.target: ModelQueue | None = None
        self.outwaited = False
        self.sleep_backoff = Backoff()
        self.started: list[Deferred[None]] = []
        self.stopped: list[Deferred[None]] = []
        self.closers: list[Callable[[], None]] = []
        self._waitlist = waitlist
        self._clock = clock
        self._lifecycle = lifecycle
        self._queues = queues
        self._settings = settings
        self._costs = costs
        self._metrics = metrics
        self._source: ModelQueue | None = None
        self._began = self._hooks_began = 0.0
        self._timer: IDelayedCall | None = None
        self._shutdown_timer: IDelayedCall | None = None
        self._may_be_awake: list[ModelQueue] = []
        self._keep: ModelQueue | None = None
        self._cleaning_backoff = Backoff()
        self._suspects: list[Deferred[bool]] = []
        self._aborting = False
        self._refusal: HookFailed | None = None

    @property
    def stopping(self) -> bool:
        """No new requests."""
        return self.state in STOPPING

    @property
    def uncertain(self) -> ModelQueue | None:
        """A model that is being put to sleep because it may be awake."""
        return self._may_be_awake[0] if self._may_be_awake else None

    # --------------------------------------------------------- a switch

    def begin_switch(self, target: ModelQueue) -> None:
        """The policy has decided."""
        self.target = target
        self.outwaited = False
        self._source = self.awake
        self._began = self._hooks_began = self._clock.seconds()
        self._log.info(
            "switching from {from} to {to}",
            event="switch_started",
            to=target.name,
            **{"from": _name(self._source)},
        )
        self.slot.switch()

    def rebind(self, target: ModelQueue) -> None:
        """The drain leads to another model."""
        self.target = target
        self.outwaited = False
        self._log.info(
            "the switch from {from} leads to {to} now",
            event="switch_rebound",
            to=target.name,
            **{"from": _name(self._source)},
        )

    def call_off(self) -> None:
        """The model that drains is to serve on."""
        self._log.info(
            "the switch from {from} is called off",
            event="switch_called_off",
            **{"from": _name(self._source)},
        )
        self.slot.reopen()

    def begin_drain(self) -> None:
        """Close the awake model and ask at once: it may have nothing to finish."""
        awake = self._the_awake()
        awake.open = False
        limit = self._settings.drain_timeout
        if limit is not None and self._settings.drain_before_switch and awake.guards:
            self._timer = self._clock.callLater(limit, self._drain_expired, awake, limit)
        self._waitlist.consider()

    def _drain_expired(self, queue: ModelQueue, limit: float) -> None:
        self._timer = None
        self._log.warn(
            "{model} has drained for {timeout_secs} s: aborting {count} exchanges",
            event="drain_timeout",
            model=queue.name,
            timeout_secs=limit,
            count=len(queue.guards),
        )
        self._waitlist.abort_exchanges(
            queue, f"model {queue.name} was drained for {limit:g} s", "drain_timeout"
        )

    def resume(self) -> None:
        """The awake model, which drained, serves on."""
        self._stop_timer()
        self.target = self._source = None
        self.settle_awake()

    def begin_sleep(self) -> None:
        """Run the awake model's sleep hook."""
        self._stop_timer()
        self._waitlist.hush()
        queue = self._the_awake()
        queue.open = False
        now = self._hooks_began = self._clock.seconds()
        if self.target is not None:
            self._metrics.drained(queue.name, self.target.name, now - self._began)
        self._follow(
            self._lifecycle.put_to_sleep(queue.name),
            lambda outcome: self._sleep_ended(queue, outcome),
            SleepOutcome(asleep=False, failure="internal error"),
        )

    def _sleep_ended(self, queue: ModelQueue, outcome: SleepOutcome) -> None:
        target = self.target
        now = self._clock.seconds()
        self._log_sleep_failure(queue, target, outcome)
        if outcome.asleep:
            self._fell_asleep(queue, now)
            self.slot.slept()
            return
        self.sleep_backoff.failed(now, at_least=now - self._hooks_began)
        retry_at = self.sleep_backoff.until
        self._waitlist.tell(Failed(now, queue.name, HookKind.SLEEP, retry_at))
        self.target = self._source = None
        if target is not None:
            error = f"{queue.name} does not go to sleep ({outcome.failure})"
            self._switch_failed(queue, target, now, error)
            self._waitlist.refuse(
                target,
                HookFailed(
                    target.name,
                    f"Model {target.name} cannot be woken: {error}",
                    retry_at - now,
                ),
            )
        self.slot.not_slept()

    def begin_wake(self) -> None:
        """Run the target's wake hook, then ask whether it is alive."""
        self._waitlist.hush()
        target = self.target
        assert target is not None
        self._follow(
            self._lifecycle.wake(target.name),
            lambda outcome: self._wake_ended(target, outcome),
            WakeOutcome("internal error"),
        )

    def _wake_ended(self, target: ModelQueue, outcome: WakeOutcome) -> None:
        now = self._clock.seconds()
        source = self._source
        self.target = self._source = None
        if self.stopping:
            self._may_be_awake = [target]
            self.slot.not_woken()
            return
        if outcome.failure is None:
            cost = now - self._hooks_began
            self._costs.record(_none_or_name(source), target.name, cost)
            self._metrics.switch_ended(
                _none_or_name(source), target.name, now - self._began, succeeded=True
            )
            self._log.info(
                "{model} is awake after {duration_secs:.3f} s",
                event="model_activated",
                model=target.name,
                duration_secs=now - self._began,
                **{"from": _name(source)},
            )
            self._adopt(target, now, _none_or_name(source), cost)
            self.slot.woke()
            return
        target.backoff.failed(now)
        retry_at = target.backoff.until
        self._waitlist.tell(Failed(now, target.name, HookKind.WAKE, retry_at))
        self._switch_failed(source, target, now, outcome.failure)
        self._may_be_awake = [target]
        self._refusal = HookFailed(
            target.name,
            f"Model {target.name} failed to wake ({outcome.failure})",
            retry_at - now,
        )
        self.slot.not_woken()

    def give_up_wake(self) -> None:
        """Tell those who wait, and put to sleep whatever the wake left behind."""
        (target,) = self._may_be_awake
        refusal, self._refusal = self._refusal, None
        assert refusal is not None
        self._waitlist.refuse(target, refusal)
        self.begin_cleaning()

    def _switch_failed(
        self, source: ModelQueue | None, target: ModelQueue, now: float, error: str
    ) -> None:
        self._metrics.switch_ended(
            _none_or_name(source), target.name, now - self._began, succeeded=False
        )
        self._log.error(
            "switching from {from} to {model} failed: {error}",
            event="switch_failed",
            model=target.name,
            error=error,
            **{"from": _name(source)},
        )

    # ------------------------------------------------------- what is awake

    def _adopt(
        self, queue: ModelQueue, now: float, source: str | None, cost: float | None
    ) -> None:
        self.awake = queue
        queue.woke_at = now
        queue.answered = False
        self._waitlist.tell(Woke(now, queue.name, source, cost))

    def _fell_asleep(self, queue: ModelQueue, now: float) -> None:
        queue.open = False
        if queue is self.awake:
            self.awake = None
            self.sleep_backoff.reset()
            self._metrics.went_to_sleep(queue.name, now - queue.woke_at)
        self._waitlist.tell(Slept(now, queue.name))

    def settle_awake(self) -> None:
        """A model serves."""
        self._now_started()
        self._waitlist.serve(self._the_awake())
        self._waitlist.consider()

    def keep_awake(self) -> None:
        """The switch failed; the old model serves on."""
        self.settle_awake()

    def settle_idle(self) -> None:
        """Nothing is awake."""
        self._now_started()
        self._waitlist.consider()

    def ask_all(self) -> None:
        """Ask every model whether it is awake."""
        self._follow(
            self._lifecycle.who_is_alive(self._queues),
            self._adoption_known,
            [(name, HookResult(None, False, 0.0, "internal error")) for name in self._queues],
        )

    def _adoption_known(self, answers: list[tuple[str, HookResult]]) -> None:
        awake = [self._queues[name] for name, result in answers if result.ok]
        unknown = [
            self._queues[name]
            for name, result in answers
            if not result.ok and not result.says_no
        ]
        if self.stopping:
            self.slot.found_none()
        elif len(awake) == 1 and not unknown:
            self._keep = awake[0]
            self._adopt_kept()
        elif not awake and not unknown:
            self.slot.found_none()
        else:
            if len(awake) == 1:
                self._keep = awake[0]
                self._may_be_awake = unknown
            else:
                self._may_be_awake = awake + unknown
            self._log.warn(
                "not sure to be asleep, so put to sleep: {models}",
                event="strays_found",
                models=", ".join(queue.name for queue in self._may_be_awake),
            )
            self.slot.found_strays()

    def _adopt_kept(self) -> None:
        queue, self._keep = self._keep, None
        assert queue is not None
        self._log.info("{model} is awake already", event="model_adopted", model=queue.name)
        self._adopt(queue, self._clock.seconds(), None, None)
        self.slot.adopted()

    # ------------------------------------------------------------ cleaning

    def begin_cleaning(self) -> None:
        """Put to sleep what may be awake, one after the other."""
        self._stop_timer()
        self._now_started()
        if self._aborting:
            self.slot.not_cleaned()
            return
        self._hooks_began = self._clock.seconds()
        self._follow(Deferred.fromCoroutine(self._clean()), self._cleaning_ended, False)

    async def _clean(self) -> bool:
        while self._may_be_awake:
            queue = self._may_be_awake[0]
            outcome = await self._lifecycle.put_to_sleep(queue.name)
            self._log_sleep_failure(queue, None, outcome)
            if not outcome.asleep:
                return False
            self._may_be_awake.remove(queue)
            self._fell_asleep(queue, self._clock.seconds())
        return True

    def _cleaning_ended(self, clean: bool) -> None:
        if not clean:
            now = self._clock.seconds()
            self._cleaning_backoff.failed(now, at_least=now - self._hooks_began)
            self.slot.not_cleaned()
            return
        self._cleaning_backoff.reset()
        if self._keep is not None:
            self._adopt_kept()
        else:
            self.slot.cleaned()

    def wait_to_clean(self) -> None:
        """Nothing may be woken until what may be awake is known to sleep."""
        pause = self._cleaning_backoff.until - self._clock.seconds()
        self._log.error(
            "{model} may still be awake: nothing is woken until its sleep hook succeeds; "
            "next try in {retry_secs:.0f} s",
            event="blocked",
            model=self._may_be_awake[0].name,
            retry_secs=pause,
        )
        self._timer = self._clock.callLater(pause, self._retry)

    def _retry(self) -> None:
        self._timer = None
        self.slot.retry()

    # ------------------------------------------------- a backend in doubt

    def backend_failed(self, queue: ModelQueue) -> Deferred[bool] | None:
        """
        A backend refused, or closed before it answered.

        @return: the verdict to come (True: it is dead), or None if there is
            nothing to ask because this model is not in service.
        """
        if queue is not self.awake or self.state not in (SlotState.AWAKE, SlotState.SUSPECT):
            return None
        verdict: Deferred[bool] = Deferred()
        self._suspects.append(verdict)
        if self.state is SlotState.AWAKE:
            self.slot.suspect()
        return verdict

    def ask_suspect(self) -> None:
        """Arrivals wait until it is known whether the model is alive."""
        queue = self._the_awake()
        queue.open = False
        self._follow(
            self._lifecycle.alive(queue.name),
            self._doubt_ended,
            HookResult(None, False, 0.0, "internal error"),
        )

    def _doubt_ended(self, result: HookResult) -> None:
        if result.ok:
            self.slot.cleared()
        else:
            self.slot.condemned()

    def acquit(self) -> None:
        """The model is alive."""
        self._pronounce(dead=False)
        self.settle_awake()

    def condemn(self) -> None:
        """It is not: whatever else it had is cut off, and its sleep hook cleans up."""
        queue = self._the_awake()
        now = self._clock.seconds()
        if not queue.answered:
            # It died without having completed anything since it woke: a
            # prompt that kills its backend must not make a loop.
            queue.backoff.failed(now)
        self._log.error(
            "the backend of {model} is dead", event="backend_died", model=queue.name
        )
        self._waitlist.tell(Failed(now, queue.name, None, max(now, queue.backoff.until)))
        self._may_be_awake = [queue]
        self._waitlist.abort_exchanges(
            queue, f"the backend of {queue.name} died", "backend_died", may_wait_again=True
        )
        self._pronounce(dead=True)
        self.begin_cleaning()

    def _pronounce(self, dead: bool) -> None:
        suspects, self._suspects = self._suspects, []
        for verdict in suspects:
            verdict.callback(dead)

    # ------------------------------------------------------------ the end

    def stop(self) -> None:
        """Let what is in flight finish within the shutdown time limit."""
        self._give_time(self._shutdown_expired)
        self.slot.stop()

    def _give_time(self, then: Callable[[], None]) -> None:
        if self._shutdown_timer is not None and self._shutdown_timer.active():
            self._shutdown_timer.cancel()
        self._shutdown_timer = self._clock.callLater(self._settings.shutdown_timeout, then)

    def _shutdown_expired(self) -> None:
        if self._settings.sleep_on_exit and self.state is SlotState.CLOSING:
            # The awake model still is to be put to sleep, within as long again.
            self._give_time(self.abort)
            self._abort_everything()
        else:
            self.abort()

    def abort(self) -> None:
        """Cut short what L{stop} still waits for."""
        self._aborting = True
        self._abort_everything()
        self._lifecycle.kill()

    def _abort_everything(self) -> None:
        for queue in self._queues.values():
            self._waitlist.abort_exchanges(queue, "llmux is shutting down", "shutdown")

    def begin_close(self) -> None:
        """No more guards; wait for those that are out."""
        self._stop_timer()
        self._waitlist.hush()
        self._now_started()
        self.target = self._source = None
        if self.awake is not None:
            self.awake.open = False
        self._pronounce(dead=False)
        self.maybe_closed()

    def maybe_closed(self) -> None:
        """While closing: go on if nothing is in flight any more."""
        if self.state is SlotState.CLOSING and not self._waitlist.in_flight():
            if self.awake is not None and self._settings.sleep_on_exit and not self._aborting:
                self._give_time(self.abort)
                self.slot.closed_to_sleep()
            else:
                self.slot.closed()

    def kill_hooks(self) -> None:
        """End the hooks that run."""
        self._lifecycle.kill()

    def carry_on(self) -> None:
        """What runs finishes first."""

    def finish(self) -> None:
        """Nothing is left to do."""
        self._stop_timer()
        self._waitlist.hush()
        if self._shutdown_timer is not None and self._shutdown_timer.active():
            self._shutdown_timer.cancel()
        self._shutdown_timer = None
        self._pronounce(dead=False)
        self._now_started()
        if self._may_be_awake:
            self._log.error(
                "may still be awake: {models}",
                event="left_awake",
                models=", ".join(queue.name for queue in self._may_be_awake),
            )
        for close in self.closers:
            close()
        stopped, self.stopped = self.stopped, []
        for waiter in stopped:
            waiter.callback(None)

    # --------------------------------------------------------------- parts

    def _the_awake(self) -> ModelQueue:
        assert self.awake is not None
        return self.awake

    def _now_started(self) -> None:
        started, self.started = self.started, []
        for waiter in started:
            waiter.callback(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _log_sleep_failure(
        self, queue: ModelQueue, target: ModelQueue | None, outcome: SleepOutcome
    ) -> None:
        if outcome.failure is not None:
            self._log.error(
                "the sleep hook of {model} failed: {error}",
                event="sleep_hook_failed",
                model=queue.name,
                to=_name(target),
                error=outcome.failure,
            )

    def _follow(self, steps: Deferred[T], then: Callable[[T], None], otherwise: T) -> None:
        """
        Go on with the outcome of C{steps}.  They do not fail; if one does all
        the same, that is a defect, and C{otherwise} is its outcome.
        """

        def defect(failure: Failure) -> T:
            self._log.failure("a defect in a transition", failure)
            return otherwise

        steps.addErrback(defect).addCallback(then).addErrback(
            lambda failure: self._log.failure("a defect after a transition", failure)
        )


def _none_or_name(queue: ModelQueue | None) -> str | None:
    return None if queue is None else queue.name


def _name(queue: ModelQueue | None) -> str:
    return IDLE if queue is None else queue.name
