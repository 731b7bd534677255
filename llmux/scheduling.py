"""
The seam between the switcher and a policy: the view, the answers, the interfaces.

Times are seconds on the clock of the switcher: only differences between them mean
anything.  Amounts are whole numbers, or exact fractions, of a resource's own unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct, field
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from llmux.events import PolicyEvent

if TYPE_CHECKING:
    from fractions import Fraction
from itertools import product

__all__ = [
    "ONE_SLOT",
    "Amount",
    "Decision",
    "Estimate",
    "Forecast",
    "IForecaster",
    "ILearningPolicy",
    "IScheduleView",
    "ISwitchPolicy",
    "ISwitchPolicyFactory",
    "Needs",
    "Phase",
    "PolicyContext",
    "Rebind",
    "Reopen",
    "Stay",
    "Switch",
    "SwitchView",
    "WaitingRequest",
    "Why",
]

Amount: TypeAlias = "int | Fraction"
"""How much of a resource there is, or is needed."""

Needs = Mapping[str, Amount]
"""Amounts by the names of resources.  A resource that is not named is not needed."""

ONE_SLOT: Needs = {"gpu": 1}
"""The only resource, where none are configured; then every model needs all of it."""


def fit_together(total: Needs, models: Sequence[Sequence[Needs]]) -> bool:
    """
    Tell whether models can be awake at once.

    @param models: the places of each of them.
    """
    return any(
        all(sum(needs.get(name, 0) for needs in chosen) <= total[name] for name in total)
        for chosen in product(*models)
    )


class Phase(Enum):
    """The phases of a model."""

    UNKNOWN = "unknown"
    """llmux has not found out yet whether the model is awake."""
    ASLEEP = "asleep"
    """The model holds nothing."""
    WAKING = "waking"
    """The wake hook runs, or the model is asked whether it is up."""
    AWAKE = "awake"
    """The model serves: a request gets its guard at once."""
    DRAINING = "draining"
    """The model finishes what it has in flight; then it goes to sleep for another."""
    SLEEPING = "sleeping"
    """The sleep hook runs."""
    CHECKING = "checking"
    """The backend is in doubt: the model is asked whether it is alive."""
    UNCERTAIN = "uncertain"
    """The model may be awake and must not be: its sleep hook cleans up."""


class Why(Struct, frozen=True):
    """
    The reason of a decision, as a code and figures.

    Nobody puts a reason into words before somebody looks.

    @ivar code: C{quantum}, C{pays_to_stay}, C{lingers}, C{starves}, C{no_room},
        C{min_active}, C{pinned}, C{paused}, C{backoff}, C{oldest}, C{index}, ...
    @ivar model: the model that the reason is about, if there is one.
    @ivar figures: what the words need: seconds under C{*_secs}, counts, times on the
        switcher's clock under C{*_at}.
    """

    code: str
    model: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


class Stay(Struct, frozen=True):
    """
    The decision to change nothing.  A switch whose victims have drained goes on.

    @ivar ask_again_at: the time at which the policy wants to be asked again at the
        latest, even if nothing happens until then.
    """

    ask_again_at: float | None = None
    why: Why | None = None


class Switch(Struct, frozen=True):
    """
    The decision to wake a model, and to make room for that model first.

    The switcher reserves the room at once; the victims begin to drain together, and
    none of them sleeps before all of them have drained.

    @ivar target: one of C{view.wanted()}.
    @ivar place: the number, from 0, of the place in C{PolicyContext.places[target]}.
    @ivar victims: the models that make room: awake, in no other switch, and allowed
        to sleep (C{view.may_sleep_from}); none if there is room already.
    """

    target: str
    place: int = 0
    victims: Sequence[str] = ()
    why: Why | None = None


class Rebind(Struct, frozen=True):
    """
    The decision to lead a switch, as long as its victims drain, to another target,
    to another place, or to make other victims sleep for it.

    A model that is no longer a victim serves on at once, with its waiters.

    @ivar switch: the C{SwitchView.number} of the switch.
    """

    switch: int
    target: str
    place: int = 0
    victims: Sequence[str] = ()
    why: Why | None = None


class Reopen(Struct, frozen=True):
    """
    The decision to call a switch off, as long as its victims drain: they serve on.

    @ivar switch: the C{SwitchView.number} of the switch.
    """

    switch: int
    why: Why | None = None


Decision = Stay | Switch | Rebind | Reopen


class SwitchView(Struct, frozen=True):
    """
    What a policy sees of a switch under way.

    @ivar number: the switch's own number, which no later switch has.
    @ivar target: the model that is to wake.
    @ivar place: the number of the target's place.
    @ivar victims: the models that make room, in the order that the policy gave.
    @ivar phase: C{DRAINING} as long as the switch may be changed or called off, then
        C{SLEEPING}, then C{WAKING}.
    @ivar drained: the victims have drained: this is the last question before they sleep.
    """

    number: int
    target: str
    place: int
    victims: Sequence[str]
    phase: Phase
    drained: bool


class PolicyContext(Struct, frozen=True):
    """
    What a policy is told when it is made.

    @ivar weights: each configured model and its weight.
    @ivar resources: each resource and its capacity.
    @ivar places: of each model its places in the file's order; a switch chooses one.
        A place without needs competes with nobody.
    @ivar always: the models with C{keep: always}.
    @ivar request_timeout: seconds that a request may wait; None for no limit.
    @ivar min_active: seconds that a model stays awake at least.
    @ivar drain_before_switch: whether requests in flight finish before a model
        is put to sleep.
    @ivar parallel_wakes: the number of models that may wake at a time; None for no limit.
        A policy may exceed that for a model that starves.
    """

    weights: Mapping[str, float]
    resources: Needs = field(default_factory=lambda: ONE_SLOT)
    places: Mapping[str, Sequence[Needs]] = field(default_factory=dict)
    always: frozenset[str] = frozenset()
    request_timeout: float | None = None
    min_active: float = 0.0
    drain_before_switch: bool = True
    parallel_wakes: int | None = None


class IScheduleView(Interface):
    """
    A view of the switcher that a policy can only read.  The view is valid during
    the call to which it is passed; each answer costs O(1), O(models) or O(switches).
    """

    now: float = Attribute("The time of this question.")

    switches: Sequence[SwitchView] = Attribute("The switches under way, oldest first.")

    def places(model: str) -> Sequence[Needs]:
        """The places of the model, as in L{PolicyContext}."""

    def phase(model: str) -> Phase:
        """The phase that the model is in."""

    def holders() -> Sequence[str]:
        """The models that hold something, in the order in which they took it."""

    def held(model: str) -> Needs:
        """What the model holds; nothing if it is asleep."""

    def place(model: str) -> int | None:
        """The number of the model's place; None if it is asleep, or nobody knows."""

    def free(resource: str) -> Amount:
        """
        What is neither held, nor claimed by a switch that has not begun to wake its
        target.  What the victims of a switch hold counts as held until they sleep; a
        switch claims only what its target needs beyond that.  Below 0 only while more
        is held at start than there is.
        """

    def awake_since(model: str) -> float:
        """The time at which the model last woke."""

    def in_flight(model: str) -> int:
        """The number of requests in flight to the model."""

    def may_sleep_from(model: str) -> float:
        """
        The time from which an awake model may be a victim: C{min_active} after its wake,
        or the end of the back-off of its sleep hook, if that is later; infinity for a model
        that nobody may put to sleep (C{keep: always}, pinned).
        """

    def wanted() -> Sequence[str]:
        """
        The models that are asleep, have waiters, may be woken now, and are not the target
        of a switch, in a fixed order.  A model in back-off is not among them, and neither
        is one with C{keep: always}, which the switcher wakes by itself.
        """

    def waiting(model: str) -> int:
        """The number of requests that wait for C{model}, which may be draining."""

    def oldest(model: str) -> float:
        """The time at which the first waiter of C{model} arrived; infinity without waiters."""

    def sum_of_ages(model: str) -> float:
        """The sum over the waiters of C{model} of (now - arrival), in seconds; O(1)."""

    def sum_of_squared_ages(model: str) -> float:
        """The sum over the waiters of C{model} of (now - arrival)^2, in s^2; O(1)."""


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


