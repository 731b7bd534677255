"""
The interfaces that other packages implement, and the values that cross them.

This module has all that the author of a policy or of a hook runner needs.  It
does no I/O, reads no clock and logs nothing.  Times are seconds on the clock of
the switcher (an L{IReactorTime}): only differences between them mean anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from msgspec import Struct, field
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

__all__ = [
    "Arrived",
    "Completed",
    "Estimate",
    "Failed",
    "Forwarded",
    "HookKind",
    "HookResult",
    "IHookRunner",
    "IRunningHook",
    "IScheduleContext",
    "ISwitchPolicy",
    "ISwitchPolicyFactory",
    "IWakeNotes",
    "Left",
    "LeftReason",
    "Observer",
    "PolicyContext",
    "PolicyDecision",
    "PolicyEvent",
    "Slept",
    "SlotPhase",
    "WaitingRequest",
    "Woke",
]


# --------------------------------------------------------------------- hooks


class HookKind(Enum):
    """
    The kinds of hooks.

    A C{prepare} hook runs beside a switch, from the choice of its model as the
    target until the model is awake or the switch has another end.  Nothing
    depends on its outcome.
    """

    WAKE = "wake"
    SLEEP = "sleep"
    ALIVE = "alive"
    PREPARE = "prepare"


_NO_ANSWER = frozenset({os.EX_TEMPFAIL, 126, 127})
"""
Exit statuses by which an C{alive} hook says neither yes nor no: EX_TEMPFAIL
(75), "I cannot tell just now"; 126 and 127, with which a shell says that a
command cannot be executed, or was not found.
"""

_LAST_WORDS = 200


class HookResult(Struct, frozen=True):
    """
    How a hook ended.

    An C{alive} hook has three answers.  I{Yes} is L{ok}; I{no} is L{says_no};
    everything else is I{unknown}, which never counts as asleep and never as
    dead: exit status 75, 126 or 127, a signal, the time limit, or a script
    that could not be started.

    @ivar exit_code: the shell's exit status; None when the shell did not exit
        by itself (a signal, a time limit, or it could not be started).
    @ivar timed_out: the hook ran past its time limit and was killed for it.
    @ivar duration: seconds from the hook's start to its exit.
    @ivar reason: the outcome in a few words fit for a client: "exit status 3",
        "exit status 127 (command not found)", "time limit of 5 s", "killed by
        signal 9", "could not be started".  Never any of the hook's own output.
    @ivar stderr: the last 4 KiB of what the hook wrote to stderr, for the log.
    """

    exit_code: int | None
    timed_out: bool
    duration: float
    reason: str
    stderr: str = ""

    @property
    def ok(self) -> bool:
        """The hook exited with status 0."""
        return self.exit_code == 0

    @property
    def says_no(self) -> bool:
        """The C{alive} hook ran to its end, and its answer is no."""
        return not (self.exit_code is None or self.ok or self.exit_code in _NO_ANSWER)

    @property
    def last_words(self) -> str:
        """
        The last line of stderr that is not blank, at most 200 characters of
        it; "" if there is none.  For the log, which escapes what is not
        printable: never for a client.
        """
        return self.stderr.rstrip().rpartition("\n")[2].strip()[:_LAST_WORDS]


class IRunningHook(Interface):
    """One run of a hook."""

    exited: Deferred[HookResult] = Attribute(
        """A Deferred that fires with a L{HookResult} when the shell has exited; never fails."""
    )

    def kill() -> None:
        """
        End the hook: its process group gets TERM, and KILL if it is still there a
        little later.  L{exited} fires when the whole group is gone.  For a hook
        that has exited, a call does nothing.
        """


class IHookRunner(Interface):
    """A hook runner runs the scripts of models."""

    def start(model: str, hook: HookKind) -> IRunningHook:
        """
        Start a hook under its time limit.

        This method never raises and never blocks.  If a hook cannot be started, its
        C{exited} fires with C{exit_code} None.
        """


class IWakeNotes(Interface):
    """
    What an L{IHookRunner} may provide as well: its knowledge of wakes that a
    former llmux had begun when it was killed.
    """

    interrupted: frozenset[str] = Attribute(
        """
        The models of which a former llmux began a wake and did not see its
        end.  Such a model may be loading, with its resources taken, and its
        C{alive} says no meanwhile: that no does not mean asleep.  It ends
        when the model's C{sleep} hook has succeeded, or C{alive} says yes.
        Constant.
        """
    )

    def end_interrupted() -> Deferred[None]:
        """
        End the wake hooks of these models that still run: TERM to their process
        groups, and KILL to those that are there a grace later.

        To be called before any hook is started.  Harmless the second time.

        @return: fires when all are gone, or have been sent KILL; never fails.
        """


# -------------------------------------------------------------------- events


class LeftReason(Enum):
    """Why a waiter left without a guard."""

    DISCONNECTED = "disconnected"
    """The client closed the connection."""
    TIMEOUT = "timeout"
    """The request waited for longer than C{request_timeout_secs}."""
    FAILED = "failed"
    """The request was refused: a hook failed, or llmux stops."""


class Arrived(Struct, frozen=True):
    """
    A request for C{model} has to wait, or asks to be admitted to a drain.

    @ivar request: the request's number, which no later request has.
    """

    now: float
    model: str
    request: int


class Forwarded(Struct, frozen=True):
    """
    A request has been given a guard, and goes to its backend now.

    @ivar waited: seconds since the request arrived.  A request that found its
        model awake has 0.0, and no L{Arrived} came before.
    """

    now: float
    model: str
    request: int
    waited: float


class Completed(Struct, frozen=True):
    """
    A request's exchange with its backend is over.

    @ivar service: seconds since the request was forwarded.
    @ivar answered: True if the whole reply arrived; False if the exchange was
        cut short.
    """

    now: float
    model: str
    request: int
    service: float
    answered: bool


class Left(Struct, frozen=True):
    """
    A waiter left without a guard.

    @ivar age: seconds since the request arrived.
    """

    now: float
    model: str
    request: int
    reason: LeftReason
    age: float


class Woke(Struct, frozen=True):
    """
    C{model} is awake.

    @ivar previous: the model that was put to sleep for it, or None.
    @ivar cost: seconds of the sleep hook, the wake hook and C{alive} together,
        without cooldown and drain.  None if llmux found the model awake when it
        started, which cost nothing.
    """

    now: float
    model: str
    previous: str | None
    cost: float | None


class Slept(Struct, frozen=True):
    """C{model} is asleep."""

    now: float
    model: str


class Failed(Struct, frozen=True):
    """
    C{model} failed, and will not be woken before C{retry_at}.

    @ivar hook: the hook that failed; None if the backend failed.
    @ivar retry_at: the time at which the model's back-off ends.
    """

    now: float
    model: str
    hook: HookKind | None
    retry_at: float


PolicyEvent = Arrived | Forwarded | Completed | Left | Woke | Slept | Failed

Observer = Callable[[PolicyEvent], None]
"""A function that is called with each event, after the policy was shown the event."""


# -------------------------------------------------------------------- policy


class SlotPhase(Enum):
    """What the GPU does when a policy is asked, and which answers make sense then."""

    IDLE = "idle"
    """No model is awake.  The policy answers C{switch} or C{stay}."""
    AWAKE = "awake"
    """C{context.awake} serves.  The policy answers C{switch} or C{stay}."""
    DRAINING = "draining"
    """
    C{context.awake} finishes its requests, to make room for C{context.target}.
    C{stay} goes on draining, C{reopen} calls the switch off, and C{switch}
    changes the target.
    """
    DRAINED = "drained"
    """
    The last request is finished: this is the last question before the sleep hook
    starts.  The answers mean what they mean in C{DRAINING}.
    """


class PolicyDecision(Struct, frozen=True):
    """
    The answer of a policy.  Use L{stay}, L{switch} and L{reopen} to make one.

    @ivar target: the model to wake, or to which a drain is to lead; None to
        change nothing.
    @ivar reopens: True to call a switch off while the awake model drains.
    @ivar ask_again_at: the time at which the policy wants to be asked again at
        the latest, even if nothing happens until then.
    @ivar holds_while_busy: the answer will be the same until C{ask_again_at}, as
        long as the awake model has requests in flight and no request joins or
        leaves the waiters of another model.  The switcher then does not ask at
        each arrival and completion of the awake model.
    """

    target: str | None = None
    reopens: bool = False
    ask_again_at: float | None = None
    holds_while_busy: bool = False

    @classmethod
    def stay(
        cls, ask_again_at: float | None = None, *, holds_while_busy: bool = False
    ) -> PolicyDecision:
        """The decision to change nothing."""
        if ask_again_at is None:
            return _STAY
        return cls(ask_again_at=ask_again_at, holds_while_busy=holds_while_busy)

    @classmethod
    def switch(cls, target: str) -> PolicyDecision:
        """The decision to wake C{target}."""
        return cls(target=target)

    @classmethod
    def reopen(cls) -> PolicyDecision:
        """The decision that the awake model, which drains, is to serve on."""
        return _REOPEN


_STAY = PolicyDecision()
_REOPEN = PolicyDecision(reopens=True)


class PolicyContext(Struct, frozen=True):
    """
    What a policy is told when it is made.  None of this changes while it lives.

    @ivar weights: each configured model and its weight.
    @ivar request_timeout: seconds that a request may wait; None for no limit.
    @ivar min_active: seconds that a model stays awake at least.
    @ivar drain_before_switch: whether requests in flight finish before a model
        is put to sleep.
    """

    weights: Mapping[str, float]
    request_timeout: float | None = None
    min_active: float = 0.0
    drain_before_switch: bool = True


class WaitingRequest:
    """
    A request that waits, or that asks to be admitted to a drain.

    @ivar model: the model that the request names.
    @ivar request: the request's number, as in the events.
    @ivar arrived: the time at which the request first arrived; a request that
        waits a second time, because its backend failed, keeps that time.
    """

    __slots__ = ("arrived", "model", "request")

    def __init__(self, model: str, request: int, arrived: float) -> None:
        self.model = model
        self.request = request
        self.arrived = arrived


class IScheduleContext(Interface):
    """
    A view of the switcher that a policy can only read.  The view is valid during
    the call to which it is passed; each answer costs O(1) or O(models).
    """

    now: float = Attribute("The time of this question.")
    phase: SlotPhase = Attribute("What the GPU does, an L{SlotPhase}.")
    awake: str | None = Attribute("The model that is awake, or drains; None if none is.")
    woke_at: float = Attribute("The time at which the awake model woke.")
    in_flight: int = Attribute("The number of requests in flight to the awake model.")
    target: str | None = Attribute("The model for which the awake model drains, or None.")

    def wanted() -> Sequence[str]:
        """
        The models that have waiters and may be woken now, in a fixed order.  The
        awake model is not among them, and neither is a model in back-off.
        """

    def waiting(model: str) -> int:
        """The number of requests that wait for C{model}, which may be draining."""

    def oldest(model: str) -> float:
        """The time at which the first waiter of C{model} arrived; infinity without waiters."""

    def sum_of_ages(model: str) -> float:
        """The sum over the waiters of C{model} of (now - arrival), in seconds; O(1)."""

    def sum_of_squared_ages(model: str) -> float:
        """The sum over the waiters of C{model} of (now - arrival)^2, in s^2; O(1)."""

    def switch_cost(source: str | None, target: str) -> float | None:
        """
        The average seconds that a switch from C{source} to C{target} took lately;
        None if no such switch was made.  C{source} is None if no model was awake.
        """


class Estimate(Struct, frozen=True):
    """
    A value that a policy has learnt, shown at C{/metrics} as the gauge
    C{llmux_policy_NAME} with these labels.

    @ivar documentation: the metric's help text, one sentence.
    """

    name: str
    documentation: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


class ISwitchPolicy(Interface):
    """
    A policy decides which model is awake.

    A policy is deterministic in what it is shown: it reads no clock, logs nothing
    and does no I/O.

    A policy that fails harms no request.  If L{decide} or L{admit} raises, or
    L{decide} answers what makes no sense (no L{PolicyDecision}, a target that is
    not in C{context.wanted()}, C{reopen} while no model drains), then that question
    is answered as the policy C{fifo} would answer.  If L{observe} or L{estimates}
    raises, the event or the estimates are lost.  Each fault is counted in
    C{/metrics}, and logged at most once a minute for each kind.
    """

    observed: frozenset[type[Any]] = Attribute(
        "The types of the events that L{observe} is called with; other events cost nothing. "
        "It does not change."
    )

    def observe(event: PolicyEvent) -> None:
        """
        Take note of an event.  The call comes before any question that the event
        leads to.
        """

    def decide(context: IScheduleContext) -> PolicyDecision:
        """
        Decide what to do now.

        The switcher asks after each event while a request waits for a model that
        is not awake, and while a model drains.  It does not ask while a hook runs,
        nor while the awake model is younger than C{min_active}.

        If a drain goes on, and nobody waits for its target any more, then it leads
        to the model of the oldest waiter, unless the answer names another model.  If
        nobody waits for another model at all, the drain is called off without a
        question.
        """

    def admit(context: IScheduleContext, request: WaitingRequest) -> bool:
        """
        Decide whether a request for the awake model, which drains, goes to the
        backend at once (True) or waits until the model is awake again (False).

        The request is not among the waiters yet.  L{decide} is asked next in either
        case, and may call the whole switch off; a request that was not admitted is
        then one of the waiters.
        """

    def estimates() -> Iterable[Estimate]:
        """The values that the policy has learnt; asked for at each scrape of C{/metrics}."""


class ISwitchPolicyFactory(IPlugin):
    """
    A factory makes policies of one name.

    A distribution offers a policy by an instance of such a factory in a module
    under C{twisted/plugins}.
    """

    name: str = Attribute("The C{policy.name} in the configuration that chooses this factory.")
    settings: type[Any] | None = Attribute(
        "A frozen msgspec.Struct with a default for every field: the further keys that "
        "C{policy:} may have.  None if there are no further keys."
    )

    def build(context: PolicyContext, settings: Any) -> ISwitchPolicy:
        """
        Make a policy.

        @param settings: an instance of the class in L{settings}, or None.
        @raise ValueError: a value is out of range; the message names the key.
        """
