"""This module reads the configuration anew while llmux runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from llmux.config import Config, load_config
from llmux.config.error import ConfigError

if TYPE_CHECKING:
    from llmux.admin.orders import Order, Verb
    from llmux.daemon.service import LlmuxService

__all__ = ["ConfigFile", "Reloader"]

_WATCH = 2.0
"""The configuration's file is looked at each time after this many seconds."""

_SETTLE = 1.0
"""A changed file is read when it has not changed again for this many seconds."""


class ConfigFile:
    """
    A L{ConfigFile} is the file of a configuration, with the port that the command line gives in
    place of the file's.

    @ivar path: the absolute path of the file.
    """

    def __init__(self, path: str, port: int | None = None) -> None:
        self.path = os.path.abspath(path)
        self._port = port

    def read(self) -> Config:
        """
        Read the configuration from the file.

        @raise ConfigError: the file is not a sound configuration, or cannot be read.
        """
        return load_config(self.path, port=self._port)

    def version(self) -> tuple[object, ...] | None:
        """
        Return a value that changes when the file is written or replaced, or when a link on the
        way to the file leads elsewhere (which is how Kubernetes replaces a ConfigMap); None if
        there is no file.
        """
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return os.path.realpath(self.path), found.st_ino, found.st_size, found.st_mtime_ns


class Reloader:
    """
    A L{Reloader} reads the configuration anew when it is told to, or when the file changes, and
    gives the configuration to the service.  A configuration that cannot be taken over changes
    nothing.
    """

    _log = Logger()

    def __init__(self, service: LlmuxService, file: ConfigFile, clock: Any) -> None:
        self._service = service
        self._file = file
        self._clock = clock
        self._seen = file.version()
        self._read = self._seen
        self._timer: IDelayedCall | None = None
        service.entrance.call_for_verbs(self._verbs)

    def reload(self, *, dry_run: bool = False, restart_changed: bool = False) -> Sequence[str]:
        """
        Read the file, and take its configuration over.

        @param dry_run: only find out what would change.
        @param restart_changed: models that are awake, and whose hooks have changed, are put
            to sleep and woken anew.
        @return: what has changed, a line each.
        @raise ConfigError: the file is not sound, or cannot be taken over.
        """
        service = self._service
        self._read = self._seen = self._file.version()
        try:
            config = self._file.read()
            changes = service.reconfigure(
                config, dry_run=dry_run, restart_changed=restart_changed
            )
        except ConfigError as error:
            if not dry_run:
                self._log.error(
                    "the configuration is not taken over: {error}",
                    event="reload_failed",
                    error=error,
                )
                self._tell({"ok": False, "error": str(error)})
            raise
        except Exception as defect:
            if not dry_run:
                self._tell({"ok": False, "error": f"{type(defect).__name__}: {defect}"})
            raise
        if not dry_run:
            self._log.info(
                "the configuration was read anew: {changes}",
                event="reloaded",
                changes="; ".join(changes) or "nothing changed",
            )
            self._tell({"ok": True, "error": None, "changes": changes})
            self.watch()
        return changes

    def _tell(self, outcome: Mapping[str, Any]) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._service.metrics.config_reloaded(bool(outcome["ok"]))
        self._service.entrance.reloaded({"at": at, **outcome})

    def reload_by_signal(self) -> None:
        """Reload; errors go to the log only."""
        try:
            self.reload()
        except ConfigError:
            pass
        except Exception:
            self._log.failure("a defect while the configuration was read anew")

    # ------------------------------------------------------------------ the command

    def _verbs(self) -> list[Verb]:
        from llmux.admin.orders import FLAG, Verb

        return [Verb("reload", {"dry_run": FLAG, "restart_changed": FLAG}, self._by_command)]

    def _by_command(self, order: Order) -> Deferred[Mapping[str, Any]]:
        from llmux.control import CommandError

        try:
            changes = self.reload(
                dry_run=order["dry_run"], restart_changed=order["restart_changed"]
            )
        except ConfigError as error:
            return fail(CommandError(str(error), 409, "invalid_config"))
        status = self._service.entrance.administration.status()
        return succeed({**status, "changes": list(changes)})

    # -------------------------------------------------------------------- watching

    def watch(self) -> None:
        """Look at the file from time to time, if the configuration says so."""
        if self._service.config.watch_config and self._timer is None:
            self._timer = self._clock.callLater(_WATCH, self._look)

    def stop(self) -> None:
        """Stop looking at the file."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if not self._service.config.watch_config:
            return
        version = self._file.version()
        pause = _WATCH
        if version is not None and version != self._read:
            if version == self._seen:
                self.reload_by_signal()
            else:
                # The file may still be being written.
                self._seen = version
                pause = _SETTLE
        if self._timer is None:
            self._timer = self._clock.callLater(pause, self._look)
