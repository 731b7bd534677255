"""
The configuration: what a file may say, and how a file is read.

This package offers its public names under its own, as C{llmux.config} always did.
"""

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
