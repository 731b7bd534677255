"""
This module has the hooks of models that have C{serve}, the command of their server, in place of
three scripts.
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
from llmux.hooks.persistence.process_table import ProcessTable
from llmux.hooks.persistence.state import StateDirectory
from llmux.hooks.runs.answered import AnsweredHook
from llmux.hooks.runs.environment import HookEnvironment
from llmux.hooks.runs.hook_process import (
    GRACE,
    LOOK,
    STOPPED,
    HookMetrics,
    IRunReactor,
    report_result,
)
from llmux.hooks.runs.lines import LineBudget
from llmux.hooks.runs.spawn import Spawner
from llmux.hooks.serving.free_port import can_listen, find_free_port
from llmux.hooks.serving.server import ModelServer
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook

__all__ = ["ServeHooks"]

_NO = 1
"""An C{alive} script that says no has this exit status."""

_POLL = 0.02
"""While a server gets ready, this many seconds pass from one question of health to the next."""

_SAID_JUST_NOW = 0.01
"""After a yes, the next question within this many seconds is answered without asking again."""

_FIRST_LOOK = 0.005
"""
After TERM, the first look whether a server has gone comes after this many seconds; later looks
come less often, up to C{LOOK} seconds apart.
"""

_MORE = 1.5

_PATIENCE = 20
"""
After this many looks, C{LOOK} seconds apart, the exit status of a process that has gone is no
longer waited for.
"""

_log = Logger()


class _CannotServe(Exception):
    """
    No server could be started.  The error's message says why, in a few words that may be sent
    to a client.
    """


@implementer(IHookRunner)
class ServeHooks:
    """
    This hook runner starts, stops and asks the servers of models that have a C{serve} command,
    and has another runner run all other hooks.

    I{Wake} starts the server, and ends when its health says yes; it fails when the server ends.
    I{Sleep} sends TERM to the server's group, and KILL to what is left after C{stop_secs}; it
    succeeds when nothing is left.  I{Alive} is no if the server does not run, and else what its
    health says.  But if a server runs that has not said yes to this llmux, or has been told to
    end, the answer is never no, because the server still holds what it has taken.
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
        @param hooks: the runner of all other hooks, which answers C{alive} of these models by
            asking for their health.
        @param spawn: the spawner, see L{llmux.hooks.runs.spawn}.
        @param models: the models with a C{serve} command.
        @param directory: the directory in which the commands run.
        @param serves: whether this llmux serves by the configuration.  Only then does it log
            the output of servers that it finds running, and end what is left of servers whose
            first process has gone.
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
        """Stop following the output of servers, because llmux ends."""
        for server in self._servers.values():
            server.close()

    def question(self, model: str) -> IRunningHook:
        """Ask for the health of a server that runs."""
        running: IRunningHook = self._hooks.start(model, HookKind.ALIVE)
        return running

    def ports_in_use(self) -> set[int]:
        """Return the ports of the servers that have been started."""
        return {s.record.port for s in self._servers.values() if s.record is not None}

    def _ask(self, model: str, server: ModelServer) -> IRunningHook:
        if not server.runs:
            server.found_gone()
            if self._serves and server.lives:
                server.signal(signal.SIGKILL)
            return self._answer(model, HookKind.ALIVE, _gone(0.0))
        since = self.reactor.seconds() - server.said_yes_at
        if server.said_yes and since < _SAID_JUST_NOW:
            # The wake has just ended with this answer.
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
    A L{_ServerRun} is a hook that starts or ends a server.

    @ivar ended_for: the reason why this hook must end before its work is done; None if it must
        not.
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
        """Begin the hook's work in the next turn of the reactor."""
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
        """Do the work of this hook; subclasses implement this method."""
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
        """End the present wait, because something has happened."""
        if self._waits is not None:
            self._waits.cancel()

    async def wait(self, seconds: float) -> None:
        """Wait for this many seconds, or until L{look} is called."""
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

        @return: whether nothing is left of the group; False if it could not be killed.
        """
        server, clock = self.server, self.clock
        server.said_yes = False
        if not server.lives:
            server.forget()
            return True
        server.on_end = self.look
        # If the reactor stops before the group has gone, only this trigger can send KILL.
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
        """Tell whether KILL must be sent before C{stop_secs} have passed."""
        return False

    def result(self, reason: str, *, ok: bool = False, said: str = "") -> HookResult:
        """
        Make the result of this hook.

        @param said: the last line that the server has written.
        """
        if not ok and self.ended_for is not None:
            reason = self.ended_for
        duration = self.clock.seconds() - self._began
        return HookResult(0 if ok else None, self._timed_out, duration, reason, said)

    def _broke(self, failure: object) -> HookResult:
        _log.failure("a defect in {hook} of {model}", hook=self.kind.value, model=self.model)
        return self.result("internal error")


class _Wake(_ServerRun):
    """This hook starts a server, and waits until it is ready."""

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
            # The process has gone; its exit status comes later, with SIGCHLD.
            if not server.awaits_status:
                break
            server.on_end = self.look
            await self.wait(LOOK)
        server.on_end = None
        how = server.end or "it is not known how"
        return self.result(f"the server ended: {how}", said=server.last_line())

    def _start(self) -> None:
        """
        Start the server at a port.

        @raise _CannotServe: the server cannot be started.
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
    """This hook ends a server."""

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
