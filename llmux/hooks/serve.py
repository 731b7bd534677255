"""
The hooks of models that have one line in place of three scripts: C{serve}, the
command of their server.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from functools import partial

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from llmux.backend.whereabouts import Whereabouts
from llmux.config import ModelConfig
from llmux.hooks.answered import AnsweredHook
from llmux.hooks.environment import HookEnvironment
from llmux.hooks.free_port import can_listen, find_free_port
from llmux.hooks.hook_process import (
    GRACE,
    LOOK,
    STOPPED,
    HookMetrics,
    IRunReactor,
    report_result,
)
from llmux.hooks.lines import LineBudget
from llmux.hooks.process_table import ProcessTable
from llmux.hooks.server import ModelServer
from llmux.hooks.spawn import Spawner
from llmux.hooks.state import StateDirectory
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook

__all__ = ["ServeHooks"]

_NO = 1
"""The exit status of an alive script that would have said the same."""

_POLL = 0.02
"""Seconds from one question of health to the next while a server gets ready."""

_SAID_JUST_NOW = 0.01
"""Seconds for which a yes is not asked for again."""

_FIRST_LOOK = 0.005
"""Seconds from TERM to the first look whether a server has gone; then longer, up to C{LOOK}."""

_MORE = 1.5

_PATIENCE = 20
"""Looks, C{LOOK} apart, after which the status of a process that is gone is given up."""

_log = Logger()


class _CannotServe(Exception):
    """No server was started.  The message says why, in a few words fit for a client."""


@implementer(IHookRunner)
class ServeHooks:
    """
    A hook runner that starts, stops and asks the servers of models that have a
    C{serve} command, and has another runner run all other hooks.

    I{Wake} starts the server, and ends when its health says yes; it fails when
    the server ends.  I{Sleep} sends TERM to the server's group, and KILL to
    what is left after C{stop_secs}; it succeeds when nothing is left.
    I{Alive} is no when the server does not run, and else what its health says.
    But a server that runs, and has not said yes to this llmux, or has been told
    to end, never says no: it holds what it has taken.
    """

    def __init__(
        self,
        hooks: IHookRunner,
        reactor: IRunReactor,
        spawn: Spawner,
        table: ProcessTable,
        models: Mapping[str, ModelConfig],
        directory: str,
        *,
        state: StateDirectory,
        whereabouts: Whereabouts,
        environment: HookEnvironment,
        budget: LineBudget,
        metrics: HookMetrics | None = None,
        serves: bool = True,
    ) -> None:
        """
        @param hooks: runs all other hooks, and answers C{alive} of these models by
            asking for their health.
        @param spawn: starts processes, see L{llmux.hooks.spawn}.
        @param models: those with a C{serve} command.
        @param directory: where the commands run.
        @param serves: this llmux serves by the configuration: it logs what servers write
            that it finds running, and ends what is left of those whose first process has
            gone.
        """
        self.reactor = reactor
        self.spawn = spawn
        self.directory = directory
        self.environment = environment
        self.whereabouts = whereabouts
        self.metrics = metrics
        self._hooks = hooks
        self._models = models
        self._serves = serves
        self._servers = {
            name: ModelServer(
                reactor, table, budget, name, partial(state.model_directory, name)
            )
            for name in models
        }

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        """See L{IHookRunner.start}."""
        if model not in self._servers or hook is HookKind.PREPARE:
            running: IRunningHook = self._hooks.start(model, hook)
            return running
        server, config = self._servers[model], self._models[model]
        try:
            if server.look_up(self._serves) and server.record is not None and server.runs:
                self.whereabouts.move(model, (config.host, server.record.port))
        except OSError as error:
            reason = f"the model's directory cannot be used: {error.strerror or error}"
            return self._answer(model, hook, HookResult(None, False, 0.0, reason))
        if hook is HookKind.ALIVE:
            return self._ask(model, server)
        run: _ServerRun
        if hook is HookKind.WAKE:
            run = _Wake(self, model, config, server)
        else:
            run = _Sleep(self, model, config, server)
        run.begin()
        return run

    def close(self) -> None:
        """Follow no server's output any more: llmux ends."""
        for server in self._servers.values():
            server.close()

    def question(self, model: str) -> IRunningHook:
        """Ask for the health of a server that runs."""
        running: IRunningHook = self._hooks.start(model, HookKind.ALIVE)
        return running

    def ports_in_use(self) -> set[int]:
        """The ports of the servers that have been started."""
        return {s.record.port for s in self._servers.values() if s.record is not None}

    def _ask(self, model: str, server: ModelServer) -> IRunningHook:
        if not server.runs:
            server.found_gone()
            if self._serves and server.lives:
                server.signal(signal.SIGKILL)
            return self._answer(model, HookKind.ALIVE, _gone(0.0))
        since = self.reactor.seconds() - server.said_yes_at
        if server.said_yes and since < _SAID_JUST_NOW:
            # The wake has ended with that answer.
            return AnsweredHook(self.reactor, HookResult(0, False, 0.0, "ready"))
        question = self.question(model)

        def answered(result: HookResult) -> HookResult:
            if result.ok:
                server.said_yes = True
            elif not server.runs:
                return _gone(result.duration)
            elif result.says_no and not server.said_yes:
                reason = f"its server runs, but {result.reason}"
                return msgspec.structs.replace(result, exit_code=os.EX_TEMPFAIL, reason=reason)
            return result

        question.exited.addCallback(answered)
        return question

    def _answer(self, model: str, hook: HookKind, result: HookResult) -> IRunningHook:
        report_result(model, hook, result, self.metrics)
        return AnsweredHook(self.reactor, result)


