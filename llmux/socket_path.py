"""
This module finds the paths of the Unix socket on which a daemon answers the command line.

The daemon and the command line find the same socket by the same configuration
file: the daemon places the socket at L{socket_path}, and the command line looks
at the L{socket_candidates} in turn.  This module imports no reactor.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

__all__ = ["LONGEST_PATH", "is_private", "socket_candidates", "socket_path"]

LONGEST_PATH = 107
"""
A Unix socket's path may have this many bytes: C{sun_path} has 108, the last of which is NUL.
"""

_OF_THE_SERVICE = "llmux.sock"
_SERVICE_DIRECTORY = "/run/llmux"
_TEMPORARY = "/tmp"


def _name(config_path: str | os.PathLike[str]) -> str:
    """
    Return the name of a configuration's socket, which is the same for every path to the same
    file.
    """
    file = os.fsencode(os.path.realpath(config_path))
    return hashlib.sha256(file).hexdigest()[:12] + ".sock"


def _configured(config_path: str | os.PathLike[str], configured: str) -> Path:
    directory = os.path.dirname(os.path.abspath(config_path))
    return Path(directory, os.path.expanduser(configured))


def _of_user(environ: Mapping[str, str], name: str) -> Path | None:
    directory = environ.get("XDG_RUNTIME_DIR", "")
    return Path(directory, "llmux", name) if os.path.isabs(directory) else None


def _of_service(environ: Mapping[str, str]) -> Path | None:
    directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(directory, _OF_THE_SERVICE) if directory else None


def _temporary(uid: int, name: str) -> Path:
    return Path(_TEMPORARY, f"llmux-{uid}", name)


def socket_path(
    config_path: str | os.PathLike[str],
    configured: str | None,
    environ: Mapping[str, str] = os.environ,
    *,
    uid: int | None = None,
) -> Path:
    """
    Return the path at which a daemon places its socket: C{admin.socket} of the configuration,
    else C{$RUNTIME_DIRECTORY/llmux.sock} (set by systemd), else
    C{$XDG_RUNTIME_DIR/llmux/NAME.sock}, else C{/tmp/llmux-UID/NAME.sock}.  NAME is a short hash
    of the configuration file's real path.

    @param config_path: the configuration file.
    @param configured: C{admin.socket}, which may be relative to the file; or None.
    @param uid: the user that the daemon will become (C{twistd --uid}), who does not own the
        C{$XDG_RUNTIME_DIR} of the present user; None if the daemon keeps its user.
    """
    if configured is not None:
        return _configured(config_path, configured)
    name = _name(config_path)
    of_service = _of_service(environ)
    if of_service is not None:
        return of_service
    of_user = None if uid is not None else _of_user(environ, name)
    return of_user or _temporary(os.getuid() if uid is None else uid, name)


def socket_candidates(
    config_path: str | os.PathLike[str],
    configured: str | None,
    environ: Mapping[str, str] = os.environ,
) -> list[Path]:
    """
    Return the paths at which the daemon of a configuration may listen, in the order in which
    they should be tried.  If the configuration has C{admin.socket}, that is the only one.  The
    paths that only this configuration's daemon can have come before C{/run/llmux/llmux.sock},
    which is the service's, whatever its configuration.

    A path in /tmp is left out if its directory belongs to another user.
    """
    if configured is not None:
        return [_configured(config_path, configured)]
    name = _name(config_path)
    temporary: Path | None = _temporary(os.getuid(), name)
    if temporary is not None and temporary.parent.exists() and not is_private(temporary.parent):
        temporary = None
    found = [
        _of_service(environ),
        _of_user(environ, name),
        temporary,
        Path(_SERVICE_DIRECTORY, _OF_THE_SERVICE),
    ]
    return list(dict.fromkeys(path for path in found if path is not None))


def is_private(directory: Path, uid: int | None = None) -> bool:
    """
    Tell whether this path is a directory (not a link to one) of the user's own, which no other
    user may read or write.

    @param uid: the user; None for the present user.
    """
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == (os.getuid() if uid is None else uid)
        and stat.S_IMODE(status.st_mode) & 0o077 == 0
    )
