"""This module has the log file of a daemon."""

from __future__ import annotations

import os
import stat

from twisted.logger import Logger
from twisted.python.logfile import LogFile

__all__ = ["ReopenedLogFile"]


class ReopenedLogFile(LogFile):
    """
    This log file is never without a file: where a new one cannot be opened,
    the old one is written on.
    """

    _log = Logger()

    def reopen(self) -> None:
        """Go on in a new file of the same name: logrotate has moved the old one away."""
        old = self._file
        try:
            self._openFile()  # type: ignore[no-untyped-call]
        except OSError as error:
            self._log.error(
                "the log file {path} cannot be opened anew, the old one is written on: {error}",
                event="log_file_not_reopened",
                path=self.path,
                error=(error.strerror or str(error)).lower(),
            )
        else:
            old.close()

    def give_to(self, user: int, group: int) -> None:
        """
        Make the file another user's, who may then open it anew.  What is no
        regular file (C{/dev/null}) is left alone.

        @raise OSError: this process may not give files away.
        """
        fd = self._file.fileno()
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.fchown(fd, user, group)
