"""This module makes the parts of llmux from a configuration, and connects them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from twisted.web.resource import IResource

from llmux.admin.entrance import Entrance
from llmux.admin.listen_address import ListenAddress
from llmux.backend.pool import BackendPool
from llmux.backend.whereabouts import Whereabouts
from llmux.config import Config, ModelConfig
from llmux.config.room import room_of
from llmux.hooks.assembly import assemble_hooks
from llmux.hooks.generations import HookGenerations
from llmux.hooks.persistence.command_notes import CommandNotes
from llmux.hooks.persistence.state import state_path
from llmux.interfaces import (
    IHookRunner,
    ILearningPolicy,
    IPlaceNotes,
    ISwitchPolicy,
    IWakeNotes,
    Needs,
    Phase,
)
from llmux.monitoring.metrics import Metrics
from llmux.monitoring.output_ring import OutputRing
from llmux.monitoring.request_journal import RequestJournal
from llmux.policy.catalog import find_policy
from llmux.proxy.drop_connections import ConnectionDroppingHooks
from llmux.proxy.endpoints import NothingElse, Root
from llmux.proxy.model_list import ModelList, listed_names
from llmux.proxy.refusals import RefusalLog
from llmux.proxy.resource import ProxyResource
from llmux.proxy.switching_resource import SwitchingResource
from llmux.switching.facts.settings import ModelSettings, SwitchSettings
from llmux.switching.reconfiguration import Arrangement
from llmux.switching.switcher import ModelSwitcher
from llmux.switching.wishes.idleness import DefaultModel
from llmux.switching.wishes.lasting import LastingCommands

if TYPE_CHECKING:
    from llmux.admin.administration import Administration
    from llmux.proxy.naming.names import Names

__all__ = ["App", "assemble", "build_app", "build_policy", "model_settings_of", "settings_of"]

_SCRIPT_POLLS = (0.1, 1.0)
_HEALTH_POLLS = (0.02, 0.02)
"""
While a model wakes, the pause between two questions to alive grows from the first number of
seconds to the second.  A question by HTTP starts no process, so its pauses are short.
"""

_LOOK_AFTER_SLEEP = 2.0
"""
This many seconds after a successful sleep hook, alive is asked whether the model really sleeps.
"""


class App(Struct):
    """
    An L{App} has the parts that are needed to open llmux to clients.

    @ivar root: the root of the Resource tree where clients connect.
    @ivar listing: the Resource of the list of models.
    @ivar listen_address: the address where clients connect.
    @ivar entrance: the way to the Resources under C{/llmux}.
    @ivar refusals: the log of the errors that clients get.
    """

    config: Config
    root: Root
    listing: ModelList
    switcher: ModelSwitcher
    metrics: Metrics
    listen_address: ListenAddress
    entrance: Entrance
    refusals: RefusalLog
    reactor: Any
    parts: _Parts

    def root_at(self, listen_address: ListenAddress) -> IResource:
        """Make the root of another listener's tree, with llmux' own paths, and no models."""
        refusals = self.refusals
        return Root(
            self.listing,
            NothingElse(refusals),
            self.metrics,
            self.reactor,
            refusals,
            self.entrance.resource_at(listen_address),
            self.switcher.reason_not_ready,
        )

    def reconfigure(self, config: Config) -> None:
        """
        Go on with another configuration.  Its C{admin} and C{state_dir} must be unchanged.

        @raise ValueError: a model that is pinned is not in the configuration, or a setting
            of its policy is out of range; nothing has changed then.
        """
        parts, switcher = self.parts, self.switcher
        models = config.models
        # What may raise comes before the first effect, and before hooks that must be closed.
        switcher.reconfiguration.check(models)
        leaving = [name for name in switcher.models if name not in models]
        policy = _next_policy(self.config, config, switcher.policy, leaving)
        latest = None
        if parts.hooks is not None:
            latest = assemble_hooks(
                config,
                self.reactor,
                parts.whereabouts,
                is_first=False,
                metrics=self.metrics,
                ring=parts.ring,
            )
        asleep = [
            name
            for name, model in switcher.models.items()
            if name in models and model.phase is Phase.ASLEEP and not model.busy
        ]
        self.config = config
        parts.whereabouts.configure({name: model.address for name, model in models.items()})
        if parts.hooks is not None and latest is not None:
            parts.hooks.renew(latest, asleep)
        parts.proxy.reconfigure(
            parts.whereabouts.addresses,
            client_stall_timeout=config.client_stall_timeout_secs,
            first_byte_timeouts=_first_byte_timeouts(models),
            listed=listed_names(models),
        )
        switching = parts.switching_resource(config)
        self.listing.reconfigure(models)
        self.root.replace(self.listing, switching)
        switcher.reconfiguration.begin(arrangement_of(config), policy)
        self.entrance.reconfigured(
            config.policy.name,
            config.names(),
            getattr(config.policy.settings, "max_wait_secs", None),
        )


class _Parts(Struct, frozen=True):
    """L{_Parts} are the other parts of an L{App}, which exist as long as the process."""

    pool: BackendPool
    whereabouts: Whereabouts
    proxy: ProxyResource
    switcher: ModelSwitcher
    hooks: HookGenerations | None
    metrics: Metrics
    refusals: RefusalLog
    journal: RequestJournal
    ring: OutputRing
    reactor: Any

    def switching_resource(self, config: Config) -> SwitchingResource:
        """Make the Resource through which requests reach the models of a configuration."""
        return SwitchingResource(
            self.proxy,
            self.switcher,
            self.reactor,
            max_body=config.max_body_mb * 2**20,
            metrics=self.metrics,
            refusals=self.refusals,
            journal=self.journal,
            names=_names_of(config.models),
        )


def build_app(
    config: Config,
    reactor: Any,
    *,
    hooks: IHookRunner | None = None,
    metrics: Metrics | None = None,
) -> tuple[IResource, ModelSwitcher]:
    """
    Return the root of the Resource tree, for any Site, and the switcher, which decides which
    models are awake.  Nothing runs before the switcher's C{start}, or before the first request
    that names a model.

    The paths under C{/llmux} are not shown at that Site, because llmux does not know who can
    reach it; see L{assemble}.

    @param hooks: the runner of the scripts; if None, a runner of the configuration's scripts.
    @param metrics: the metrics; if None, new ones.
    """
    app = assemble(config, reactor, hooks=hooks, metrics=metrics)
    return app.root, app.switcher


def assemble(
    config: Config,
    reactor: Any,
    *,
    hooks: IHookRunner | None = None,
    metrics: Metrics | None = None,
) -> App:
    """
    Make and connect the parts, as L{build_app} does, and return all that are needed to open
    further listen addresses.
    """
    metrics = Metrics() if metrics is None else metrics
    refusals = RefusalLog(reactor)
    journal = RequestJournal()
    ring = OutputRing(reactor.seconds)
    pool = BackendPool(reactor)
    models = config.models
    whereabouts = Whereabouts({name: model.address for name, model in models.items()})
    notes = IWakeNotes(hooks, None)
    places = IPlaceNotes(hooks, None)
    generations = None
    lasting = None
    if hooks is None:
        hooks = notes = places = generations = HookGenerations(
            assemble_hooks(config, reactor, whereabouts, metrics=metrics, ring=ring),
            models,
            whereabouts.reset,
        )
        lasting = LastingCommands(reactor, CommandNotes(state_path(config)), time.time)
    arrangement = arrangement_of(config)
    switcher = ModelSwitcher(
        reactor,
        ConnectionDroppingHooks(hooks, pool, whereabouts.addresses),
        build_policy(config),
        arrangement.models,
        arrangement.settings,
        metrics,
        resources=arrangement.resources,
        wake_notes=notes,
        place_notes=places,
        lasting=lasting,
        preload=arrangement.preload,
        default=arrangement.default,
    )
    switcher.call_when_stopped(pool.close)
    proxy = ProxyResource(
        pool,
        whereabouts.addresses,
        reactor,
        others_wait=switcher.others_wait,
        client_stall_timeout=config.client_stall_timeout_secs,
        first_byte_timeouts=_first_byte_timeouts(models),
        refusals=refusals,
        listed=listed_names(models),
    )
    whereabouts.call_when_moved(proxy.backend_moved)
    whereabouts.call_when_vacated(pool.drop)
    if generations is not None:
        switcher.call_when_stopped(generations.close)
        switcher.call_when_forgotten(generations.forget)
    switcher.call_when_forgotten(whereabouts.forget)
    switcher.call_when_forgotten(proxy.backend_forgotten)
    switcher.call_when_forgotten(ring.forget)
    parts = _Parts(
        pool,
        whereabouts,
        proxy,
        switcher,
        generations,
        metrics,
        refusals,
        journal,
        ring,
        reactor,
    )
    switching = parts.switching_resource(config)
    started = reactor.seconds()

    def administration(entrance: Entrance) -> Administration:
        from llmux.admin.administration import Administration

        return Administration(
            switcher,
            metrics,
            refusals,
            journal,
            ring,
            reactor,
            entrance.listen_addresses,
            started=started,
            policy=app.config.policy.name,
            backends=whereabouts.addresses,
            names=app.config.names(),
            max_wait=getattr(app.config.policy.settings, "max_wait_secs", None),
            control=entrance.control,
        )

    entrance = Entrance(administration, lambda: NothingElse(refusals), switcher.steering)
    switcher.call_when_stopped(entrance.close)
    listen_address = ListenAddress(has_admin=config.admin.listen is None)
    listing = ModelList(refusals, models, lambda: switcher.models)
    root = Root(
        listing,
        switching,
        metrics,
        reactor,
        refusals,
        entrance.resource_at(listen_address),
        switcher.reason_not_ready,
    )
    app = App(
        config,
        root,
        listing,
        switcher,
        metrics,
        listen_address,
        entrance,
        refusals,
        reactor,
        parts,
    )
    return app


def _first_byte_timeouts(models: Mapping[str, ModelConfig]) -> Mapping[str, float | None]:
    return {name: model.first_byte_timeout_secs for name, model in models.items()}


def arrangement_of(config: Config) -> Arrangement:
    """Return what a configuration asks of the switcher, except for its policy."""
    room = room_of(config)
    default = config.default_model
    return Arrangement(
        {
            name: model_settings_of(model, room.places[name])
            for name, model in config.models.items()
        },
        settings_of(config),
        room.resources,
        config.preload,
        None if default is None else DefaultModel(default, config.default_after_secs),
    )


def _next_policy(
    before: Config, after: Config, policy: ISwitchPolicy, leaving: Iterable[str]
) -> tuple[ISwitchPolicy, bool] | None:
    """
    Make the policy that a changed configuration asks for, and tell whether it knows what the
    present policy knows; None if the present policy may stay.

    @param leaving: the models that are not configured any more, and not asleep yet.
    @raise ValueError: a setting is out of range.
    """
    if before.policy_context() == after.policy_context() and before.policy == after.policy:
        return None
    latest = build_policy(after, leaving)
    heir = ILearningPolicy(latest, None)
    if before.policy.name != after.policy.name or heir is None:
        return latest, False
    heir.learn_from(policy)
    return latest, True


def _names_of(models: Mapping[str, ModelConfig]) -> Names | None:
    """Return what the names of models stand for; None if each model has only its own name."""
    if all(model.is_plain for model in models.values()):
        return None
    from llmux.proxy.naming.names import names_of

    return names_of(models)


def settings_of(config: Config) -> SwitchSettings:
    """Return the switcher's settings that a configuration asks for."""
    policy = config.policy
    return SwitchSettings(
        request_timeout=policy.request_timeout_secs,
        drain_before_switch=policy.drain_before_switch,
        min_active=policy.min_active_secs,
        drain_timeout=policy.drain_timeout_secs,
        shutdown_timeout=config.shutdown_timeout_secs,
        sleep_on_exit=config.sleep_on_exit,
        abandon_wake=config.abandon_wake_secs,
        look_after_sleep=_LOOK_AFTER_SLEEP,
    )


