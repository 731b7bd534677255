"""
This module has llmux as an IService, which binds its sockets when it is made, serves when it is
started, and lets requests finish when it is stopped.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from zope.interface import implementer

from llmux.config import Config
from llmux.config.error import ConfigError
from llmux.control import LONGEST_COMMAND
from llmux.daemon.listener import Listener
from llmux.interfaces import Phase
from llmux.web.limits import Limits

if TYPE_CHECKING:
    from twisted.web.resource import IResource

    from llmux.admin.listen_address import ListenAddress
    from llmux.daemon.admission import AdmittingSite
    from llmux.monitoring.request_log import RequestLog
    from llmux.web.access import AccessRules
    from llmux.web.site import LlmuxSite

__all__ = ["LlmuxService", "make_service"]

_MOST_LOOKERS = 128
"""C{admin.listen} takes this many connections at once."""

LAST_REPLIES = 5.0
"""
When llmux stops, clients have at least this many seconds to read the ends of their replies.
"""


def make_service(config: Config, reactor: Any) -> IService:
    """
    Make llmux, ready to start: its sockets are bound and its files open.  There is a
    Unix socket for commands only if C{admin.socket} asks for one.

    @raise ConfigError: something that the configuration names cannot be used.
    """
    return LlmuxService(config, reactor)


@implementer(IService)
class LlmuxService(MultiService):
    """
    The service that holds all parts of llmux.

    When the service stops, it accepts no new connections, refuses requests that wait, and lets
    requests in flight finish and their replies reach the clients, all within
    C{shutdown_timeout_secs}; then it aborts what is left.

    @ivar config: the configuration in force.
    @ivar metrics: the metrics of this llmux.
    @ivar entrance: the way to the Resources under C{/llmux}.
    @ivar resource: the root of the Resource tree.
    @ivar switcher: the switcher, which knows the models.
    @ivar listener: the listener where clients connect.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        *,
        owner: tuple[int, int] | None = None,
        is_daemon: bool = False,
    ) -> None:
        """
        @param is_daemon: whether llmux is a process of its own, which has a Unix socket for
            commands even if C{admin.socket} is not set.
        @param owner: the user and the group that this process will become (C{twistd --uid}), or
            None.
        @raise ConfigError: something that the configuration names cannot be
            used.
        """
        MultiService.__init__(self)
        from llmux.app import assemble
        from llmux.daemon.admission import Admission, AdmittingSite
        from llmux.daemon.spool import open_storage
        from llmux.hooks.persistence.state import prepare_state
        from llmux.proxy.model_name.find import scan_on_arrival

        self._reactor = reactor
        self._stopping: Deferred[None] | None = None
        self._owner = owner
        # This is the configuration as it was given: C{prepare_state} adds the path of the state
        # directory.
        self._given = config
        config = self.config = prepare_state(config, owner)
        self._app = app = assemble(config, reactor)
        self.resource: IResource = app.root
        self.switcher, self.entrance, self.metrics = app.switcher, app.entrance, app.metrics
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
        self._sockets: list[Any] = []
        self._addresses: dict[LlmuxSite, IAddress] = {}
        self._admin_sites: list[AdmittingSite] = []
        # Sockets are bound last, so that nothing is bound if anything else is wrong.
        try:
            self.listener = Listener(
                config, reactor, self._site, owner=owner, bound=self._bound
            )
            try:
                self._listen_for_operators(owner, is_daemon)
            except ConfigError:
                for bound in (self.listener, *self):
                    bound.stopService()
                raise
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
        """Set the rules for web pages, and describe the address, before anybody connects."""
        self._addresses[self._site] = address
        _describe_listen_address(self._app.listen_address, self.config, address)
        self._set_access(self._site, address)

    def _set_access(self, site: LlmuxSite, address: IAddress) -> None:
        rules = access_rules(self.config, address)
        if site.access is None:
            site.access = rules
        else:
            site.access.take_over(rules)
        site.forget_ways()

    def _listen_for_operators(self, owner: tuple[int, int] | None, is_daemon: bool) -> None:
        """Listen for operators in addition to clients."""
        from llmux.admin.listen_address import ListenAddress
        from llmux.daemon.admission import Admission

        config = self.config
        if config.admin.listen is not None:
            listen_address = ListenAddress(is_for_viewing=True)
            site = self._admin_site(listen_address)
            elsewhere = msgspec.structs.replace(config, listen=config.admin.listen)

            def bound(address: IAddress) -> None:
                site.access = access_rules(config, address)
                self._addresses[site] = address
                _describe_listen_address(listen_address, elsewhere, address)

            try:
                listener = Listener(elsewhere, self._reactor, site, owner=owner, bound=bound)
            except ConfigError as error:
                raise ConfigError(
                    error.file, "admin.listen", error.problem, error.remedy
                ) from None
            IService(listener).setServiceParent(self)
            # The number of connections is limited here too, since anybody can connect, with
            # rights or without.
            site.admission = Admission(self._reactor, listener, _MOST_LOOKERS, site.connections)
        if is_daemon or config.admin.socket is not None:
            from llmux.daemon.admin_socket import listen_for_commands

            site = self._admin_site(ListenAddress(is_socket=True))
            port: Any = listen_for_commands(config, self._reactor, site, owner)
            site.access = access_rules(config, port.getHost())
            self._addresses[site] = port.getHost()
            # A daemon is another process than the one that binds; it accepts connections when
            # it starts.
            port.pauseProducing()
            self._sockets.append(port)

    def _admin_site(self, listen_address: ListenAddress) -> AdmittingSite:
        from llmux.daemon.admission import AdmittingSite
        from llmux.web.limits import Limits

        site = AdmittingSite(
            self._app.root_at(listen_address),
            self._reactor,
            limits=Limits(body=LONGEST_COMMAND),
        )
        site.noisy = False
        self._admin_sites.append(site)
        return site

    # ----------------------------------------------------- another configuration

    def reconfigure(
        self, config: Config, *, dry_run: bool = False, restart_changed: bool = False
    ) -> list[str]:
        """
        Go on with another configuration.  No request is lost, and no request fails, except
        those for models that do not exist any more.

        @param dry_run: only find out what would change.
        @param restart_changed: models that are awake, and whose hooks have changed, are put
            to sleep and woken anew.
        @return: what changes, a line each.
        @raise ConfigError: something in the configuration cannot be taken over, or cannot be
            used; nothing has changed then.
        """
        from llmux.app import arrangement_of
        from llmux.config.difference import differences, differs_at_wake

        before = self._given
        for key in ("admin", "state_dir"):
            if getattr(before, key) != getattr(config, key):
                raise ConfigError(
                    config.file, key, "it has changed", "that needs a restart of llmux"
                )
        if self.switcher.stopping:
            raise ConfigError(config.file, "", "llmux is stopping", "start it again")
        awake = [
            name
            for name, model in self.switcher.models.items()
            if model.phase is not Phase.ASLEEP
        ]
        changes = differences(before, config, awake)
        try:
            self.switcher.reconfiguration.check(config.models)
        except ValueError as problem:
            raise ConfigError(
                config.file, "models", str(problem), "or keep the model"
            ) from None
        changes += [
            f"~ {name}: it drains and is put to sleep, there is less room"
            for name in self.switcher.reconfiguration.who_would_sleep(arrangement_of(config))
        ]
        if dry_run or not changes:
            return changes
        restarted = [
            name
            for name in awake
            if restart_changed
            and name in config.models
            and differs_at_wake(before.models[name], config.models[name])
        ]
        self._take_over(config)
        for name in restarted:
            model = self.switcher.models[name]
            if model.phase is Phase.AWAKE and not model.busy:
                self.switcher.reconfiguration.restart(model)
        return changes

    def _take_over(self, given: Config) -> None:
        """Open what is new, and then replace the old, in one turn of the reactor."""
        from llmux.daemon.spool import open_storage

        before = self._given
        config = msgspec.structs.replace(given, state_dir=self.config.state_dir)
        storage = open_storage(config)
        request_log, listener = self._request_log, self.listener
        addresses: list[IAddress] = []
        is_in_force = False

        def bound(address: IAddress) -> None:
            # What depends on the address stays as it is until nothing can fail any more.  Most
            # endpoints are bound before that, but they need not.
            addresses.append(address)
            if is_in_force:
                self._bound(address)

        try:
            if given.request_log != before.request_log:
                request_log = _open_request_log(config, self._reactor, self._owner)
            if _address_of(given) != _address_of(before):
                listener = Listener(
                    config,
                    self._reactor,
                    self._site,
                    owner=self._owner,
                    bound=bound,
                )
            try:
                self._app.reconfigure(config)
            except ValueError as problem:
                raise ConfigError(
                    config.file, "policy", str(problem), "see the README"
                ) from None
        except Exception:
            if request_log is not self._request_log and request_log is not None:
                request_log.close()
            if listener is not self.listener:
                listener.stopService()
            raise
        self._given, self.config = given, config
        is_in_force = True
        for address in addresses:
            self._bound(address)
        if request_log is not self._request_log:
            self._change_request_log(request_log)
        if listener is not self.listener:
            before_it, self.listener = self.listener, listener
            IService(listener).setServiceParent(self)
            self._admission.watch(listener)
            before_it.disownServiceParent()  # type: ignore[no-untyped-call]  # Service's
        self._admission.limit(config.max_connections)
        self._site.storage.resize(storage)
        self._site.limits = Limits(body=config.max_body_mb * 2**20)
        self._site.min_upload_rate = config.min_upload_bytes_per_sec
        for site, address in self._addresses.items():
            self._set_access(site, address)

    def _change_request_log(self, request_log: RequestLog | None) -> None:
        if self._request_log is not None:
            self.switcher.remove_observer(self._request_log)
            self._request_log.close()
        self._request_log = request_log
        if request_log is not None:
            self.switcher.add_observer(request_log)

    def startService(self) -> None:
        """
        Find out which models are awake, and accept connections; requests wait until that is
        known.
        """
        self.switcher.start().addErrback(
            lambda failure: self._log.failure("the switcher did not start", failure)
        )
        MultiService.startService(self)
        self._report_spool()
        for port in self._sockets:
            self._reactor.callWhenRunning(port.resumeProducing)

    def _report_spool(self) -> None:
        """
        Try the directory for bodies once more, since a daemon may have another user now than
        when it was made.
        """
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
        """
        Stop llmux.  The Deferred fires when all is over, and never fails.  L{abort} makes that
        sooner.
        """
        if self._stopping is None:
            self._stopping = Deferred.fromCoroutine(self._stop())
        waiter: Deferred[None] = Deferred()
        self._stopping.addBoth(waiter.callback)
        return waiter

    async def _stop(self) -> None:
        began = self._reactor.seconds()
        for port in self._sockets:
            port.stopListening()
        await MultiService.stopService(self)
        self._admission.stop()
        for admin_site in self._admin_sites:
            if admin_site.admission is not None:
                admin_site.admission.stop()
        self._site.stop_accepting_requests()
        await self.switcher.stop()
        for site in self._admin_sites:
            site.stop_accepting_requests()
        passed = self._reactor.seconds() - began
        patience = max(LAST_REPLIES, self.config.shutdown_timeout_secs - passed)
        sites = [self._site, *self._admin_sites]
        timer = self._reactor.callLater(patience, self._abort_connections)
        for site in sites:
            await site.all_closed()
        if timer.active():
            timer.cancel()
        if self._request_log is not None:
            self._request_log.close()

    def abort(self) -> None:
        """Abort what L{stopService} waits for: requests, replies and hooks."""
        self.switcher.abort()
        self._abort_connections()

    def _abort_connections(self) -> None:
        for site in (self._site, *self._admin_sites):
            site.abort_all()

    def reopen_logs(self) -> None:
        """Open the request log anew, after logrotate has moved its file."""
        if self._request_log is not None:
            self._request_log.reopen()


