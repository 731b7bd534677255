"""
This module runs the scripts that wake a model, put a model to sleep and ask
whether a model is awake.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IProcessTransport
from twisted.logger import Logger
from zope.interface import implementer

from llmux.backend.whereabouts import Address
from llmux.config import ModelConfig
from llmux.hooks.persistence.places import Places
from llmux.hooks.persistence.state import StateDirectory, WakeNote, end_group
from llmux.hooks.runs.environment import HookEnvironment
from llmux.hooks.runs.hook_process import GRACE, HookMetrics, HookProcess, IRunReactor
from llmux.hooks.runs.lines import LineBudget
from llmux.hooks.runs.spawn import SHELL, ISessionReactor, Spawner, spawn_session
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook, IWakeNotes
from llmux.monitoring.output_ring import OutputRing

__all__ = ["HookRunner", "IHookReactor"]

_log = Logger()


class IHookReactor(IRunReactor, ISessionReactor):
    """A reactor that a hook runner can be given has these interfaces."""


@implementer(IHookRunner, IWakeNotes)
class HookRunner:
    """
    This runner runs hooks as C{sh -c SCRIPT}, each in a session of its own, with an empty
    input.  L{HookProcess} says what ends a hook.

    @ivar environment: the maker of hooks' environments.
    @ivar budget: the budget of lines that may be logged.
    """

    def __init__(
        self,
        reactor: IHookReactor,
        models: Mapping[str, ModelConfig],
        directory: str,
        *,
        state: StateDirectory | None = None,
        addresses: Mapping[str, Address] | None = None,
        places: Places | None = None,
        notes: bool = True,
        metrics: HookMetrics | None = None,
        grace: float = GRACE,
        spawn: Spawner | None = None,
        ring: OutputRing | None = None,
    ) -> None:
        """
        @param directory: the directory in which hooks run.
        @param state: the state directory, in which each model has a directory of its own;
            without it there is no C{LLMUX_STATE}, and no note of wakes.
        @param addresses: the addresses of the backends, as they are now, for C{LLMUX_PORT}.
        @param places: the places of the models; None if there are no resources.
        @param notes: whether notes of wakes are written and read.
        @param grace: seconds from TERM to KILL.
        @param spawn: the spawner, see L{llmux.hooks.runs.spawn}; by default L{spawn_session}.
        @param ring: the ring that keeps what hooks write; or None.
        """
        self._reactor = reactor
        self._models = models
        self._directory = directory
        self._state = state
        self._notes = state if notes else None
        self._metrics = metrics
        self._grace = grace
        self._spawn = spawn_session(reactor) if spawn is None else spawn
        self.budget = LineBudget(reactor, ring)
        self.environment = HookEnvironment(models, state, addresses, places)
        self._noted: set[str] = set()
        self._notes_of_others: dict[str, WakeNote] | None = None
        self._ended: Deferred[None] | None = None

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        """
        Start a hook under its time limit.

        @raise KeyError: there is no such model.
        @raise ValueError: the model has no such script.
        """
        config = self._models[model]
        script, limit = {
            HookKind.WAKE: (config.wake, config.wake_timeout_secs),
            HookKind.SLEEP: (config.sleep, config.sleep_timeout_secs),
            HookKind.ALIVE: (config.alive, config.alive_timeout_secs),
            HookKind.PREPARE: (config.prepare, config.wake_timeout_secs),
        }[hook]
        if script is None:
            raise ValueError(f"{model} has no {hook.value} script")
        run = HookProcess(
            self._reactor,
            self.budget,
            model,
            hook,
            limit,
            grace=self._grace,
            metrics=self._metrics,
        )

        def start(run: HookProcess) -> IProcessTransport:
            if self._state is not None and self._ended is None:
                self.end_interrupted()
            variables = self.environment.variables(model, hook.value, limit)
            if hook is HookKind.WAKE and self._notes is not None:
                # The note is written before the script starts, because llmux may be killed at
                # any moment.
                self._notes.note_wake(model)
            return self._start(run, script, variables)

        run.start(start)
        if self._notes is not None:
            self._keep_note(self._notes, model, hook, run)
        return run

    def _start(
        self, run: HookProcess, script: str, environment: Mapping[bytes, bytes]
    ) -> IProcessTransport:
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return self._spawn(
                run,
                SHELL,
                [SHELL, "-c", "--", script],
                env=environment,
                path=self._directory,
                childFDs={0: nothing, 1: "r", 2: "r"},
            )
        finally:
            os.close(nothing)

    # IWakeNotes

    @property
    def interrupted(self) -> frozenset[str]:
        """See L{IWakeNotes}."""
        return frozenset(self._interrupted())

    def end_interrupted(self) -> Deferred[None]:
        """See L{IWakeNotes.end_interrupted}."""
        if self._ended is None:
            self._ended = Deferred.fromCoroutine(self._end_interrupted())
        waiter: Deferred[None] = Deferred()
        self._ended.addCallback(lambda _: waiter.callback(None))
        return waiter

    def _interrupted(self) -> dict[str, WakeNote]:
        if self._notes_of_others is None:
            self._notes_of_others = {}
            if self._notes is not None:
                self._notes_of_others = self._notes.interrupted_wakes(self._models)
            self._noted.update(self._notes_of_others)
        return self._notes_of_others

    async def _end_interrupted(self) -> None:
        notes = self._interrupted()
        for model, note in notes.items():
            _log.warn(
                "llmux ended before it was known whether {model} had woken"
                + ("" if note.hook_is_gone else "; its wake hook still runs and is ended now"),
                event="wake_interrupted",
                model=model,
            )
        await DeferredList(
            [
                Deferred.fromCoroutine(end_group(note, self._reactor, self._grace))
                for note in notes.values()
            ]
        )

    def _keep_note(
        self,
        state: StateDirectory,
        model: str,
        hook: HookKind,
        run: HookProcess,
    ) -> None:
        """
        Keep a note on disk from a wake hook's start until it is known whether the model is
        awake, which is when its alive hook has said yes, or its sleep hook has succeeded.
        """
        if hook is HookKind.WAKE:
            if run.pid is None:
                state.forget_wake(model)
            else:
                state.note_wake(model, run.pid)
                self._noted.add(model)
        elif model in self._noted and hook is not HookKind.PREPARE:

            def ended(result: HookResult) -> HookResult:
                if result.ok:
                    self.wake_is_known(model)
                return result

            run.exited.addCallback(ended)

    def wake_is_known(self, model: str) -> None:
        """Remove the note of a model's wake, because the result of the wake is known."""
        if self._notes is not None and model in self._noted:
            self._noted.discard(model)
            self._notes.forget_wake(model)
