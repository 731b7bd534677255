"""
The server of one model: a process, with all that belongs to its group.

What runs is written into the model's directory before it runs, so that no end
of llmux, C{kill -9} included, leaves a server that the next llmux does not know.
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

from llmux.hooks.exec_form import with_exec
from llmux.hooks.hook_process import exit_reason
from llmux.hooks.lines import LineBudget, OutputLog
from llmux.hooks.output_file import OutputFile
from llmux.hooks.process_table import ProcessIdentity, ProcessTable
from llmux.hooks.spawn import Spawner
from llmux.hooks.state import SERVER_RECORD

__all__ = ["ModelServer", "ServerRecord", "read_record"]

OUTPUT = "server.log"

SHELL = "/bin/sh"

_BEGIN = 'IFS= read -r go && exec /bin/sh -c -- "$1" </dev/null'
"""
Runs a command once it is told to.  Until then its process id is written down:
an llmux that is killed in between leaves nothing behind, for the end of its
pipe tells the shell to go.
"""

_log = Logger()


class ServerRecord(Struct, frozen=True):
    """
    What is known of a server that was started.

    @ivar process: the leader of its group.
    @ivar port: where it was told to listen.
    """

    process: ProcessIdentity
    port: int


class _ServerProcess(ProcessProtocol):
    """A server that this llmux has started, as long as it runs."""

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
    The server of one model, of which there is one at most.

    @ivar record: what was started last and has not been ended by llmux; None if nothing was.
    @ivar said_yes: this llmux knows the server to have been ready, and has not told it to
        end since.
    @ivar said_yes_at: when a wake ended with the server's yes.
    @ivar end: how the process ended that this llmux has started, in a few words; "" as long
        as it runs.
    @ivar on_end: is called when that process has ended; None if nobody wants to know.
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
        @param budget: how many lines of the server's output may be logged.
        @param directory: gives the path of the model's own directory, or raises OSError.
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
        Read what an earlier llmux has left, the first time that this is called.

        @param follows: have the output of a server that still runs logged.
        @return: whether there is something to be known that was not known before.
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
        """The process that was started runs."""
        return self.record is not None and self._table.leads(self.record.process)

    @property
    def lives(self) -> bool:
        """The process that was started runs, or another one of its group does."""
        return self.record is not None and self._table.group_lives(self.record.process)

    @property
    def awaits_status(self) -> bool:
        """This llmux has started the process, and has not been told yet how it ended."""
        return self._process is not None and not self.end

    def signal(self, number: signal.Signals) -> None:
        """Signal all of the server's group that is left."""
        if self.record is not None:
            self._table.signal_group(self.record.process, number)

    def last_line(self) -> str:
        """Give the last line that the server has written; "" if there is none."""
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
        Start the server.  None must be left of the one before.

        @param path: where the command runs.
        @param port: where it was told to listen.
        @raise OSError: it could not be started.
        @raise ValueError: it could not be started.
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
            # Another has been started since.
            return
        self.end = how
        if self._output is not None:
            self._output.catch_up()
        if self.on_end is not None:
            self.on_end()
        else:
            self.found_gone()

    def found_gone(self) -> None:
        """The server does not run any more: say so in the log, if it was ready before."""
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
        """Nothing is left of the server."""
        self.record = self._process = None
        self.said_yes = False
        self.end = ""
        try:
            os.unlink(os.path.join(self._directory(), SERVER_RECORD))
        except OSError:
            # What it names is gone, and found to be gone whoever reads it.
            pass
        self.close()

    def close(self) -> None:
        """Log what the server has written so far, and no more."""
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
    Read what is known of a server; None if nothing is.

    @raise OSError: there may be something, and it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(os.read(fd, 4096), type=ServerRecord)
    except msgspec.DecodeError:
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
