"""
This module has the interfaces between the switcher and a policy: the view, the answers, the
policy.

Times are seconds on the clock of the switcher: only the differences between them have a
meaning.  Amounts are whole numbers, or exact fractions, in the resource's own unit.
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
"""An amount is how much of a resource there is, or is needed."""

Needs = Mapping[str, Amount]
"""
L{Needs} are amounts by the names of resources.  A resource that is not named is not needed.
"""

ONE_SLOT: Needs = {"gpu": 1}
"""If no resources are configured, this is the only one, and every model needs all of it."""


def fit_together(total: Needs, models: Sequence[Sequence[Needs]]) -> bool:
    """
    Tell whether models can be awake at once.

    @param models: the places of each model.
    """
    return any(
        all(sum(needs.get(name, 0) for needs in chosen) <= total[name] for name in total)
        for chosen in product(*models)
    )


class Phase(Enum):
    """A model is in one of these phases."""

    UNKNOWN = "unknown"
    """llmux has not found out yet whether the model is awake."""
    ASLEEP = "asleep"
    """The model holds nothing."""
    WAKING = "waking"
    """The wake hook runs, or the model is asked whether it is up."""
    AWAKE = "awake"
    """The model serves: a request gets its guard at once."""
    DRAINING = "draining"
    """
    The model finishes the requests that it has in flight; then it goes to sleep for another.
    """
    SLEEPING = "sleeping"
    """The sleep hook runs."""
    CHECKING = "checking"
    """The backend is in doubt: the model is asked whether it is alive."""
    UNCERTAIN = "uncertain"
    """The model may be awake and must not be, so its sleep hook cleans up."""


class Why(Struct, frozen=True):
    """
    A L{Why} is the reason of a decision, as a code and figures.

    A reason is put into words only when somebody asks.

    @ivar code: C{quantum}, C{pays_to_stay}, C{lingers}, C{starves}, C{no_room},
        C{min_active}, C{pinned}, C{paused}, C{backoff}, C{oldest}, C{index}, ...
    @ivar model: the model that the reason is about, if there is one.
    @ivar figures: the values that the words need: seconds under C{*_secs}, counts, times on the
        switcher's clock under C{*_at}.
    """

    code: str
    model: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


class Stay(Struct, frozen=True):
    """
    This decision changes nothing.  A switch whose victims have drained goes on.

    @ivar ask_again_at: the time at which the policy must be asked again at the latest, even if
        nothing happens until then.
    """

    ask_again_at: float | None = None
    why: Why | None = None


class Switch(Struct, frozen=True):
    """
    This decision wakes a model, and makes room for that model first.

    The switcher reserves the room at once; the victims begin to drain together, and
    none of them sleeps before all of them have drained.

    @ivar target: one of C{view.wanted()}.
    @ivar place: the number, from 0, of the place in C{PolicyContext.places[target]}.
    @ivar victims: the models that make room: awake, in no other switch, and allowed to sleep
        (C{view.may_sleep_from}); empty if there is room already.
    """

    target: str
    place: int = 0
    victims: Sequence[str] = ()
    why: Why | None = None


class Rebind(Struct, frozen=True):
    """
    This decision changes a switch whose victims still drain: to another target, to another
    place, or to other victims.

    A model that is no longer a victim serves again at once, its waiters included.

    @ivar switch: the C{SwitchView.number} of the switch.
    """

    switch: int
    target: str
    place: int = 0
    victims: Sequence[str] = ()
    why: Why | None = None


class Reopen(Struct, frozen=True):
    """
    This decision calls a switch off whose victims still drain; they serve again.

    @ivar switch: the C{SwitchView.number} of the switch.
    """

    switch: int
    why: Why | None = None


Decision = Stay | Switch | Rebind | Reopen


class SwitchView(Struct, frozen=True):
    """
    A L{SwitchView} is what a policy sees of a switch under way.

    @ivar number: the switch's own number, which no later switch has.
    @ivar target: the model that is to wake.
    @ivar place: the number of the target's place.
    @ivar victims: the models that make room, in the order that the policy gave.
    @ivar phase: C{DRAINING} as long as the switch may be changed or called off, then
        C{SLEEPING}, then C{WAKING}.
    @ivar drained: whether the victims have drained, so that this is the last question before
        they sleep.
    """

    number: int
    target: str
    place: int
    victims: Sequence[str]
    phase: Phase
    drained: bool


class PolicyContext(Struct, frozen=True):
    """
    A L{PolicyContext} is what a policy is told when it is made.

    @ivar weights: the weight of each configured model.
    @ivar resources: the capacity of each resource.
    @ivar places: the places of each model, in the file's order; a switch chooses one.  A place
        without needs takes room from nobody.
    @ivar always: the models with C{keep: always}.
    @ivar request_timeout: how many seconds a request may wait; None for no limit.
    @ivar min_active: how many seconds a model stays awake at least.
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
    A policy reads the switcher through this view, and cannot change anything by it.  The view
    is valid during the call to which it is passed; each answer costs O(1), O(models) or
    O(switches).
    """

    now: float = Attribute("The time of this question.")

    switches: Sequence[SwitchView] = Attribute("The switches under way, oldest first.")

    def places(model: str) -> Sequence[Needs]:
        """Return the places of the model, as in L{PolicyContext}."""

    def phase(model: str) -> Phase:
        """Return the phase that the model is in."""

    def holders() -> Sequence[str]:
        """Return the models that hold something, in the order in which they took it."""

    def held(model: str) -> Needs:
        """Return what the model holds; nothing if it is asleep."""

    def place(model: str) -> int | None:
        """
        Return the number of the model's place; None if it is asleep, or if that is not known.
        """

    def free(resource: str) -> Amount:
        """
        Return the amount that is neither held, nor claimed by a switch that has not begun to
        wake its target.  What the victims of a switch hold counts as held until they sleep; a
        switch claims only what its target needs beyond that.  The amount is below 0 only while
        models hold more at start than there is.
        """

    def awake_since(model: str) -> float:
        """Return the time at which the model last woke."""

    def in_flight(model: str) -> int:
        """Return the number of requests in flight to the model."""

    def may_sleep_from(model: str) -> float:
        """
        Return the time from which an awake model may be a victim: C{min_active} after its wake,
        or the end of the back-off of its sleep hook, if that is later; infinity for a model
        that nobody may put to sleep (C{keep: always}, pinned).
        """

    def wanted() -> Sequence[str]:
        """
        Return the models that are asleep, have waiters, may be woken now, and are not the
        target of a switch, in a fixed order.  A model in back-off is not among them, and
        neither is one with C{keep: always}, which the switcher wakes by itself.
        """

    def waiting(model: str) -> int:
        """Return the number of requests that wait for C{model}, which may be draining."""

    def oldest(model: str) -> float:
        """
        Return the time at which the first waiter of C{model} arrived; infinity without waiters.
        """

    def sum_of_ages(model: str) -> float:
        """Return the sum over the waiters of C{model} of (now - arrival), in seconds; O(1)."""

    def sum_of_squared_ages(model: str) -> float:
        """Return the sum over the waiters of C{model} of (now - arrival)^2, in s^2; O(1)."""


class Estimate(Struct, frozen=True):
    """
    An estimate is a value that a policy has learnt; C{/metrics} shows it as the gauge
    C{llmux_policy_NAME} with these labels.

    @ivar documentation: the metric's help text, one sentence.
    """

    name: str
    documentation: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


class Forecast(Struct, frozen=True):
    """
    A forecast is what a policy expects for a model that has waiters.

    @ivar position: the number of the model's turn; the next turn is 1.
    @ivar low: the shortest time from now until the model is awake, in seconds.
    @ivar high: the longest time from now until the model is awake, in seconds, if hooks take
        about as long as they did lately.
    @ivar why: what decides the upper end.
    """

    model: str
    position: int
    low: float
    high: float
    why: Why | None = None


class WaitingRequest:
    """
    A L{WaitingRequest} is a request that waits, or that asks to be admitted to a drain.

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

    A policy that fails harms no request.  The switcher checks each answer against the ledger of
    capacity; if L{decide} or L{admit} raises, or gives an answer that cannot be carried out,
    the question is answered as the policy C{fifo} would answer.  If L{observe} or L{estimates}
    raises, the event or the estimates are lost.  Each fault is counted in C{/metrics}, and
    logged at most once a minute for each kind.
    """

    observed: frozenset[type[Any]] = Attribute(
        "The types of the events that L{observe} is called with; other events cost nothing. "
        "It does not change."
    )

    def observe(event: PolicyEvent) -> None:
        """
        Take note of an event.  This method is called before any question that the event leads
        to.
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

        If a switch drains, and no request waits for its target any more, the policy should
        rebind or reopen the switch; if the policy stays, the switcher calls the switch off
        (unless a waiter of the target has reached its time limit during this same switch).
        """

    def admit(view: IScheduleView, request: WaitingRequest) -> bool:
        """
        Decide whether a request for a model that drains goes to the backend at once
        (True) or waits until that model serves again (False).

        The request is not among the waiters yet.  L{decide} is asked next in either
        case; a request that was not admitted is then one of the waiters.
        """

    def estimates() -> Iterable[Estimate]:
        """
        Return the values that the policy has learnt; called at each scrape of C{/metrics}.
        """


class IForecaster(Interface):
    """
    An L{ISwitchPolicy} may provide this interface as well: it says what it expects, for people
    who wait.
    """

    def forecast(view: IScheduleView) -> Iterable[Forecast]:
        """
        Forecast the turns of models that have waiters and are not awake.

        The call changes nothing, and is made only when somebody asks.  Models for which the
        policy has no useful forecast are left out.
        """


class ILearningPolicy(Interface):
    """
    An L{ISwitchPolicy} may provide this interface as well: it can use what another policy of
    the same class has learnt.
    """

    def learn_from(previous: ISwitchPolicy) -> None:
        """
        Take over what C{previous} knows, as far as it is still of use.

        This method is called once, before the first event and the first question, when the
        configuration is read anew while llmux runs.  A policy without this method is shown the
        models that are awake, and the waiters with their ages.

        @param previous: a policy that the same factory has made for an earlier
            configuration, with other settings, models, weights, resources or places.
        """


class ISwitchPolicyFactory(IPlugin):
    """
    An L{ISwitchPolicyFactory} makes the policies that one name stands for.

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
