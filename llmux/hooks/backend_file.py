"""
This module reads the file in which a model's C{wake} hook may write the address of its backend,
C{$LLMUX_STATE/backend}, for backends whose address is known only after the hook has run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import msgspec
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from llmux.backend.whereabouts import Address, Whereabouts
from llmux.config import ModelConfig
from llmux.config.conversion import is_host
from llmux.hooks.persistence.state import StateDirectory
from llmux.hooks.runs.answered import AnsweredHook
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook

__all__ = ["AddressReading", "BadAddress", "parse_address"]

BACKEND_FILE = "backend"

_LONGEST = 1024
"""The file is read up to this many bytes; no address is longer."""

_FORM = re.compile(r"(?:\[(?P<v6>[^\]\s]+)\]|(?P<host>[^\[\]:\s]+)):(?P<port>[0-9]{1,5})")


class BadAddress(Exception):
    """A backend's address cannot be used.  The error's message says why, in a few words."""


def parse_address(text: str) -> Address:
    """
    Read C{HOST:PORT}, with an IPv6 address in brackets.

    @raise BadAddress: the text is anything else.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise BadAddress("is not HOST:PORT")
    host, port = found["v6"] or found["host"], int(found["port"])
    if not is_host(host) or (found["v6"] is not None) != (":" in host):
        raise BadAddress("names no host")
    if not 1 <= port <= 65535:
        raise BadAddress("names no port from 1 to 65535")
    return host, port


@implementer(IHookRunner)
class AddressReading:
    """
    This hook runner has another runner run the hooks, and reads the address of a model's
    backend when the C{wake} hook has succeeded, and when C{alive} is asked for the first time
    after llmux' start.

    A wake has failed if its file cannot be understood, or if there is no file and the
    configuration has no port.  The file is removed before each wake, because an address from an
    earlier wake may be wrong.
    """

    def __init__(
        self,
        hooks: IHookRunner,
        clock: IReactorTime,
        state: StateDirectory,
        models: Mapping[str, ModelConfig],
        whereabouts: Whereabouts,
    ) -> None:
        """@param models: the models with a C{wake} script."""
        self._hooks = hooks
        self._clock = clock
        self._state = state
        self._models = models
        self._whereabouts = whereabouts
        # The files of these models have been read, or are about to be written.
        self._known: set[str] = set()

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        """See L{IHookRunner.start}."""
        if model not in self._models:
            other: IRunningHook = self._hooks.start(model, hook)
            return other
        if hook is HookKind.WAKE:
            self._known.add(model)
            self._whereabouts.reset(model)
            try:
                self._remove(model)
            except OSError as error:
                reason = _cannot("removed", error)
                return AnsweredHook(self._clock, HookResult(None, False, 0.0, reason))
            running: IRunningHook = self._hooks.start(model, hook)
            running.exited.addCallback(self._woken, model)
            return running
        if hook is HookKind.ALIVE and model not in self._known:
            return self._ask_first(model)
        started: IRunningHook = self._hooks.start(model, hook)
        return started

    def _woken(self, result: HookResult, model: str) -> HookResult:
        if not result.ok:
            return result
        try:
            self._read(model)
        except BadAddress as error:
            return msgspec.structs.replace(result, exit_code=None, reason=str(error))
        return result

    def _ask_first(self, model: str) -> IRunningHook:
        """
        Ask C{alive} for the first time after llmux' start.  If the model is awake, its backend
        is at the address in the file; if the file is not sound, the answer is neither yes nor
        no.
        """
        fault = ""
        try:
            self._read(model)
        except BadAddress as error:
            fault = str(error)
        running: IRunningHook = self._hooks.start(model, HookKind.ALIVE)

        def answered(result: HookResult) -> HookResult:
            if fault and result.ok:
                return msgspec.structs.replace(result, exit_code=None, reason=fault)
            if not fault:
                self._known.add(model)
            return result

        running.exited.addCallback(answered)
        return running

    def _read(self, model: str) -> None:
        """
        Read the file, and note the backend's address.

        @raise BadAddress: the file cannot be read or understood, or there is no file and the
            configuration has no port.
        """
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(self._path(model), flags)
        except FileNotFoundError:
            if not self._models[model].port:
                raise BadAddress(
                    f"nothing has written HOST:PORT to $LLMUX_STATE/{BACKEND_FILE}, and the "
                    "model has no port"
                ) from None
            return
        except OSError as error:
            raise BadAddress(_cannot("read", error)) from None
        try:
            text = os.read(fd, _LONGEST).decode("utf-8", "replace")
        except OSError as error:
            raise BadAddress(_cannot("read", error)) from None
        finally:
            os.close(fd)
        try:
            address = parse_address(text)
        except BadAddress as error:
            raise BadAddress(f"what is in $LLMUX_STATE/{BACKEND_FILE} {error}") from None
        self._whereabouts.move(model, address)

    def _remove(self, model: str) -> None:
        try:
            os.unlink(self._path(model))
        except FileNotFoundError:
            pass

    def _path(self, model: str) -> str:
        return os.path.join(self._state.model_directory(model), BACKEND_FILE)


def _cannot(verb: str, error: OSError) -> str:
    return f"$LLMUX_STATE/{BACKEND_FILE} cannot be {verb}: {error.strerror or error}"
