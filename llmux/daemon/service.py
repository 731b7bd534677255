"""
llmux as an IService: bound when made, serving from its start on, and gentle when
stopped.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from zope.interface import implementer

from llmux.config import Config
from llmux.config.error import ConfigError
from llmux.daemon.listener import Listener
from llmux.monitoring.metrics import load_exposition

if TYPE_CHECKING:
    from llmux.monitoring.request_log import RequestLog
    from llmux.web.access import AccessRules

__all__ = ["LlmuxService", "make_service"]

LAST_REPLIES = 5.0
"""Seconds that clients get at least to take the ends of their replies when llmux stops."""


def make_service(config: Config, reactor: Any) -> IService:
    """
    Make llmux, ready to start: its sockets are bound and its files open.

    @raise ConfigError: something that the configuration names cannot be used.
    """
    return LlmuxService(config, reactor)


@implementer(IService)
class LlmuxService(MultiService):
    """
    The service that holds all parts of llmux.

    Stopped, it takes no new connections, refuses who waits, lets requests in
    flight finish and their replies reach the clients, all within
    C{shutdown_timeout_secs}, and aborts what is left.

    @ivar config: what it was made from.
    @ivar resource: the root of the Resource tree.
    @ivar switcher: who is awake.
    @ivar listener: where clients connect.
    """

    _log = Logger()

    def __init__(
        self, config: Config, reactor: Any, *, owner: tuple[int, int] | None = None
    ) -> None:
        """
        @param owner: the user and the group that this process will become, if
            it will (C{twistd --uid}).
        @raise ConfigError: something that the configuration names cannot be
            used.
        """
        MultiService.__init__(self)
        from llmux.app import build_app
        from llmux.daemon.admission import Admission, AdmittingSite
        from llmux.daemon.spool import open_storage
        from llmux.hooks.state import prepare_state
        from llmux.proxy.model_name.find import scan_on_arrival
        from llmux.web.limits import Limits

        self._reactor = reactor
        self._stopping: Deferred[None] | None = None
        config = self.config = prepare_state(config, owner)
        self.resource, self.switcher = build_app(config, reactor)
        self._site = AdmittingSite(
            self.resource,
            reactor,
            limits=Limits(body=config.max_body_mb * 2**20),
            min_upload_rate=config.min_upload_bytes_per_sec,
            scan=scan_on_arrival,
            storage=open_storage(config),
        )
        self._site.noisy = False
        self._request_log = _open_request_log(config, reactor, owner)
        if self._request_log is not None:
            self.switcher.add_observer(self._request_log)
        # Last, so that nothing is bound if anything else is amiss.
        try:
            self.listener = Listener(
                config, reactor, self._site, owner=owner, bound=self._bound
            )
        except ConfigError:
            if self._request_log is not None:
                self._request_log.close()
            raise
        IService(self.listener).setServiceParent(self)
        self._admission = Admission(
            reactor, self.listener, config.max_connections, self._site.connections
        )
        self._site.admission = self._admission

    def _bound(self, address: IAddress) -> None:
        """Refuse what web pages may not do, before there is a connection."""
        self._site.access = access_rules(self.config, address)

    def startService(self) -> None:
        """Find out what is awake, and accept connections, whose requests wait for that."""
        self.switcher.start().addErrback(
            lambda failure: self._log.failure("the switcher did not start", failure)
        )
        MultiService.startService(self)
        self._report_spool()
        self._reactor.callWhenRunning(self._reactor.callLater, 0, load_exposition)

    def _report_spool(self) -> None:
        """Try once more: a daemon has another user by now than when it was made."""
        from llmux.daemon.spool import try_spool_directory

        directory = self._site.storage.directory
        assert directory is not None
        problem = try_spool_directory(directory)
        if problem:
            self._log.error(
                "{directory}, where large request bodies go, cannot be written: {problem}; "
                "set spool_dir",
                directory=directory,
                problem=problem,
            )
        else:
            self._log.info(
                "large request bodies go to {directory}, {most} MiB at most",
                directory=directory,
                most=max(self.config.max_spool_mb, self.config.max_body_mb),
            )

    def stopService(self) -> Deferred[None]:
        """Stop.  The Deferred fires when all is over, and never fails.  See L{abort}."""
        if self._stopping is None:
            self._stopping = Deferred.fromCoroutine(self._stop())
        waiter: Deferred[None] = Deferred()
        self._stopping.addBoth(waiter.callback)
        return waiter

    async def _stop(self) -> None:
        began = self._reactor.seconds()
        await MultiService.stopService(self)
        self._admission.stop()
        self._site.stop_accepting_requests()
        await self.switcher.stop()
        passed = self._reactor.seconds() - began
        patience = max(LAST_REPLIES, self.config.shutdown_timeout_secs - passed)
        timer = self._reactor.callLater(patience, self._site.abort_all)
        await self._site.all_closed()
        if timer.active():
            timer.cancel()
        if self._request_log is not None:
            self._request_log.close()

    def abort(self) -> None:
        """Cut short what L{stopService} waits for: requests, replies and hooks."""
        self.switcher.abort()
        self._site.abort_all()

    def reopen_logs(self) -> None:
        """Open the request log anew: logrotate has moved it away."""
        if self._request_log is not None:
            self._request_log.reopen()


def access_rules(config: Config, address: IAddress) -> AccessRules:
    """
    What C{Host} and C{Origin} may be where llmux listens on this address.  Who
    reaches a listener that is not this machine's own knows it by names that
    llmux cannot know: there C{Host} is not checked.
    """
    from llmux.web.access import AccessRules, own_names

    host = getattr(address, "host", None)
    return AccessRules(
        checks_host=host is None or ip_address(host).is_loopback,
        hosts=[*own_names(), *config.allowed_hosts],
        origins=config.cors_origins,
    )


def _open_request_log(
    config: Config, reactor: Any, owner: tuple[int, int] | None
) -> RequestLog | None:
    if config.request_log is None:
        return None
    from llmux.monitoring.request_log import RequestLog

    path = os.path.join(config.directory, config.request_log)
    try:
        return RequestLog(path, reactor, owner=owner)
    except OSError as e:
        raise ConfigError(
            config.file,
            "request_log",
            f"{path} cannot be written: {(e.strerror or str(e)).lower()}",
            "name a file in a directory that exists and may be written",
        ) from None
