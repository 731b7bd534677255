"""
This module chooses the directory of large request bodies, and tries it when llmux starts.

Without this, L{tempfile} would choose when the first large body comes.  If C{TMPDIR} were full
just then, L{tempfile} would use another directory from then on, possibly the current one,
without a message.
"""

from __future__ import annotations

import os
import tempfile

from twisted.logger import Logger

from llmux.config import Config
from llmux.config.error import ConfigError
from llmux.web.body import BodyStorage

__all__ = ["open_storage", "spool_directory", "try_spool_directory"]

_log = Logger()


def open_storage(config: Config) -> BodyStorage:
    """
    Return the storage that a configuration asks for.

    @raise ConfigError: no directory can be used.
    """
    return BodyStorage(
        max_memory=config.max_memory_mb * 2**20,
        # The disk must have room for one body of the largest size.
        max_spool=max(config.max_spool_mb, config.max_body_mb) * 2**20,
        directory=spool_directory(config),
    )


def spool_directory(config: Config) -> str:
    """
    Return C{spool_dir}, or else the directory that L{tempfile} chooses.

    @raise ConfigError: C{spool_dir} cannot be written, or L{tempfile} would choose the current
        directory because no other can be written.
    """
    if config.spool_dir is not None:
        directory = os.path.join(config.directory, config.spool_dir)
        problem = try_spool_directory(directory)
        if problem:
            raise ConfigError(
                config.file,
                "spool_dir",
                f"{directory} cannot be written: {problem}",
                "name a directory that exists and may be written",
            )
        return directory
    wanted = os.environ.get("TMPDIR")
    try:
        directory = os.path.abspath(tempfile.gettempdir())
    except OSError:
        directory = os.getcwd()
    if directory == os.getcwd() and os.path.abspath(wanted or "/tmp") != directory:
        raise ConfigError(
            config.file,
            "spool_dir",
            "neither TMPDIR nor /tmp, /var/tmp and /usr/tmp can be written",
            "name a directory for large request bodies that can",
        )
    if wanted and os.path.abspath(wanted) != directory:
        _log.warn(
            "TMPDIR ({wanted}) cannot be written: large request bodies go to {directory}",
            wanted=wanted,
            directory=directory,
        )
    return directory


def try_spool_directory(directory: str) -> str:
    """Return, in a few words, why no file can be made in a directory; empty if one can."""
    try:
        with tempfile.TemporaryFile(prefix="llmux-", dir=directory) as file:
            file.write(b"tried")
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""