def _gone(duration: float) -> HookResult:
    return HookResult(_NO, False, duration, "its server does not run")


@implementer(IRunningHook)
class _ServerRun:
    """
    A hook that starts or ends a server.

    @ivar ended_for: why this hook is to end by force; None as long as it is not.
    """

    kind: HookKind
    limit: float

    def __init__(
        self, hooks: ServeHooks, model: str, config: ModelConfig, server: ModelServer
    ) -> None:
        self.exited: Deferred[HookResult] = Deferred()
        self.hooks = hooks
        self.model = model
        self.config = config
        self.server = server
        self.clock = hooks.reactor
        self.ended_for: str | None = None
        self._timed_out = False
        self._began = self.clock.seconds()
        self._waits: Deferred[None] | None = None

    def begin(self) -> None:
        """Run, from the next turn of the reactor on."""
        deadline = self.clock.callLater(self.limit, self._time_out)
        begun: Deferred[None] = deferLater(self.clock, 0)
        told = begun.addCallback(lambda _: Deferred.fromCoroutine(self.run()))
        told.addErrback(self._broke)

        def end(result: HookResult) -> None:
            if deadline.active():
                deadline.cancel()
            report_result(self.model, self.kind, result, self.hooks.metrics)
            self.exited.callback(result)

        told.addCallback(end)

    async def run(self) -> HookResult:
        """Do what this hook is for, to be written by subclasses."""
        raise NotImplementedError

    def kill(self) -> None:
        """See L{IRunningHook.kill}."""
        self._end_by_force(STOPPED)

    def _time_out(self) -> None:
        if self.ended_for is None:
            self._timed_out = True
        self._end_by_force(f"time limit of {self.limit:g} s")

    def _end_by_force(self, reason: str) -> None:
        if self.ended_for is None:
            self.ended_for = reason
        self.look()

    def look(self) -> None:
        """Something has happened: wait no longer."""
        if self._waits is not None:
            self._waits.cancel()

    async def wait(self, seconds: float) -> None:
        """Wait, unless something happens before."""
        self._waits = deferLater(self.clock, seconds)
        try:
            await self._waits
        except CancelledError:
            pass
        finally:
            self._waits = None

    async def end_group(self) -> bool:
        """
        End the server's group: TERM, and KILL to what is left after C{stop_secs}.

        @return: whether nothing is left; False only after the hook's time limit.
        """
        server, clock = self.server, self.clock
        server.said_yes = False
        if not server.lives:
            server.forget()
            return True
        server.on_end = self.look
        # If the reactor stops before the end, nobody is left to send KILL.
        at_shutdown = clock.addSystemEventTrigger(
            "after", "shutdown", server.signal, signal.SIGKILL
        )
        try:
            server.signal(signal.SIGTERM)
            kill_at = clock.seconds() + self.config.stop_secs
            killed, pause = False, _FIRST_LOOK
            while server.lives:
                now = clock.seconds()
                if not killed and (now >= kill_at or self._is_impatient()):
                    killed = True
                    server.signal(signal.SIGKILL)
                    kill_at = now + GRACE
                elif killed and now >= kill_at:
                    _log.error(
                        "the server of {model}, process {pid}, cannot be killed",
                        model=self.model,
                        pid=server.record.process.pid if server.record is not None else 0,
                    )
                    return False
                await self.wait(pause if killed else min(pause, kill_at - now))
                pause = min(pause * _MORE, LOOK)
        finally:
            server.on_end = None
            clock.removeSystemEventTrigger(at_shutdown)
        server.forget()
        return True

    def _is_impatient(self) -> bool:
        """KILL is due before C{stop_secs} have passed."""
        return False

    def result(self, reason: str, *, ok: bool = False, said: str = "") -> HookResult:
        """
        Make the result of this hook.

        @param said: the server's last words.
        """
        if not ok and self.ended_for is not None:
            reason = self.ended_for
        duration = self.clock.seconds() - self._began
        return HookResult(0 if ok else None, self._timed_out, duration, reason, said)

    def _broke(self, failure: object) -> HookResult:
        _log.failure("a defect in {hook} of {model}", hook=self.kind.value, model=self.model)
        return self.result("internal error")


