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
    from llmux.config import Config, ConfigError, ModelConfig, PolicyConfig, load_config
    from llmux.cost import SwitchCostTracker
    from llmux.errors import (
        HookFailed,
        Internal,
        ModelNotFound,
        NotReady,
        SwitchError,
        SwitchTimeout,
    )
    from llmux.hooks import HookRunner
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
    from llmux.schedule import ScheduleContext
    from llmux.service import make_service
    from llmux.settings import SwitchSettings
    from llmux.switcher import (
        Active,
        Idle,
        InFlightGuard,
        ModelSwitcher,
        SwitcherState,
        Switching,
    )
    from llmux.web.app import build_app
    from llmux.web.switching import SwitchingResource

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
    "llmux.cost": ("SwitchCostTracker",),
    "llmux.errors": (
        "HookFailed",
        "Internal",
        "ModelNotFound",
        "NotReady",
        "SwitchError",
        "SwitchTimeout",
    ),
    "llmux.hooks": ("HookRunner",),
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
    "llmux.schedule": ("ScheduleContext",),
    "llmux.service": ("make_service",),
    "llmux.settings": ("SwitchSettings",),
    "llmux.switcher": (
        "Active",
        "Idle",
        "InFlightGuard",
        "ModelSwitcher",
        "SwitcherState",
        "Switching",
    ),
    "llmux.web.app": ("build_app",),
    "llmux.web.switching": ("SwitchingResource",),
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
