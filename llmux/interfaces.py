"""
The seams that others implement, and the values that cross them.

Nothing here does I/O, reads a clock or logs.  Times are seconds on the clock
of the switcher (an L{IReactorTime}); only differences between them mean
anything.
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
    """The kinds of hooks: each model has a script of every kind."""

    WAKE = "wake"
    SLEEP = "sleep"
    ALIVE = "alive"


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
        """Fires once, with a L{HookResult}, when the shell has exited; never fails."""
    )

    def kill() -> None:
        """
        End it: TERM to its process group, and KILL if it is still there a
        little later.  L{exited} still fires, when the whole group is gone.
        Harmless on a hook that has exited.
        """


class IHookRunner(Interface):
    """Runs the scripts of models."""

    def start(model: str, hook: HookKind) -> IRunningHook:
        """
        Start a hook under its time limit.

        Never raises and never blocks: a hook that cannot be started is one
        whose C{exited} fires with C{exit_code} None.
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
    TIMEOUT = "timeout"
    FAILED = "failed"


class Arrived(Struct, frozen=True):
    """
    A request for C{model} has to wait, or asks to be admitted to a drain.
    C{request} is its number, never used again.
    """

    now: float
    model: str
    request: int


class Forwarded(Struct, frozen=True):
    """
    The request has been given a guard: it goes to its backend now.  One that
    found its model awake has C{waited} 0.0, and no L{Arrived} before it.
    """

    now: float
    model: str
    request: int
    waited: float


class Completed(Struct, frozen=True):
    """
    The request's exchange with its backend is over.

    @ivar service: seconds since it was forwarded.
    @ivar answered: the whole reply arrived; False if it was cut short.
    """

    now: float
    model: str
    request: int
    service: float
    answered: bool


class Left(Struct, frozen=True):
    """A waiter left without a guard, C{age} seconds after it arrived."""

    now: float
    model: str
    request: int
    reason: LeftReason
    age: float


class Woke(Struct, frozen=True):
    """
    C{model} is awake.

    @ivar previous: the model that was put to sleep for it, or None.
    @ivar cost: seconds of sleep hook + wake hook + alive; no cooldown, no
        drain.  None when it was adopted at start, which cost nothing.
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
    C{model} failed: its wake or sleep hook did, or its backend (C{hook} None).
    The model is in back-off until C{retry_at}.
    """

    now: float
    model: str
    hook: HookKind | None
    retry_at: float


PolicyEvent = Arrived | Forwarded | Completed | Left | Woke | Slept | Failed


# -------------------------------------------------------------------- policy


class SlotPhase(Enum):
    """What the GPU is doing when a policy is asked."""

    IDLE = "idle"
    """Nothing is awake.  C{switch} or stay."""
    AWAKE = "awake"
    """C{context.awake} serves.  C{switch} or stay."""
    DRAINING = "draining"
    """
    C{context.awake} closes towards C{context.target}.  Stay goes on draining,
    C{reopen} calls the switch off, C{switch} rebinds the target.
    """
    DRAINED = "drained"
    """The last question before the sleep hook: stay keeps the target."""


class PolicyDecision(Struct, frozen=True):
    """
    What to do now.  Made by L{stay}, L{switch} and L{reopen}.

    @ivar target: switch to this model (or rebind a drain to it).
    @ivar ask_again_at: the latest time at which to ask again even if nothing
        happens.
    @ivar holds_while_busy: until C{ask_again_at} the answer will be the same
        as long as the awake model has requests in flight and nobody joins or
        leaves another model's queue: the switcher need not ask at each of
        the awake model's arrivals and completions.
    """

    target: str | None = None
    reopens: bool = False
    ask_again_at: float | None = None
    holds_while_busy: bool = False

    @classmethod
    def stay(
        cls, ask_again_at: float | None = None, *, holds_while_busy: bool = False
    ) -> PolicyDecision:
        """Change nothing."""
        if ask_again_at is None:
            return _STAY
        return cls(ask_again_at=ask_again_at, holds_while_busy=holds_while_busy)

    @classmethod
    def switch(cls, target: str) -> PolicyDecision:
        """Wake C{target}."""
        return cls(target=target)

    @classmethod
    def reopen(cls) -> PolicyDecision:
        """The awake model, which drains, is to serve on."""
        return _REOPEN


