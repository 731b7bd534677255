"""
This package defines what a configuration file may say, and reads such files.

The public names can be imported from C{llmux.config} itself.  Each name is imported from its
module when somebody first asks for the name: a command that only has to find the daemon should
not wait for the conversion of a whole configuration.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmux.config.error import ConfigError
    from llmux.config.read import config_from_mapping, load_config, parse_config
    from llmux.config.values import Config, ModelConfig, PolicyConfig

__all__ = [
    "Config",
    "ConfigError",
    "ModelConfig",
    "PolicyConfig",
    "config_from_mapping",
    "load_config",
    "parse_config",
]

_HOME = {
    "Config": "llmux.config.values",
    "ConfigError": "llmux.config.error",
    "ModelConfig": "llmux.config.values",
    "PolicyConfig": "llmux.config.values",
    "config_from_mapping": "llmux.config.read",
    "load_config": "llmux.config.read",
    "parse_config": "llmux.config.read",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value
