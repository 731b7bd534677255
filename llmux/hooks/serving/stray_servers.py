"""
This module finds servers that an earlier llmux has started, and that belong to no model of the
configuration any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from twisted.logger import Logger

from llmux.hooks.persistence.process_table import ProcessTable
from llmux.hooks.persistence.state import SERVER_RECORD
from llmux.hooks.serving.server import read_record

__all__ = ["tell_of_strays"]

_log = Logger()


def tell_of_strays(directories: Iterable[str], table: ProcessTable) -> None:
    """
    Log the servers that still run but that llmux will not stop, because their models have been
    renamed, removed, or given scripts in place of C{serve}.

    @param directories: the directories that have a server's record, and belong to no model with
        a C{serve} command.
    """
    for path in directories:
        try:
            record = read_record(os.path.join(path, SERVER_RECORD))
        except OSError:
            continue
        if record is not None and table.group_lives(record.process):
            _log.warn(
                "a server that no model has any more still runs, and holds what it has taken: "
                "process {pid}, of {path}; to end it: kill -- -{pid}",
                event="server_stray",
                pid=record.process.pid,
                path=path,
            )