def _address_of(config: Config) -> tuple[object, ...]:
    return config.listen, config.host, config.port


def _is_private(address: IAddress) -> bool:
    """Tell whether only users of this machine can reach what listens on this address."""
    host = getattr(address, "host", None)
    return host is None or ip_address(host).is_loopback


def _describe_listen_address(
    listen_address: ListenAddress, config: Config, address: IAddress
) -> None:
    """Set the attributes that depend on what has been bound."""
    from llmux.daemon.listener import describe_address

    listen_address.is_private = _is_private(address)
    host = getattr(address, "host", None)
    if host is None:
        listen_address.url = None
        return
    scheme = "https" if (config.listen or "").startswith("ssl:") else "http"
    url = describe_address(address, scheme)
    if ip_address(host).is_unspecified:
        url = url.replace(f"//{host}:", "//127.0.0.1:").replace(f"//[{host}]:", "//[::1]:")
    listen_address.url = url


def access_rules(config: Config, address: IAddress) -> AccessRules:
    """
    Return the rules for C{Host} and C{Origin} if llmux listens on this address.  If other
    machines can reach the listener, they may know it by names that llmux cannot know; C{Host}
    is not checked then.
    """
    from llmux.web.access import AccessRules, own_names

    return AccessRules(
        checks_host=_is_private(address),
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
