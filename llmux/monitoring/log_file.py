"""This module has the log file of a daemon."""

from __future__ import annotations

import os
import stat

from twisted.logger import Logger
from twisted.python.logfile import LogFile

__all__ = ["ReopenedLogFile", "give_file"]


class ReopenedLogFile(LogFile):
    """
    This log file always has an open file: if a new one cannot be opened, the old one is still
    written to.
    """

    _log = Logger()

    def reopen(self) -> None:
        """
        Continue in a new file of the same name, after logrotate has moved the old one away.
        """
        old = self._file
        try:
            self._openFile()  # type: ignore[no-untyped-call]  # LogFile's
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
        Give the file to another user, who may then open it anew; see L{give_file}.

        @raise OSError: this process may not give files away.
        """
        give_file(self.path, self._file.fileno(), (user, group))


def give_file(path: str, fd: int, owner: tuple[int, int]) -> None:
    """
    Give an open file to another user.

    Only a regular file that has this name and no other is given away.  The other user may be
    able to write to the file's directory, and may have put a link to a third user's file there:
    files such as C{/dev/null} and C{/etc/shadow} must keep their owners.

    @param path: the name by which the file was opened.
    @raise OSError: this process may not give files away.
    """
    opened, named = os.fstat(fd), os.lstat(path)
    is_the_same = (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)
    if stat.S_ISREG(opened.st_mode) and is_the_same and opened.st_nlink == 1:
        os.fchown(fd, *owner)