class Forecast(Struct, frozen=True):
    """
    What a policy expects for a model that has waiters.

    @ivar position: how many turns come first, counted from 1.
    @ivar low: seconds from now until the model is awake, at the least.
    @ivar high: seconds from now until the model is awake, at the most, as long as hooks
        take about as long as they did lately.
    @ivar why: what decides the upper end.
    """

    model: str
    position: int
    low: float
    high: float
    why: Why | None = None


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


class ISwitchPolicy(Interface):
    """
    A policy decides which models are awake.

    A policy is deterministic in what it is shown: it reads no clock, logs nothing
    and does no I/O.

    A policy that fails harms no request.  The switcher checks each answer against the
    ledger of capacity; where L{decide} or L{admit} raises, or answers what cannot be done,
    that question is answered as the policy C{fifo} would answer.  If L{observe} or
    L{estimates} raises, the event or the estimates are lost.  Each fault is counted in
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

    def decide(view: IScheduleView) -> Decision:
        """
        Decide what to do now.

        The switcher asks while C{view.wanted()} is not empty, or a switch drains: when a
        request begins to wait, or leaves without a guard; when a model runs out of
        requests, and when the first request comes to a model that has none; when a model
        has woken, slept or failed; when a back-off or C{may_sleep_from} ends; and at
        C{Stay.ask_again_at}.  Other arrivals and completions bring no question.  The
        switcher asks again at once after each answer other than L{Stay}, so that several
        switches can begin in one turn.

        A switch that drains, and whose target nobody waits for any more, is the policy's
        to rebind or to reopen; if the policy stays, the switcher calls it off (unless a
        waiter of the target has lost its patience during this very switch).
        """

    def admit(view: IScheduleView, request: WaitingRequest) -> bool:
        """
        Decide whether a request for a model that drains goes to the backend at once
        (True) or waits until that model serves again (False).

        The request is not among the waiters yet.  L{decide} is asked next in either
        case; a request that was not admitted is then one of the waiters.
        """

    def estimates() -> Iterable[Estimate]:
        """The values that the policy has learnt; asked for at each scrape of C{/metrics}."""


class IForecaster(Interface):
    """What an L{ISwitchPolicy} may provide as well: its expectations, for people who wait."""

    def forecast(view: IScheduleView) -> Iterable[Forecast]:
        """
        Forecast the turns of models that have waiters and are not awake.

        The call changes nothing, and is made only when somebody looks.  A forecast
        that is not known better than "some day" is left out.
        """


class ILearningPolicy(Interface):
    """
    What an L{ISwitchPolicy} may provide as well: it goes on with what another policy of the
    same class has learnt.
    """

    def learn_from(previous: ISwitchPolicy) -> None:
        """
        Take over what C{previous} knows, as far as that still means anything.

        The call comes once, before the first event and the first question, when the
        configuration is read anew while llmux runs.  A policy without this method is
        shown the models that are awake, and the waiters with their ages.

        @param previous: a policy that the same factory has made for an earlier
            configuration, with other settings, models, weights, resources or places.
        """


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
