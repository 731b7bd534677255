"""
llmux is one OpenAI-compatible endpoint in front of more language models than the GPU can hold.

This package has the public names.  Each is imported from its module when somebody first asks
for the name, because C{twistd} and the command line should not wait for what they do not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmux._version import __version__

if TYPE_CHECKING:
    from llmux.app import build_app
    from llmux.config import Config, ConfigError, ModelConfig, PolicyConfig, load_config
    from llmux.daemon.service import make_service
    from llmux.errors import (
        HookFailed,
        ModelNotFound,
        NotReady,
        SwitchError,
        SwitchTimeout,
    )
    from llmux.hooks.runner import HookRunner
    from llmux.interfaces import (
        HookKind,
        HookResult,
        IHookRunner,
        IRunningHook,
        IScheduleView,
        ISwitchPolicy,
        ISwitchPolicyFactory,
        PolicyContext,
        Rebind,
        Reopen,
        Stay,
        Switch,
    )
    from llmux.policy.fifo import FifoPolicy
    from llmux.proxy.resource import ProxyResource
    from llmux.proxy.switching_resource import SwitchingResource
    from llmux.switching.decisions.view import ScheduleView
    from llmux.switching.facts.cost import SwitchCostTracker
    from llmux.switching.facts.phases import Phase
    from llmux.switching.facts.settings import ModelSettings, SwitchSettings
    from llmux.switching.switcher import InFlightGuard, ModelStatus, ModelSwitcher, SwitchStatus

__all__ = [
    "Config",
    "ConfigError",
    "FifoPolicy",
    "HookFailed",
    "HookKind",
    "HookResult",
    "HookRunner",
    "IHookRunner",
    "IRunningHook",
    "IScheduleView",
    "ISwitchPolicy",
    "ISwitchPolicyFactory",
    "InFlightGuard",
    "ModelConfig",
    "ModelNotFound",
    "ModelSettings",
    "ModelStatus",
    "ModelSwitcher",
    "NotReady",
    "Phase",
    "PolicyConfig",
    "PolicyContext",
    "ProxyResource",
    "Rebind",
    "Reopen",
    "ScheduleView",
    "Stay",
    "Switch",
    "SwitchCostTracker",
    "SwitchError",
    "SwitchSettings",
    "SwitchStatus",
    "SwitchTimeout",
    "SwitchingResource",
    "__version__",
    "build_app",
    "load_config",
    "make_service",
]

_HOMES = {
    "llmux.config": ("Config", "ConfigError", "ModelConfig", "PolicyConfig", "load_config"),
    "llmux.switching.facts.cost": ("SwitchCostTracker",),
    "llmux.errors": (
        "HookFailed",
        "ModelNotFound",
        "NotReady",
        "SwitchError",
        "SwitchTimeout",
    ),
    "llmux.hooks.runner": ("HookRunner",),
    "llmux.interfaces": (
        "HookKind",
        "HookResult",
        "IHookRunner",
        "IRunningHook",
        "IScheduleView",
        "ISwitchPolicy",
        "ISwitchPolicyFactory",
        "PolicyContext",
        "Switch",
        "Stay",
        "Reopen",
        "Rebind",
    ),
    "llmux.policy.fifo": ("FifoPolicy",),
    "llmux.proxy.resource": ("ProxyResource",),
    "llmux.switching.decisions.view": ("ScheduleView",),
    "llmux.daemon.service": ("make_service",),
    "llmux.switching.facts.settings": ("ModelSettings", "SwitchSettings"),
    "llmux.switching.facts.phases": ("Phase",),
    "llmux.switching.switcher": (
        "InFlightGuard",
        "ModelStatus",
        "ModelSwitcher",
        "SwitchStatus",
    ),
    "llmux.app": ("build_app",),
    "llmux.proxy.switching_resource": ("SwitchingResource",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