class _Wake(_ServerRun):
    """Starts a server, and waits until it is ready."""

    kind = HookKind.WAKE

    def __init__(
        self, hooks: ServeHooks, model: str, config: ModelConfig, server: ModelServer
    ) -> None:
        super().__init__(hooks, model, config, server)
        self.limit = config.wake_timeout_secs
        self._question: IRunningHook | None = None

    def look(self) -> None:
        """See L{_ServerRun.look}."""
        super().look()
        if self._question is not None:
            self._question.kill()

    async def run(self) -> HookResult:
        """See L{_ServerRun.run}."""
        server = self.server
        if not server.runs:
            if server.lives and not await self.end_group():
                return self.result("what is left of the server before cannot be ended")
            if self.ended_for is not None:
                return self.result(self.ended_for)
            try:
                self._start()
            except _CannotServe as error:
                return self.result(str(error))
        server.on_end = self.look
        while server.runs and self.ended_for is None:
            self._question = self.hooks.question(self.model)
            answer: HookResult = await self._question.exited
            self._question = None
            if answer.ok:
                server.on_end = None
                server.said_yes = True
                server.said_yes_at = self.clock.seconds()
                return self.result("ready", ok=True)
            if server.runs and self.ended_for is None:
                await self.wait(_POLL)
        server.on_end = None
        if self.ended_for is not None:
            await self.end_group()
            return self.result(self.ended_for)
        for _ in range(_PATIENCE):
            # It is gone, and its status comes with a signal of the system's.
            if not server.awaits_status:
                break
            server.on_end = self.look
            await self.wait(LOOK)
        server.on_end = None
        how = server.end or "it is not known how"
        return self.result(f"the server ended: {how}", said=server.last_line())

    def _start(self) -> None:
        """
        Start the server.

        @raise _CannotServe: that is not possible.
        """
        hooks, model, host = self.hooks, self.model, self.config.host
        command = self.config.serve
        assert command is not None
        try:
            port = self.config.port or find_free_port(host, hooks.ports_in_use())
            taken = not can_listen(host, port)
        except OSError as error:
            raise _CannotServe(f"no port for the server: {error.strerror or error}") from None
        if taken:
            raise _CannotServe(f"something else listens on port {port}")
        hooks.whereabouts.move(model, (host, port))
        try:
            self.server.start(
                hooks.spawn,
                command,
                hooks.environment.variables(model, "serve"),
                hooks.directory,
                port,
            )
        except (OSError, ValueError) as error:
            _log.error(
                "the server of {model} could not be started: {error}", model=model, error=error
            )
            raise _CannotServe("the server could not be started") from None


class _Sleep(_ServerRun):
    """Ends a server."""

    kind = HookKind.SLEEP

    def __init__(
        self, hooks: ServeHooks, model: str, config: ModelConfig, server: ModelServer
    ) -> None:
        super().__init__(hooks, model, config, server)
        self.limit = config.sleep_timeout_secs

    async def run(self) -> HookResult:
        """See L{_ServerRun.run}."""
        if await self.end_group():
            self.hooks.whereabouts.reset(self.model)
            return self.result("ended", ok=True)
        return self.result("the server cannot be killed")

    def _is_impatient(self) -> bool:
        """See L{_ServerRun._is_impatient}."""
        return self.ended_for is not None
