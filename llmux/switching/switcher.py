"""
This module has the switcher, which knows the requests that wait or are in flight, and changes
models.

The switcher carries out what its policy decides.  It does no I/O and knows no reactor: a clock,
a hook runner and a policy are given to it.  Models are moved through their phases by stories
(L{llmux.switching.stories.story} and the modules of its subclasses), which the switcher begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from llmux.errors import HookFailed, ModelNotFound, NotReady, SwitchError, SwitchTimeout
from llmux.interfaces import (
    Decision,
    Forecast,
    IHookRunner,
    IPlaceNotes,
    ISwitchPolicy,
    IWakeNotes,
    Observer,
)
from llmux.monitoring.metrics import Metrics
from llmux.switching.decisions.containment import ContainedPolicy
from llmux.switching.decisions.listeners import Listeners
from llmux.switching.decisions.questions import Questions
from llmux.switching.facts.capacity import ONE_SLOT, Capacity, Needs
from llmux.switching.facts.chronicle import Chronicle
from llmux.switching.facts.cost import SwitchCostTracker
from llmux.switching.facts.model import InFlightGuard, Model
from llmux.switching.facts.phases import Event, Phase
from llmux.switching.facts.settings import ModelSettings, SwitchSettings
from llmux.switching.readiness import reason_not_ready
from llmux.switching.reconfiguration import Reconfiguration
from llmux.switching.requests import Requests
from llmux.switching.snapshot import (
    ModelStatus,
    Readings,
    SwitchStatus,
    status_of_models,
    status_of_switches,
)
from llmux.switching.stories.adoption import Adoption
from llmux.switching.stories.recovery import Check, Cleaning
from llmux.switching.stories.shutdown import Shutdown
from llmux.switching.stories.story import Story
from llmux.switching.stories.transition import Transition
from llmux.switching.stories.watch import Watch
from llmux.switching.wishes.idleness import DefaultModel, Idleness
from llmux.switching.wishes.lasting import LastingCommands
from llmux.switching.wishes.steering import Steering

__all__ = [
    "HookFailed",
    "InFlightGuard",
    "ModelNotFound",
    "ModelStatus",
    "ModelSwitcher",
    "NotReady",
    "SwitchError",
    "SwitchSettings",
    "SwitchStatus",
    "SwitchTimeout",
]


class ModelSwitcher:
    """
    The switcher gives guards for models, and keeps awake the models that are needed and fit.

    Requests wait until L{start} has found out which models are awake; the first request that
    waits starts the switcher, if it has not been started.

    @ivar costs: the costs of switches, as far as they are known.
    @ivar metrics: the metrics.
    @ivar chronicle: the latest steps of models, and the latest switches.
    @ivar readings: what is read for the metrics at each scrape.
    @ivar reconfiguration: the change to another configuration.
    @ivar steering: the commands of operators.
    @ivar idleness: what is done when there is nothing to do.
    @ivar stories: the stories that run.
    @ivar transitions: the switches under way, which are stories too.
    @ivar wanted: the models that requests wait for, in the order in which that began.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        hooks: IHookRunner,
        policy: ISwitchPolicy,
        models: Mapping[str, ModelSettings | float],
        settings: SwitchSettings | None = None,
        metrics: Metrics | None = None,
        observers: Iterable[Observer] = (),
        *,
        resources: Needs = ONE_SLOT,
        wake_notes: IWakeNotes | None = None,
        place_notes: IPlaceNotes | None = None,
        lasting: LastingCommands | None = None,
        preload: Iterable[str] = (),
        default: DefaultModel | None = None,
    ) -> None:
        """
        @param models: the settings of the models, by name; a number stands for settings with
            this C{wake_timeout}, in seconds.
        @param observers: functions that are called with every event, after the policy.
        @param resources: the resources of the machine.
        @param wake_notes: the notes of wakes that were interrupted by the end of the llmux
            before this one.
        @param place_notes: an object that tells hooks the places of their models, and keeps
            these places.
        @param lasting: the pins and the pause.
        @param preload: the models that are woken at start, and when a pause ends.
        @param default: the model that is woken when there is nothing to do; or None.
        """
        self.clock = clock
        self.hooks = hooks
        self.settings = SwitchSettings() if settings is None else settings
        self.metrics = Metrics() if metrics is None else metrics
        self.costs = SwitchCostTracker()
        self.capacity = Capacity(resources)
        self.chronicle = Chronicle(clock.seconds)
        self._shutdown = Shutdown(self)
        self._wake_notes = wake_notes
        self._place_notes = place_notes
        self._all: dict[str, Model] = {}
        for name in sorted(models):
            given = models[name]
            own = given if isinstance(given, ModelSettings) else ModelSettings(given)
            self._all[name] = self._new_model(name, own)
        self._watches = {name: Watch(self, model) for name, model in self._all.items()}
        self._policy = ContainedPolicy(policy, clock, self.metrics)
        self._listeners = Listeners(self._policy, observers)
        self.stories: set[Story] = set()
        self.transitions: list[Transition] = []
        self._requests = Requests(self, self._all, self._listeners, self._shutdown)
        self.wanted = self._requests.wanted
        self.steering = Steering(
            self, LastingCommands(clock) if lasting is None else lasting, preload
        )
        self.idleness = Idleness(self, default)
        self._forgetters: list[Callable[[str], None]] = []
        self._questions = Questions(self, self._policy, self.wanted, self.steering)
        self.reconfiguration = Reconfiguration(
            self, self._policy, self._listeners, self._questions
        )
        # These are methods of the switcher that its parts have: a method that passes a call on
        # would cost each request one more call.
        self.acquire_now = self._requests.acquire_now
        self.acquire = self._requests.acquire
        self.serve = self._requests.serve
        self.refuse = self._requests.refuse
        self.others_wait = self._requests.others_wait
        self.who_waits_for_room_of = self._requests.who_waits_for_room_of
        self.tell = self._listeners.tell
        self.is_admitted = self._questions.is_admitted
        self.depends_on = self._questions.depend_on
        self.holding_questions = self._questions.held
        self.errands = self.steering.errands
        self._adoption: Adoption | None = None
        self._is_known = False
        self._started: list[Deferred[None]] = []
        self.readings = Readings(self._all, self.costs, self.capacity, self._policy.estimates)
        self.metrics.watch(self.readings)

    def _new_model(self, name: str, settings: ModelSettings) -> Model:
        model = Model(name, settings, self.metrics.queue_wait(name))
        model.stepped = self.chronicle.stepped
        # The model may be awake until its alive has answered.
        self.capacity.hold(name, model.needs)
        return model

    @property
    def models(self) -> Mapping[str, Model]:
        """Return the models by their names, sorted."""
        return self._all

    def status(self) -> Mapping[str, ModelStatus]:
        """Return the status of each model now."""
        return status_of_models(self._all)

    def switches(self) -> Sequence[SwitchStatus]:
        """Return the status of each switch that is under way."""
        return status_of_switches(self.transitions)

    @property
    def latest_decision(self) -> tuple[float, Decision] | None:
        """
        Return when the policy last answered a question, and the answer; None before its first
        answer.
        """
        return self._questions.latest

    @property
    def latest_request(self) -> int:
        """Return the number of the request that was the last to ask for a guard."""
        return self._requests.latest

    def reason_not_ready(self) -> str | None:
        """Return why requests should be sent elsewhere; None if llmux does its work."""
        return reason_not_ready(
            self._all.values(),
            self.settings,
            self.clock.seconds(),
            self.stopping,
            self.capacity.free,
        )

    def forecasts(self) -> Mapping[str, Forecast]:
        """Return what the policy expects of the models that are waited for, if it says so."""
        if self.stopping or not self._is_known:
            return {}
        view = self._questions.view
        view.look(self.clock.seconds())
        return self._policy.forecasts(view)

    def add_observer(self, observer: Observer) -> None:
        """Tell this observer every event from now on."""
        self._listeners.add(observer)

    def remove_observer(self, observer: Observer) -> None:
        """Tell this observer nothing any more."""
        self._listeners.remove(observer)

    # ------------------------------------------------------------ another configuration

    @property
    def policy(self) -> ISwitchPolicy:
        """Return the policy that decides."""
        return self._policy.policy

    def add_model(self, name: str, settings: ModelSettings) -> Model:
        """Add a model, of which it is not known whether it is awake."""
        model = self._new_model(name, settings)
        all_models = {**self._all, name: model}
        self._all.clear()
        self._all.update(sorted(all_models.items()))
        self._watches[name] = Watch(self, model)
        return model

    def forget_model(self, model: Model) -> None:
        """Remove a model, which is asleep."""
        del self._all[model.name]
        self._watches.pop(model.name).end()
        self.chronicle.forget(model.name)
        self.costs.forget(model.name)
        self.idleness.forget(model.name)
        self._questions.forget(model.name)
        for forgotten in self._forgetters:
            forgotten(model.name)

    def call_when_forgotten(self, forgotten: Callable[[str], None]) -> None:
        """
        Register a function to be called with the name of each model that has been removed.
        """
        self._forgetters.append(forgotten)

    # ------------------------------------------------------------ start and stop

    def start(self) -> Deferred[None]:
        """
        Ask every model whether it is awake.

        @return: a Deferred that fires when that is known.
        """
        if self._is_known or self.stopping:
            return succeed(None)
        started: Deferred[None] = Deferred()
        self._started.append(started)
        if self._adoption is None:
            self._adoption = Adoption(
                self, self._all.values(), self._wake_notes, self._place_notes, self._now_known
            )
            self._adoption.begin()
        return started

    def _now_known(self) -> None:
        if not (self._is_known or self.stopping):
            self.steering.preload()
            self.idleness.begin()
        self._is_known = True
        started, self._started = self._started, []
        for waiter in started:
            waiter.callback(None)

    def stop(self) -> Deferred[None]:
        """
        Refuse new requests and those that wait, and let those in flight finish within
        C{shutdown_timeout}; then abort them.

        @return: a Deferred that fires when nothing runs and nothing is in flight any more.
        """
        return self._shutdown.begin()

    def call_when_stopped(self, close: Callable[[], None]) -> None:
        """
        Register a function to be called when L{stop} is done, and nothing is in flight any
        more.
        """
        self._shutdown.call_when_over(close)

    def abort(self) -> None:
        """Abort what L{stop} still waits for: exchanges and hooks."""
        self._shutdown.abort()

    @property
    def stopping(self) -> bool:
        """Tell whether llmux stops, so that no guards are given any more."""
        return self._shutdown.begun

    @property
    def aborting(self) -> bool:
        """Tell whether everything that still runs is aborted."""
        return self._shutdown.aborting

    def end_questions(self) -> None:
        """Ask neither the policy nor any C{alive} any more, and give no guards."""
        for model in self._all.values():
            model.close_to_requests()
        self._questions.cancel()
        self.reconfiguration.end()
        self.steering.end()
        self.idleness.end()
        for watch in self._watches.values():
            watch.end()
        self._now_known()

    def is_settled(self) -> bool:
        """
        Tell whether no story runs, nothing is in flight, and the policy is not being asked.
        """
        return not (self.stories or self._requests.in_flight or self._questions.asking)

    # ------------------------------------------------------------------- requests

    def begins_to_wait(self) -> None:
        """Start the switcher, or ask the policy, because a request has begun to wait."""
        if self._adoption is None:
            self.start()
        else:
            self.consider()

    def begins_to_serve(self, model: Model) -> None:
        """Begin to watch a model that takes requests from now on."""
        self._watches[model.name].begin()

    def backend_failed(self, guard: InFlightGuard) -> Deferred[bool]:
        """
        Find out what is wrong with a backend that refused the connection, or closed it before
        the first byte of its reply.  The guard is released.

        @return: a Deferred that fires with True if the request may wait for another turn,
            because the model is asleep or going to sleep; with False if the backend is alive,
            so that another try would not succeed either.
        """
        # No exchange is left to abort, in case the answer comes within this call.
        guard.on_abort = None
        model = guard.state
        if self.stopping:
            guard.release(answered=False)
            return succeed(False)
        if model.phase not in (Phase.AWAKE, Phase.CHECKING):
            guard.release(answered=False)
            return succeed(True)
        doubt: Deferred[bool] = Deferred()
        model.doubts.append(doubt)
        with self.holding_questions():
            if model.phase is Phase.AWAKE:
                model.step(Event.DOUBTED, self.clock.seconds())
                Check(self, model).begin()
            guard.release(answered=False)
        self.consider()
        return doubt

    def backend_in_doubt(self, model: str) -> None:
        """
        Ask C{alive} soon, but at most once in 5 s, because the backend has replied with an
        error of its own.  After two noes in a row the backend counts as dead.
        """
        self._watches[model].ask_soon()

    def abort_exchanges(
        self, model: Model, why: str, reason: str, *, may_wait_again: bool = False
    ) -> None:
        """Abort the requests in flight to this model."""
        for guard in list(model.guards):
            self.metrics.exchange_aborted(model.name, reason)
            abort = guard.on_abort
            guard.may_wait_again = may_wait_again
            if abort is not None:
                abort(why)
            # If the holder of the guard has set no function to abort, it is released here.
            guard.release(answered=False)

    # -------------------------------------------------------------- the stories

    def choose_place(self, model: Model, place: int) -> None:
        """Tell the model's hooks in which place a switch is to wake the model."""
        if self._place_notes is not None:
            self._place_notes.choose_place(model.name, place)

    def clean_up(self, model: Model, failed_try: float | None = None) -> None:
        """Begin to put a model to sleep that may be awake and must not be."""
        Cleaning(self, model, failed_try).begin()

    def check(self, model: Model) -> None:
        """Begin to ask whether a model in doubt is alive."""
        Check(self, model).begin()

    def room_changed(self) -> None:
        """Tell the adoptions that a model has released what it held."""
        if self._adoption is not None:
            self._adoption.room_changed()
        self.reconfiguration.room_changed()

    def slept(self, model: Model) -> None:
        """Note that the model's sleep hook has succeeded."""
        self._watches[model.name].slept()
        self.errands.slept(model)

    def is_quiet(self) -> bool:
        """Tell whether nothing is in flight, no request waits, and no story runs."""
        return not (self._requests.in_flight or self.wanted or self.stories)

    # ------------------------------------------------------ asking the policy

    def consider(self) -> None:
        """Ask the policy, because something has changed, until it changes nothing more."""
        if not self._questions.asking:
            self.reconfiguration.look()
        self._questions.consider()
        if self.stopping:
            self._shutdown.something_ended()
