"""
The parts of llmux, put together from a configuration.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.web.resource import IResource

from llmux.admin.doors import Door
from llmux.admin.entrance import Entrance
from llmux.backend.pool import BackendPool
from llmux.backend.whereabouts import Whereabouts
from llmux.config import Config, ModelConfig
from llmux.config.room import room_of
from llmux.hooks.assembly import assemble_hooks
from llmux.hooks.command_notes import CommandNotes
from llmux.hooks.state import state_path
from llmux.interfaces import IHookRunner, IPlaceNotes, ISwitchPolicy, IWakeNotes, Needs
from llmux.monitoring.metrics import Metrics
from llmux.monitoring.output_ring import OutputRing
from llmux.monitoring.request_journal import RequestJournal
from llmux.policy.catalog import find_policy
from llmux.proxy.drop_connections import ConnectionDroppingHooks
from llmux.proxy.endpoints import NothingElse, Root
from llmux.proxy.model_list import ModelList, listed_names
from llmux.proxy.refusals import RefusalLog
from llmux.proxy.resource import ProxyResource
from llmux.proxy.switching import SwitchingResource
from llmux.switching.idleness import DefaultModel
from llmux.switching.lasting import LastingCommands
from llmux.switching.settings import ModelSettings, SwitchSettings
from llmux.switching.switcher import ModelSwitcher

if TYPE_CHECKING:
    from llmux.admin.administration import Administration
    from llmux.proxy.naming.names import Names

__all__ = ["App", "assemble", "build_app", "build_policy", "model_settings_of", "settings_of"]

_SCRIPT_POLLS = (0.1, 1.0)
_HEALTH_POLLS = (0.02, 0.02)
"""Seconds from one question to the next while a model wakes: the first pause, and the longest.
A question of ours starts no process."""

_LOOK_AFTER_SLEEP = 2.0
"""Seconds after a successful sleep hook after which alive is asked whether that is so."""


@dataclass(frozen=True, slots=True)
class App:
    """
    The parts that whoever opens llmux to clients needs.

    @ivar root: the root of the Resource tree where clients connect.
    @ivar listing: answers for the list of models.
    @ivar door: stands for the listener where clients connect.
    @ivar entrance: leads to what is under /llmux.
    @ivar refusals: logs the errors that clients are answered with.
    """

    config: Config
    root: IResource
    listing: IResource
    switcher: ModelSwitcher
    metrics: Metrics
    door: Door
    entrance: Entrance
    refusals: RefusalLog
    reactor: Any

    def root_behind(self, door: Door) -> IResource:
        """Make the root of another listener's tree: our own paths, and no models."""
        refusals = self.refusals
        return Root(
            self.listing,
            NothingElse(refusals),
            self.metrics,
            self.reactor,
            refusals,
            self.entrance.behind(door),
            self.switcher.reason_not_ready,
        )


def build_app(
    config: Config,
    reactor: Any,
    *,
    hooks: IHookRunner | None = None,
    metrics: Metrics | None = None,
) -> tuple[IResource, ModelSwitcher]:
    """
    Give the root of the Resource tree, for any Site, and the switcher, which
    decides which model is awake.  Nothing runs before the switcher's C{start},
    or before the first request that names a model.

    What is under /llmux shows itself to nobody there, because nobody knows who
    can reach the Site; see L{assemble}.

    @param hooks: runs the scripts; a runner of the configuration's scripts if None.
    @param metrics: counts what happens; a new one if None.
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
    Put the parts together, as L{build_app} does, and give all that are needed to
    open further doors.
    """
    metrics = Metrics() if metrics is None else metrics
    refusals = RefusalLog(reactor)
    journal = RequestJournal()
    ring = OutputRing(reactor.seconds)
    pool = BackendPool(reactor)
    models = config.models
    whereabouts = Whereabouts({name: model.address for name, model in models.items()})
    notes = IWakeNotes(hooks, None)
    places: IPlaceNotes | None = IPlaceNotes(hooks, None)
    room = room_of(config)
    assembled = None
    lasting = None
    if hooks is None:
        assembled = assemble_hooks(config, reactor, whereabouts, metrics=metrics, ring=ring)
        lasting = LastingCommands(reactor, CommandNotes(state_path(config)), time.time)
        hooks, notes = assembled.hooks, assembled.notes
        places = assembled.places
    switcher = ModelSwitcher(
        reactor,
        ConnectionDroppingHooks(hooks, pool, whereabouts.addresses),
        build_policy(config),
        {name: model_settings_of(model, room.places[name]) for name, model in models.items()},
        settings_of(config),
        metrics,
        resources=room.resources,
        wake_notes=notes,
        place_notes=places,
        lasting=lasting,
        preload=config.preload,
        default=None
        if config.default_model is None
        else DefaultModel(config.default_model, config.default_after_secs),
    )
    switcher.call_when_stopped(pool.close)
    if assembled is not None:
        switcher.call_when_stopped(assembled.close)
    proxy = ProxyResource(
        pool,
        whereabouts.addresses,
        reactor,
        others_wait=switcher.others_wait,
        client_stall_timeout=config.client_stall_timeout_secs,
        first_byte_timeouts={
            name: model.first_byte_timeout_secs for name, model in models.items()
        },
        refusals=refusals,
        listed=listed_names(models),
    )
    whereabouts.call_when_moved(proxy.backend_moved)
    whereabouts.call_when_vacated(pool.drop)
    switching = SwitchingResource(
        proxy,
        switcher,
        reactor,
        max_body=config.max_body_mb * 2**20,
        metrics=metrics,
        refusals=refusals,
        journal=journal,
        names=_names_of(models),
    )
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
            entrance.doors,
            started=started,
            policy=config.policy.name,
            backends=whereabouts.addresses,
            names=config.names(),
            max_wait=getattr(config.policy.settings, "max_wait_secs", None),
            control=entrance.control,
            verbs=entrance.verbs,
        )

    entrance = Entrance(administration, lambda: NothingElse(refusals))
    entrance.control = switcher.steering
    switcher.call_when_stopped(entrance.close)
    door = Door(has_admin=config.admin.listen is None)
    listing = ModelList(refusals, models, lambda: switcher.models)
    root = Root(
        listing,
        switching,
        metrics,
        reactor,
        refusals,
        entrance.behind(door),
        switcher.reason_not_ready,
    )
    return App(config, root, listing, switcher, metrics, door, entrance, refusals, reactor)


def _names_of(models: Mapping[str, ModelConfig]) -> Names | None:
    """Give what the names stand for; None where that is plain."""
    if all(model.is_plain for model in models.values()):
        return None
    from llmux.proxy.naming.names import names_of

    return names_of(models)


def settings_of(config: Config) -> SwitchSettings:
    """Give the switcher's settings that a configuration asks for."""
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
    What a model's configuration wants of the switcher.

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


def build_policy(config: Config) -> ISwitchPolicy:
    """
    Give the policy that a configuration asks for.

    @raise ValueError: one of its settings is out of range.
    """
    policy = config.policy
    factory = find_policy(policy.name)
    settings = policy.settings
    if settings is None and factory.settings is not None:
        # A PolicyConfig that was not read from a file, but made by hand.
        settings = factory.settings()
    return factory.build(config.policy_context(), settings)
