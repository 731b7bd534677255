"""
This package defines what a configuration file may say, and reads such files.

The public names can be imported from C{llmux.config} itself.  Each name is imported from its
module when somebody first asks for the name: a command that only has to find the daemon should
not wait for the conversion of a whole configuration.

 - C{read}: a configuration from bytes
 - C{json_schema}: the JSON schema, for editors
 - C{conversion}: plain values to a C{Config}
 - C{hook_checks}: how a model is woken and put to sleep, checked
 - C{name_checks}: aliases and variants, checked
 - C{difference}: what differs between two configurations
 - C{values}: the values of a configuration, with ranges and defaults
 - C{name_values}: the values that change how the bodies of requests are passed on
 - C{room}: what models need and what there is, in exact amounts
 - C{document}: the text of a file, YAML or JSON, as plain values
 - C{yaml_reader}: YAML as plain values
 - C{error}: what is wrong with a configuration, and with which key
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