_STAY = PolicyDecision()
_REOPEN = PolicyDecision(reopens=True)


class PolicyContext(Struct, frozen=True):
    """
    What does not change while a policy lives, given to it at birth.

    @ivar weights: every configured model and its weight.
    """

    weights: Mapping[str, float]
    request_timeout: float | None = None
    min_active: float = 0.0
    drain_before_switch: bool = True


class WaitingRequest:
    """
    One request that waits, or asks to be admitted.

    @ivar arrived: when it first arrived; a retry keeps it.
    """

    __slots__ = ("arrived", "model", "request")

    def __init__(self, model: str, request: int, arrived: float) -> None:
        self.model = model
        self.request = request
        self.arrived = arrived


class IScheduleContext(Interface):
    """
    A live read-only view of the switcher, valid during the call that it is
    given to.  Each question is O(1) or O(models).
    """

    now: float = Attribute("The time of this question.")
    phase: SlotPhase = Attribute("What the GPU is doing.")
    awake: str | None = Attribute("The awake (or draining) model.")
    woke_at: float = Attribute("Since when it is awake.")
    in_flight: int = Attribute("Its requests in flight.")
    target: str | None = Attribute("Where a drain leads.")

    def wanted() -> Sequence[str]:
        """
        The models with waiters that may be woken now: those in back-off are
        left out, and so is the awake one.  In a fixed order.
        """

    def waiting(model: str) -> int:
        """How many wait for it (those of a draining model included)."""

    def oldest(model: str) -> float:
        """When the first of its waiters arrived; infinity without waiters."""

    def sum_of_ages(model: str) -> float:
        """The sum over its waiters of (now - arrival), in seconds; O(1)."""

    def sum_of_squared_ages(model: str) -> float:
        """The sum over its waiters of (now - arrival)^2, in square seconds; O(1)."""

    def switch_cost(source: str | None, target: str) -> float | None:
        """The learnt cost (EMA), None if this pair was never observed."""


class Estimate(Struct, frozen=True):
    """
    Something that a policy has learnt, for C{/metrics}: a gauge called
    C{llmux_policy_NAME}, with these labels.
    """

    name: str
    documentation: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


class ISwitchPolicy(Interface):
    """
    Decides which model is awake.  Deterministic in what it is shown: it reads
    no clock, does not log, does no I/O.
    """

    observed: frozenset[type[Any]] = Attribute(
        "The event types that L{observe} wants to be told of; the others cost nothing."
    )

    def observe(event: PolicyEvent) -> None:
        """Something happened.  Told before the next question."""

    def decide(context: IScheduleContext) -> PolicyDecision:
        """
        What now?  Asked after every event while somebody waits.  The switcher
        ignores a target that nobody waits for, and holds the answer back
        while the awake model is younger than C{min_active}.
        """

    def admit(context: IScheduleContext, request: WaitingRequest) -> bool:
        """
        A request arrives for the awake model while it drains: does it still
        go in?  It is not among the waiters yet.  (To call the whole switch
        off is L{decide}'s business: it is asked next, with the request
        counted among the waiters if it was not let in.)
        """

    def estimates() -> Iterable[Estimate]:
        """What it has learnt, asked at each scrape of C{/metrics}."""


class ISwitchPolicyFactory(IPlugin):
    """
    Makes policies of one name.  A distribution offers one by putting an
    instance of it in a module under C{twisted/plugins}.
    """

    name: str = Attribute("What C{policy.name} says to choose it.")
    settings: type[Any] | None = Attribute(
        "A frozen msgspec.Struct with a default for every field: the further keys that "
        "C{policy:} may then have.  None if it takes none."
    )

    def build(context: PolicyContext, settings: Any) -> ISwitchPolicy:
        """
        Make one.

        @param settings: an instance of L{settings}, or None.
        @raise ValueError: a value is out of range; the message names the key.
        """


Observer = Callable[[PolicyEvent], None]
