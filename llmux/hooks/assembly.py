"""This module puts together the hook runner that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from llmux.backend.whereabouts import Whereabouts
from llmux.config import Config
from llmux.config.room import room_of
from llmux.hooks.backend_file import AddressReading
from llmux.hooks.persistence.places import PlaceKeeping, Places
from llmux.hooks.persistence.process_table import SystemProcesses
from llmux.hooks.persistence.state import SERVER_RECORD, StateDirectory, state_path
from llmux.hooks.runner import HookRunner
from llmux.hooks.runs.hook_process import HookMetrics
from llmux.hooks.runs.spawn import spawn_session
from llmux.interfaces import IHookRunner, IPlaceNotes, IWakeNotes
from llmux.monitoring.output_ring import OutputRing

__all__ = ["AssembledHooks", "assemble_hooks"]


class AssembledHooks(Struct, frozen=True):
    """
    L{AssembledHooks} are a hook runner and what belongs to it.

    @ivar hooks: the runner of the hooks of all models.
    @ivar notes: the notes of wakes that an earlier llmux had begun.
    @ivar places: the places of the models; None if the configuration has no resources.
    @ivar close: a function that must be called when no hook will be started any more; it may be
        called again.
    """

    hooks: IHookRunner
    notes: IWakeNotes
    places: IPlaceNotes | None
    close: Callable[[], None]


def assemble_hooks(
    config: Config,
    reactor: Any,
    whereabouts: Whereabouts,
    *,
    serves: bool = True,
    is_first: bool = True,
    metrics: HookMetrics | None = None,
    ring: OutputRing | None = None,
) -> AssembledHooks:
    """
    Make the hook runner of a configuration.

    @param whereabouts: the addresses of the backends, which hooks may change.
    @param serves: whether this llmux serves by the configuration.  Only then are notes of wakes
        written and read, and is the output of servers that were found running logged.
    @param is_first: whether this llmux has had no other configuration.  Only then may a server
        of a model that is not configured be a stray; later, an earlier configuration's hooks
        end that server.
    @param metrics: an object that counts the results of hooks.
    @param ring: the ring that keeps what hooks write.
    """
    models = config.models
    state = StateDirectory(state_path(config))
    room = room_of(config)
    places = None
    if room.is_configured:
        places = Places(room, state if serves else None)
    closing: list[Callable[[], None]] = []
    runner = HookRunner(
        reactor,
        models,
        config.directory,
        state=state,
        addresses=whereabouts.addresses,
        places=places,
        notes=serves,
        metrics=metrics,
        ring=ring,
    )
    hooks: IHookRunner = runner
    if any(model.alive is None for model in models.values()):
        from llmux.hooks.health import HealthAsking, health_pool

        probes = health_pool(reactor)
        closing.append(whereabouts.call_when_vacated(probes.drop))
        closing.append(probes.close)
        hooks = HealthAsking(
            hooks,
            reactor,
            probes,
            models,
            whereabouts.addresses,
            metrics,
            runner.wake_is_known,
        )
    served = {name: model for name, model in models.items() if model.serve is not None}
    if len(served) < len(models):
        scripts = {name: model for name, model in models.items() if name not in served}
        hooks = AddressReading(hooks, reactor, state, scripts, whereabouts)
    if served:
        from llmux.hooks.serving.serve import ServeHooks

        hooks = servers = ServeHooks(
            hooks,
            reactor,
            spawn_session(reactor),
            SystemProcesses(),
            served,
            config.directory,
            state=state,
            whereabouts=whereabouts,
            environment=runner.environment,
            budget=runner.budget,
            metrics=metrics,
            serves=serves,
        )
        closing.append(servers.close)
    if places is not None and serves:
        hooks = PlaceKeeping(hooks, places)

    if serves and is_first:
        known = {state.path_of(model) for model in served}
        strays = [path for path in state.having(SERVER_RECORD) if path not in known]
        if strays:
            from llmux.hooks.serving.stray_servers import tell_of_strays

            tell_of_strays(strays, SystemProcesses())

    def close() -> None:
        while closing:
            closing.pop(0)()

    return AssembledHooks(hooks, runner, places, close)
