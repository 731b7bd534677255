"""
The configuration: bytes in, a frozen L{Config} or one L{ConfigError} out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from llmux.document import ConfigError, read_document

__all__ = [
    "Config",
    "ConfigError",
    "ModelConfig",
    "PolicyConfig",
    "config_from_mapping",
    "load_config",
    "parse_config",
]

MAX_FILE_BYTES = 16 * 2**20

# title: what the value is; description: what to give instead.
Port = Annotated[int, Meta(ge=1, le=65535, title="a port", description="give 1 to 65535")]
Script = Annotated[
    str, Meta(min_length=1, title="a shell script", description="give one, in quotes")
]
Name = Annotated[str, Meta(min_length=1, title="a name", description="give one, in quotes")]
Duration = Annotated[
    float,
    Meta(gt=0, title="a time limit in seconds", description="give a number above 0"),
]
Seconds = Annotated[
    float,
    Meta(ge=0, title="a number of seconds", description="give a number, 0 or more"),
]
Weight = Annotated[float, Meta(gt=0, title="a weight", description="give a number above 0")]
Megabytes = Annotated[
    int,
    Meta(
        ge=1, title="a whole number of megabytes", description="give a whole number, 1 or more"
    ),
]
Flag = Annotated[
    bool, Meta(title="true or false", description="give one of them, without quotes")
]
OptionalDuration = Annotated[
    Duration | None,
    Meta(
        title="a time limit in seconds",
        description="give a number above 0, or leave it out for no limit",
    ),
]


class ModelConfig(Struct, frozen=True, kw_only=True):
    """
    One model: where its backend listens, and the three scripts that move it.

    @ivar weight: what its waiters count, for policies that weigh.
    """

    port: Port
    wake: Script
    sleep: Script
    alive: Script
    host: Name = "127.0.0.1"
    wake_timeout_secs: Duration = 900.0
    sleep_timeout_secs: Duration = 300.0
    alive_timeout_secs: Duration = 10.0
    weight: Weight = 1.0


class PolicyConfig(Struct, frozen=True, kw_only=True):
    """
    When to switch.

    @ivar name: of the policy that decides.
    @ivar request_timeout_secs: the longest that a request waits; None for ever.
    @ivar drain_before_switch: requests in flight end before the sleep hook.
    @ivar min_active_secs: the shortest that a model is awake.
    @ivar drain_timeout_secs: after this long a drain aborts what is still in
        flight; None never.
    @ivar settings: the policy's own, an instance of its factory's C{settings};
        None if it has none, or for its defaults.
    """

    name: Name = "cost_aware"
    request_timeout_secs: OptionalDuration = None
    drain_before_switch: Flag = True
    min_active_secs: Seconds = 0.0
    drain_timeout_secs: OptionalDuration = None
    settings: Any = None


class Config(Struct, frozen=True, kw_only=True):
    """
    The whole.

    @ivar listen: a Twisted endpoint string in place of C{host} and C{port}.
    @ivar client_stall_timeout_secs: how long a client may take no byte while
        others wait for its model to drain.
    @ivar shutdown_timeout_secs: how long requests in flight have when told to
        stop.
    @ivar sleep_on_exit: put the awake model to sleep on the way out.
    @ivar max_body_mb: larger request bodies are refused (MiB).
    @ivar request_log: a file that gets a line for each request, or None.
    @ivar directory: hooks run here, and relative paths start here; absolute.
    @ivar file: what it was read from, as messages name it.
    """

    models: Mapping[str, ModelConfig]
    policy: PolicyConfig = PolicyConfig()
    port: Port = 3000
    host: Name = "127.0.0.1"
    listen: Annotated[
        Name | None,
        Meta(title="an endpoint", description='give a string, as in "tcp:3000"'),
    ] = None
    client_stall_timeout_secs: Duration = 60.0
    shutdown_timeout_secs: Seconds = 30.0
    sleep_on_exit: Flag = False
    max_body_mb: Megabytes = 512
    request_log: Annotated[
        Name | None, Meta(title="a file name", description="give a string, or leave it out")
    ] = None
    directory: str = msgspec.field(default_factory=os.getcwd)
    file: str = "configuration"


def load_config(file: str, *, port: int | None = None) -> Config:
    """
    Read a configuration file.

    @param port: listen here and not where the file says.
    @raise ConfigError: the file cannot be read or is not sound.
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
    Make sense of a configuration file's bytes.

    @param file: its name: the extension tells JSON from YAML, and the
        directory becomes L{Config.directory}.
    @raise ConfigError: they are not sound.
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
    The same for a configuration that is already a dict, as an embedding
    application has it.

    @param directory: L{Config.directory}; the working directory if None.
    @param file: what errors call it.
    @raise ConfigError: it is not sound.
    """
    from llmux.conversion import Conversion

    return Conversion(file).config(document, directory or os.getcwd(), port)