def model_settings_of(model: ModelConfig, places: Sequence[Needs]) -> ModelSettings:
    """
    Return what a model's configuration asks of the switcher.

    @param places: what the model needs, in each of its places.
    """
    return ModelSettings(
        wake_timeout=model.wake_timeout_secs,
        sleep_timeout=model.sleep_timeout_secs,
        confirm_sleep=model.confirm_sleep,
        check=model.check_secs,
        places=places,
        always=model.keep is not None,
        idle_sleep=model.idle_sleep_secs,
        prepares=model.prepare is not None,
        polls=_SCRIPT_POLLS if model.alive is not None else _HEALTH_POLLS,
    )


def build_policy(config: Config, leaving: Iterable[str] = ()) -> ISwitchPolicy:
    """
    Make the policy that a configuration asks for.

    @param leaving: models of an earlier configuration, of which the policy may still get
        events, and which it cannot wake.
    @raise ValueError: one of its settings is out of range.
    """
    policy = config.policy
    factory = find_policy(policy.name)
    settings = policy.settings
    if settings is None and factory.settings is not None:
        # This PolicyConfig was not read from a file, but made by a program.
        settings = factory.settings()
    context = config.policy_context()
    if leaving:
        context = msgspec.structs.replace(
            context,
            weights={**context.weights, **dict.fromkeys(leaving, 1.0)},
            places={**context.places, **{name: ({},) for name in leaving}},
        )
    return factory.build(context, settings)
