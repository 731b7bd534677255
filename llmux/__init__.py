"""
One OpenAI-compatible endpoint in front of more language models than the GPU
can hold.

The public names, each imported when it is first asked for: C{twistd} and the
command line should not wait for what they do not need.
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
        Internal,
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
        IScheduleContext,
        ISwitchPolicy,
        ISwitchPolicyFactory,
        PolicyContext,
        PolicyDecision,
    )
    from llmux.policy.fifo import FifoPolicy
    from llmux.proxy.resource import ProxyResource
    from llmux.proxy.switching import SwitchingResource
    from llmux.switching.cost import SwitchCostTracker
    from llmux.switching.settings import SwitchSettings
    from llmux.switching.switcher import (
        Active,
        Idle,
        InFlightGuard,
        ModelSwitcher,
        SwitcherState,
        Switching,
    )
    from llmux.switching.view import ScheduleContext

__all__ = [
    "Active",
    "Config",
    "ConfigError",
    "FifoPolicy",
    "HookFailed",
    "HookKind",
    "HookResult",
    "HookRunner",
    "IHookRunner",
    "IRunningHook",
    "IScheduleContext",
    "ISwitchPolicy",
    "ISwitchPolicyFactory",
    "Idle",
    "InFlightGuard",
    "Internal",
    "ModelConfig",
    "ModelNotFound",
    "ModelSwitcher",
    "NotReady",
    "PolicyConfig",
    "PolicyContext",
    "PolicyDecision",
    "ProxyResource",
    "ScheduleContext",
    "SwitchCostTracker",
    "SwitchError",
    "SwitchSettings",
    "SwitchTimeout",
    "SwitcherState",
    "Switching",
    "SwitchingResource",
    "__version__",
    "build_app",
    "load_config",
    "make_service",
]

_HOMES = {
    "llmux.config": ("Config", "ConfigError", "ModelConfig", "PolicyConfig", "load_config"),
    "llmux.switching.cost": ("SwitchCostTracker",),
    "llmux.errors": (
        "HookFailed",
        "Internal",
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
        "IScheduleContext",
        "ISwitchPolicy",
        "ISwitchPolicyFactory",
        "PolicyContext",
        "PolicyDecision",
    ),
    "llmux.policy.fifo": ("FifoPolicy",),
    "llmux.proxy.resource": ("ProxyResource",),
    "llmux.switching.view": ("ScheduleContext",),
    "llmux.daemon.service": ("make_service",),
    "llmux.switching.settings": ("SwitchSettings",),
    "llmux.switching.switcher": (
        "Active",
        "Idle",
        "InFlightGuard",
        "ModelSwitcher",
        "SwitcherState",
        "Switching",
    ),
    "llmux.app": ("build_app",),
    "llmux.proxy.switching": ("SwitchingResource",),
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
