"""
This module opens the Unix socket on which the command line reaches the daemon.

Whoever can open the socket can give commands.  So its mode is 0600 from the first moment on,
and if llmux chose the directory, only the same user can open that.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

from llmux.config import Config
from llmux.config.error import ConfigError
from llmux.socket_path import LONGEST_PATH, is_private, socket_path

__all__ = ["listen_for_commands"]

_PATIENCE = 1.0
"""A process that listens on a socket accepts a connection within this many seconds."""

_BACKLOG = 64


def listen_for_commands(
    config: Config,
    reactor: Any,
    factory: IProtocolFactory,
    owner: tuple[int, int] | None = None,
) -> IListeningPort:
    """
    Listen on the socket of this configuration.

    @param owner: the user and the group that this process will become.
    @raise ConfigError: the socket cannot be made, or another process listens on it.
    """
    path = path_of(config, owner)
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise _refused(
            config, f"{path} is longer than {LONGEST_PATH} bytes", "name a shorter path"
        )
    try:
        if config.admin.socket is None:
            _make_directory(config, path.parent, owner)
        _take_place(config, path)
        # A mode that is set after the bind would be too late for whoever connects in between.
        before = os.umask(0o177)
        try:
            port: IListeningPort = reactor.listenUNIX(
                os.fspath(path), factory, backlog=_BACKLOG, mode=0o600
            )
        finally:
            os.umask(before)
        if owner is not None:
            os.chown(path, *owner, follow_symlinks=False)
    except (OSError, CannotListenError) as error:
        reason = error.socketError if isinstance(error, CannotListenError) else error
        why = (getattr(reason, "strerror", None) or str(reason)).lower()
        raise _refused(
            config,
            f"cannot listen on {path}: {why}",
            "name a file in a directory that llmux may write",
        ) from None
    return port


def path_of(config: Config, owner: tuple[int, int] | None = None) -> Path:
    """Return the path of a configuration's socket."""
    file = os.path.join(config.directory, os.path.basename(config.file))
    return socket_path(file, config.admin.socket, uid=None if owner is None else owner[0])


def _make_directory(config: Config, directory: Path, owner: tuple[int, int] | None) -> None:
    """
    Make the directory that holds nothing but the socket, unless it exists.

    @raise ConfigError: the directory belongs to another user, or others may open it.
    """
    of_service = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if of_service and directory == Path(of_service):
        # systemd has made the directory, with the mode that the unit says.
        return
    try:
        directory.mkdir(0o700)
        if owner is not None:
            os.chown(directory, *owner)
    except FileExistsError:
        if not is_private(directory, None if owner is None else owner[0]):
            raise _refused(
                config,
                f"{directory} is somebody else's, or open to others",
                "remove it, or name another place for the socket",
            ) from None


def _take_place(config: Config, path: Path) -> None:
    """
    Remove the socket of a process that has ended.

    @raise ConfigError: a process listens on the socket, or the file is no socket.
    @raise OSError: the socket cannot be removed.
    """
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(os.fspath(path))
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.ECONNREFUSED and path.is_socket():
                path.unlink()
                return
            if error.errno == errno.ECONNREFUSED:
                raise _refused(
                    config, f"{path} is there, and no socket", "remove it, or name another"
                ) from None
            if not isinstance(error, TimeoutError | BlockingIOError):
                raise
    raise _refused(
        config,
        f"another process listens on {path}: llmux by the same configuration?",
        "stop that process, or name another socket",
    )


def _refused(config: Config, problem: str, remedy: str) -> ConfigError:
    return ConfigError(config.file, "admin.socket", problem, remedy)
