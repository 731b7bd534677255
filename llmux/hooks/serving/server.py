"""
This module has the server of one model: a process, with all others of its group.

A record of the server is written into the model's directory before the server runs.  So the
next llmux knows of the server, however this llmux ends, by C{kill -9} included.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from llmux.hooks.persistence.process_table import ProcessIdentity, ProcessTable
from llmux.hooks.persistence.state import NOT_DECODED, SERVER_RECORD
from llmux.hooks.runs.hook_process import exit_reason
from llmux.hooks.runs.lines import LineBudget, OutputLog
from llmux.hooks.runs.spawn import SHELL, Spawner
from llmux.hooks.serving.exec_form import with_exec
from llmux.hooks.serving.output_file import OutputFile

__all__ = ["ModelServer", "ServerRecord", "read_record"]

OUTPUT = "server.log"

_BEGIN = 'IFS= read -r go && exec /bin/sh -c -- "$1" </dev/null'
"""
This script runs a command when it is told to.  Before that, the record with its process id is
written.  If llmux is killed in between, nothing is left behind, because the shell exits when
its pipe is closed.
"""

_log = Logger()


class ServerRecord(Struct, frozen=True):
    """
    A L{ServerRecord} says what is known of a server that was started.

    @ivar process: the process that leads the server's group.
    @ivar port: the port on which the server was told to listen.
    """

    process: ProcessIdentity
    port: int


class _ServerProcess(ProcessProtocol):
    """
    This protocol belongs to a server that this llmux has started, as long as the server runs.
    """

    def __init__(self, ended: Callable[[_ServerProcess, str], None]) -> None:
        self._ended = ended

    def processExited(self, reason: Failure) -> None:
        """See L{IProcessProtocol.processExited}."""
        ended = reason.value
        assert isinstance(ended, ProcessTerminated | ProcessDone)
        if ended.exitCode is not None:
            self._ended(self, exit_reason(ended.exitCode))
        elif ended.signal is not None:
            self._ended(self, f"killed by signal {ended.signal}")
        else:
            self._ended(self, "exit status unknown")


class ModelServer:
    """
    A L{ModelServer} is the server of one model; a model has one server at most.

    @ivar record: the record of the server that was started last, unless llmux has ended it; or
        None.
    @ivar said_yes: whether the server has been ready, as far as this llmux knows, and has not
        been told to end since.
    @ivar said_yes_at: the time when a wake ended with the server's yes, on the clock given.
    @ivar end: how the process ended that this llmux has started, in a few words; "" as long as
        the process runs.
    @ivar on_end: a function that is called when that process has ended; or None.
    """

    def __init__(
        self,
        clock: IReactorTime,
        table: ProcessTable,
        budget: LineBudget,
        model: str,
        directory: Callable[[], str],
    ) -> None:
        """
        @param budget: the budget of lines that may be logged.
        @param directory: a function that returns the path of the model's own directory, or
            raises OSError.
        """
        self.record: ServerRecord | None = None
        self.said_yes = False
        self.said_yes_at = float("-inf")
        self.end = ""
        self.on_end: Callable[[], None] | None = None
        self._clock = clock
        self._table = table
        self._budget = budget
        self._model = model
        self._directory = directory
        self._knows_record = False
        self._process: _ServerProcess | None = None
        self._output: OutputFile | None = None
        self._output_log: OutputLog | None = None

    # ------------------------------------------------------------- its past

    def look_up(self, follows: bool) -> bool:
        """
        Read the record that an earlier llmux has left; only the first call does.

        @param follows: whether to log the output of a server that still runs.
        @return: whether a record was found.
        """
        if self._knows_record:
            return False
        self.record = read_record(os.path.join(self._directory(), SERVER_RECORD))
        self._knows_record = True
        if self.record is None:
            return False
        if not self.runs:
            _log.warn(
                "the server of {model}, process {pid}, has ended while no llmux watched; its "
                "last line: {last_words}",
                event="server_ended",
                model=self._model,
                pid=self.record.process.pid,
                last_words=self.last_line(),
            )
            if follows and not self.lives:
                self.forget()
        elif follows:
            self._output_file().follow_from_here()
        return True

    # --------------------------------------------------------- what it does

    @property
    def runs(self) -> bool:
        """Tell whether the process that was started still runs."""
        return self.record is not None and self._table.leads(self.record.process)

    @property
    def lives(self) -> bool:
        """Tell whether any process of the server's group still runs."""
        return self.record is not None and self._table.group_lives(self.record.process)

    @property
    def awaits_status(self) -> bool:
        """
        Tell whether this llmux has started the process, and does not know yet how it ended.
        """
        return self._process is not None and not self.end

    def signal(self, number: signal.Signals) -> None:
        """Signal all processes of the server's group that are left."""
        if self.record is not None:
            self._table.signal_group(self.record.process, number)

    def last_line(self) -> str:
        """Return the last line that the server has written; "" if there is none."""
        return self._output_file().last_line()

    # ----------------------------------------------------- its begin and end

    def start(
        self,
        spawn: Spawner,
        command: str,
        environment: Mapping[bytes, bytes],
        path: str,
        port: int,
    ) -> None:
        """
        Start the server.  No process of an earlier server may be left.

        @param path: the directory in which the command runs.
        @param port: the port on which the server is told to listen.
        @raise OSError: the server could not be started.
        @raise ValueError: the command cannot be given to a process.
        """
        directory = self._directory()
        self.forget()
        output = self._output_file()
        writer = output.open_for_server()
        reader, begin = os.pipe2(os.O_CLOEXEC)
        process = _ServerProcess(self._ended)
        try:
            transport = spawn(
                process,
                SHELL,
                [SHELL, "-c", _BEGIN, SHELL, with_exec(command)],
                env=environment,
                path=path,
                childFDs={0: reader, 1: writer, 2: writer},
            )
            assert transport.pid is not None
            self.record = ServerRecord(self._table.identify(transport.pid), port)
            if self.record.process.started is None:
                raise OSError("this system does not tell when a process started (/proc)")
            _write(os.path.join(directory, SERVER_RECORD), self.record)
            self._process = process
            os.write(begin, b"\n")
        except OSError:
            self.forget()
            raise
        finally:
            for descriptor in (begin, reader, writer):
                os.close(descriptor)

    def _ended(self, process: _ServerProcess, how: str) -> None:
        if process is not self._process:
            # Another process has been started since.
            return
        self.end = how
        if self._output is not None:
            self._output.catch_up()
        if self.on_end is not None:
            self.on_end()
        else:
            self.found_gone()

    def found_gone(self) -> None:
        """Log that the server has ended, if it had been ready before."""
        if self.said_yes:
            self.said_yes = False
            _log.warn(
                "the server of {model} has ended: {reason}; its last line: {last_words}",
                event="server_ended",
                model=self._model,
                reason=self.end or "how, nobody knows: another llmux had started it",
                last_words=self.last_line(),
            )

    def forget(self) -> None:
        """Forget the server, of which nothing is left."""
        self.record = self._process = None
        self.said_yes = False
        self.end = ""
        try:
            os.unlink(os.path.join(self._directory(), SERVER_RECORD))
        except OSError:
            # The record may stay: whoever reads it will find that its process has gone.
            pass
        self.close()

    def close(self) -> None:
        """Log what the server has written so far, and stop following its output."""
        if self._output is not None:
            self._output.close()
        if self._output_log is not None:
            self._output_log.ended()
        self._output = self._output_log = None

    def _output_file(self) -> OutputFile:
        if self._output is None:
            log = OutputLog(self._budget, self._model, "serve", "output", LogLevel.info)
            self._output_log = log
            path = os.path.join(self._directory(), OUTPUT)
            self._output = OutputFile(self._clock, path, log.received, self._too_fast)
        return self._output

    def _too_fast(self, count: int) -> None:
        _log.info(
            "{model} serve output: {bytes} bytes left out, which came too fast",
            event="output_too_fast",
            model=self._model,
            bytes=count,
        )


def read_record(path: str) -> ServerRecord | None:
    """
    Read the record of a server; None if there is none.

    @raise OSError: a record may exist, but cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(os.read(fd, 4096), type=ServerRecord)
    except NOT_DECODED:
        _log.warn(
            "{path} is not what llmux has written there: a server that runs is not known",
            event="server_unknown",
            path=path,
        )
        return None
    finally:
        os.close(fd)


def _write(path: str, record: ServerRecord) -> None:
    new = f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(new, flags, 0o600)
    try:
        os.write(fd, msgspec.json.encode(record))
    finally:
        os.close(fd)
    os.replace(new, path)
