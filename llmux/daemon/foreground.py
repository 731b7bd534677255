"""
This module runs llmux in the foreground of a terminal, or under an init system without twistd.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from llmux.daemon.reactor_choice import install_reactor
from llmux.daemon.twisted_gaps import without_openssl

if TYPE_CHECKING:
    from llmux.config import Config

__all__ = ["serve"]


def serve(
    config: Config,
    *,
    log_format: str = "text",
    verbose: bool = False,
    port: int | None = None,
    up: Callable[[], object] | None = None,
) -> int:
    """
    Run llmux in the foreground until a signal stops it, with the log on stderr.  This function
    runs the reactor, so it can be called once in a process.

    @param port: the port that the command line gives, which replaces the file's also when the
        file is read anew.
    @param up: a function that is called when connections are accepted.
    @return: the exit status: 0, or 128 plus the number of the signal that aborted requests.
    @raise ConfigError: llmux cannot listen, or something that the configuration names cannot be
        used.
    """
    reactor = _reactor(config)
    from twisted.application.service import IService
    from twisted.logger import globalLogBeginner

    from llmux.daemon.reload import ConfigFile
    from llmux.daemon.service import LlmuxService
    from llmux.daemon.signals import ProcessOwner
    from llmux.monitoring.log import log_observer
    from llmux.monitoring.log_stream import later_in

    service = LlmuxService(config, reactor, is_daemon=True)
    observer = log_observer(sys.stderr, log_format, verbose, later_in(reactor))
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    owner = ProcessOwner(
        reactor,
        service,
        hangup_stops=sys.stdin.isatty(),
        config_file=ConfigFile(
            os.path.join(config.directory, os.path.basename(config.file)), port
        ),
    )
    IService(owner).setServiceParent(service)
    IService(service).privilegedStartService()
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    if up is not None:
        reactor.callWhenRunning(up)
    reactor.run()
    return 0 if owner.aborted_by is None else 128 + owner.aborted_by


def _reactor(config: Config) -> Any:
    """Return the reactor: llmux's own, if this platform has epoll(7)."""
    plain = config.listen is None or config.listen.partition(":")[0] in _PLAIN_ENDPOINTS
    with without_openssl() if plain else nullcontext():
        install_reactor()
        from twisted.internet import reactor
    return reactor


_PLAIN_ENDPOINTS = frozenset({"systemd", "tcp", "tcp6", "unix"})
