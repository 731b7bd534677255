"""
The parts, put together from a configuration.
"""

from __future__ import annotations

from typing import Any

from twisted.web.resource import IResource

from llmux.config import Config
from llmux.hooks import HookRunner
from llmux.interfaces import IHookRunner
from llmux.metrics import Metrics
from llmux.policy import build_policy
from llmux.proxy.pool import BackendPool
from llmux.proxy.resource import ProxyResource
from llmux.proxy.sleep import ConnectionDroppingHooks
from llmux.settings import SwitchSettings
from llmux.switcher import ModelSwitcher
from llmux.web.endpoints import Root
from llmux.web.switching import SwitchingResource

__all__ = ["build_app"]


def build_app(
    config: Config,
    reactor: Any,
    *,
    hooks: IHookRunner | None = None,
    metrics: Metrics | None = None,
) -> tuple[IResource, ModelSwitcher]:
    """
    The root of the Resource tree, for any Site, and who decides which model
    is awake.  Nothing runs before the switcher's C{start}, or before the
    first request that names a model.

    @param hooks: runs the scripts; the configuration's own if None.
    @param metrics: counts; a new one if None.
    """
    metrics = Metrics() if metrics is None else metrics
    pool = BackendPool(reactor)
    models, policy = config.models, config.policy
    backends = {name: (model.host, model.port) for name, model in models.items()}
    if hooks is None:
        hooks = HookRunner(reactor, models, config.directory, metrics=metrics)
    switcher = ModelSwitcher(
        reactor,
        ConnectionDroppingHooks(hooks, pool, backends),
        build_policy(config),
        {name: model.wake_timeout_secs for name, model in models.items()},
        SwitchSettings(
            request_timeout=policy.request_timeout_secs,
            drain_before_switch=policy.drain_before_switch,
            min_active=policy.min_active_secs,
            drain_timeout=policy.drain_timeout_secs,
            shutdown_timeout=config.shutdown_timeout_secs,
            sleep_on_exit=config.sleep_on_exit,
        ),
        metrics,
    )
    switcher.call_when_stopped(pool.close)
    proxy = ProxyResource(
        pool,
        {name: (model.host, model.port) for name, model in models.items()},
        reactor,
        others_wait=switcher.others_wait,
        client_stall_timeout=config.client_stall_timeout_secs,
        metrics=metrics,
    )
    switching = SwitchingResource(
        proxy,
        switcher,
        reactor,
        max_body=config.max_body_mb * 2**20,
        metrics=metrics,
    )
    return Root(models, switching, metrics), switcher
