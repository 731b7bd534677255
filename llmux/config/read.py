"""
This module reads a configuration from bytes, and returns a frozen L{Config} or raises one
L{ConfigError}.
"""

from __future__ import annotations

import os

from llmux.config.conversion import Conversion
from llmux.config.document import read_document
from llmux.config.error import ConfigError
from llmux.config.values import Config

__all__ = ["config_from_mapping", "load_config", "parse_config"]

MAX_FILE_BYTES = 16 * 2**20


def load_config(file: str, *, port: int | None = None) -> Config:
    """
    Read a configuration file.

    @param port: the TCP port to listen on, in place of the file's.
    @raise ConfigError: the file cannot be read, or its configuration is not sound.
    """
    try:
        with open(file, "rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as e:
        why = (e.strerror or str(e)) if isinstance(e, OSError) else str(e)
        raise ConfigError(
            file,
            "",
            f"it cannot be read: {why[:1].lower()}{why[1:]}",
            "name the configuration with -c FILE",
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(
            file, "", f"it is larger than {MAX_FILE_BYTES >> 20} MiB", "is it the right file?"
        )
    return parse_config(data, file, port=port)


def parse_config(data: bytes, file: str, *, port: int | None = None) -> Config:
    """
    Make a configuration of a file's bytes.

    @param file: the file's name; the extension tells JSON from YAML, and the directory becomes
        L{Config.directory}.
    @raise ConfigError: the bytes are not a sound configuration.
    """
    directory = os.path.dirname(os.path.abspath(file))
    return config_from_mapping(
        read_document(data, file), directory=directory, file=file, port=port
    )


def config_from_mapping(
    document: object,
    *,
    directory: str | None = None,
    file: str = "configuration",
    port: int | None = None,
) -> Config:
    """
    Make a configuration of a dict; an application that embeds llmux has one.

    @param directory: L{Config.directory}; the working directory if None.
    @param file: the name that errors give to the configuration.
    @raise ConfigError: the configuration is not sound.
    """
    return Conversion(file).config(document, directory or os.getcwd(), port)
