"""
The directory where large request bodies lie, decided and tried when llmux starts.

L{tempfile} left alone would decide when the first large body comes, and where
C{TMPDIR} is full just then it would take another directory for good, the
current one included, and say nothing.
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
    The storage that a configuration asks for.

    @raise ConfigError: there is no directory for it.
    """
    return BodyStorage(
        max_memory=config.max_memory_mb * 2**20,
        # One body may always be as large as a body may be.
        max_spool=max(config.max_spool_mb, config.max_body_mb) * 2**20,
        directory=spool_directory(config),
    )


def spool_directory(config: Config) -> str:
    """
    C{spool_dir}, or else what L{tempfile} chooses.

    @raise ConfigError: C{spool_dir} cannot be written, or L{tempfile} would
        choose the current directory for want of another.
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
    """What stands in the way of a file there, in a few words; empty if nothing does."""
    try:
        with tempfile.TemporaryFile(prefix="llmux-", dir=directory) as file:
            file.write(b"tried")
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""
