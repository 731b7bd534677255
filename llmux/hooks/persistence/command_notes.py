"""This module keeps commands that last, pins and a pause, in the state directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import msgspec
from twisted.logger import Logger
from zope.interface import implementer

from llmux.hooks.persistence.state import NOT_DECODED, StateDirectory
from llmux.switching.wishes.lasting import ICommandNotes

__all__ = ["CommandNotes"]

_FILE = "commands.json"
_MOST = 1 << 20


@implementer(ICommandNotes)
class CommandNotes:
    """
    L{CommandNotes} are one file, which is replaced as a whole.

    @ivar path: the path of the file.
    """

    _log = Logger()

    def __init__(self, directory: str) -> None:
        """@param directory: the state directory, which is made when a note is written."""
        self._state = StateDirectory(directory)
        self.path = os.path.join(directory, _FILE)

    def load(self) -> Mapping[str, Any]:
        """See L{ICommandNotes.load}."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._failed("read", error)
            return {}
        try:
            found = msgspec.json.decode(os.read(fd, _MOST), type=dict[str, Any])
        except (OSError, *NOT_DECODED) as error:
            self._failed("read", error)
            return {}
        finally:
            os.close(fd)
        return found

    def keep(self, commands: Mapping[str, Any]) -> None:
        """See L{ICommandNotes.keep}."""
        new = f"{self.path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            try:
                fd = os.open(new, flags, 0o600)
            except FileNotFoundError:
                self._state.create()
                fd = os.open(new, flags, 0o600)
            try:
                os.write(fd, msgspec.json.encode(commands))
            finally:
                os.close(fd)
            os.replace(new, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(new)
            self._failed("kept", error)

    def _failed(self, done: str, error: Exception) -> None:
        self._log.warn(
            "pins and the pause cannot be {done} in {path}: {error}",
            event="commands_not_kept",
            done=done,
            path=self.path,
            error=error,
        )
