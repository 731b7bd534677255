"""
This module gives C{twistd llmux} its options, and the service that they ask for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from twisted.application.service import IService
from twisted.logger import ILogObserver
from twisted.python import usage

from llmux._version import __version__
from llmux.daemon.reactor_choice import install_reactor
from llmux.monitoring.log import LOG_FORMATS, log_observer

__all__ = ["Options", "makeService", "make_log_observer"]


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise usage.UsageError(f"-p takes a port from 0 to 65535, not {text!r}")
    return int(text)


class Options(usage.Options):
    """This class parses the options that stand after C{twistd [its own options] llmux}."""

    synopsis = "[options]"
    optParameters = [
        ["config", "c", "config.yaml", "The configuration, YAML or JSON by its extension."],
        ["port", "p", None, "Listen on this port and not on the configuration's.", _port],
        ["log-format", None, "text", "text, or json: one object a line."],
    ]
    optFlags = [["verbose", "v", "Log debug messages, Twisted's included."]]
    compData = usage.Completions(
        optActions={
            "config": usage.CompleteFiles("*.(yaml|yml|json)"),
            "log-format": usage.CompleteList(sorted(LOG_FORMATS)),
        }
    )
    parent: Any = None

    def __init__(self) -> None:
        usage.Options.__init__(self)
        self.reopen: list[Callable[[], object]] = []

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        print(f"llmux {__version__}")
        sys.exit(0)

    opt_V = opt_version
    opt_h = usage.Options.opt_help

    def postOptions(self) -> None:
        """Choose the reactor and the format of the log, unless twistd was told which to use."""
        if self["log-format"] not in LOG_FORMATS:
            raise usage.UsageError(f"--log-format is text or json, not {self['log-format']!r}")
        if self.parent is None:
            return
        # The reactor has not been imported yet, unless twistd was told which to use
        # (--reactor); in that case only its clock is replaced.
        install_reactor()
        if self.parent.get("logger") or self.parent.get("syslog"):
            if self["log-format"] != "text":
                raise usage.UsageError("--log-format goes with neither --syslog nor --logger")
            return
        # twistd finds the observer by this name, and calls it without arguments.
        global _chosen
        _chosen = self
        self.parent["logger"] = "llmux.tap.make_log_observer"


_chosen: Options | None = None


def make_log_observer() -> ILogObserver:
    """Return an observer that writes the log where twistd would, in llmux's format."""
    options = _chosen
    assert options is not None
    logfile = options.parent.get("logfile")
    nodaemon = options.parent.get("nodaemon")
    stream: Any = sys.stdout
    if logfile == "-" and not nodaemon:
        raise SystemExit("--logfile -: a daemon has no standard output; name a file")
    if not nodaemon or logfile not in (None, "", "-"):
        stream = _log_file(logfile or "twistd.log", options)
    from twisted.internet import reactor

    from llmux.monitoring.log_stream import later_in

    later = later_in(reactor)
    return log_observer(stream, options["log-format"], bool(options["verbose"]), later)


def _log_file(path: str, options: Options) -> Any:
    import signal

    from llmux.monitoring.log_file import ReopenedLogFile

    owner = _owner(options)
    try:
        log_file: Any = ReopenedLogFile.fromFullPath(path)  # type: ignore[no-untyped-call]  # LogFile's
        if owner is not None:
            log_file.give_to(*owner)
    except OSError as e:
        raise SystemExit(
            f"--logfile {path}: it cannot be written: {(e.strerror or str(e)).lower()}; "
            "name a file in a directory that exists and may be written"
        ) from None

    def rotate(number: int, frame: object) -> None:
        from twisted.internet import reactor

        reactor.callFromThread(log_file.rotate)  # type: ignore[attr-defined]  # a module, to mypy

    # twistd does the same with its own log.
    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, rotate)
    options.reopen.append(log_file.reopen)
    return log_file


def _owner(options: Options) -> tuple[int, int] | None:
    """
    Return the user and the group that C{twistd --uid --gid} will have the service run as; None
    if the process keeps its user.
    """
    parent = options.parent or {}
    user, group = parent.get("uid"), parent.get("gid")
    if user is None:
        return None
    if group is None:
        import pwd

        # twistd takes the user's own group as well.
        group = pwd.getpwuid(user).pw_gid
    return user, group


def makeService(options: Options) -> IService:
    """
    Make the service, with its sockets bound.

    @raise SystemExit: with one line that says what is wrong and what to do.
    """
    from twisted.internet import reactor

    from llmux.config import ConfigError, load_config
    from llmux.daemon.reload import ConfigFile
    from llmux.daemon.service import LlmuxService
    from llmux.daemon.signals import ProcessOwner

    try:
        config = load_config(options["config"], port=options["port"])
        service = LlmuxService(config, reactor, owner=_owner(options), is_daemon=True)
    except ConfigError as e:
        raise SystemExit(str(e)) from None
    in_terminal = bool(options.parent and options.parent.get("nodaemon")) and sys.stdin.isatty()
    owner = ProcessOwner(
        reactor,
        service,
        hangup_stops=in_terminal,
        reopen=options.reopen,
        config_file=ConfigFile(options["config"], options["port"]),
    )
    IService(owner).setServiceParent(service)
    return service
