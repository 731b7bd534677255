"""The values that a configuration has, with their ranges and defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from llmux.config.naming import (
    BodyKeys,
    BodyMembers,
    ModelMetadata,
    OptionalName,
    VariantConfig,
)
from llmux.config.room import RESOURCE_NAME, room_of
from llmux.interfaces import PolicyContext

__all__ = [
    "AdminConfig",
    "Config",
    "ModelConfig",
    "Name",
    "OptionalScript",
    "PolicyConfig",
    "Script",
]

# title: what the value is; description: what to give instead.
Port = Annotated[int, Meta(ge=1, le=65535, title="a port", description="give 1 to 65535")]
Script = Annotated[
    str, Meta(min_length=1, title="a shell script", description="give one, in quotes")
]
OptionalScript = Annotated[
    Script | None, Meta(title="a shell script", description="give one, in quotes")
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
ByteRate = Annotated[
    float,
    Meta(
        ge=0, title="a number of bytes per second", description="give a number, 0 for no limit"
    ),
]
Hosts = Annotated[
    tuple[str, ...],
    Meta(title="a list of hosts' names", description='give one, as in ["llm.lan", "*.lan"]'),
]
Origins = Annotated[
    tuple[str, ...],
    Meta(
        title="a list of origins",
        description='give one, as in ["https://chat.example.com", "app://*"]',
    ),
]
Names = Annotated[
    tuple[Name, ...],
    Meta(title="a list of names", description="give one, as in [gpt-4o-mini]"),
]
Weight = Annotated[float, Meta(gt=0, title="a weight", description="give a number above 0")]
Megabytes = Annotated[
    int,
    Meta(
        ge=1, title="a whole number of megabytes", description="give a whole number, 1 or more"
    ),
]
Count = Annotated[
    int, Meta(ge=1, title="a whole number", description="give a whole number, 1 or more")
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

NeededAmount = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]
ThereIs = Annotated[int, Meta(gt=0)] | Annotated[float, Meta(gt=0)]
ResourceName = Annotated[str, Meta(pattern=RESOURCE_NAME)]
Resources = Annotated[
    dict[ResourceName, ThereIs] | list[ResourceName | int],
    Meta(
        title="a mapping of resources to amounts",
        description="write it as in {gpu0: 24, gpu1: 24}; a list means 1 of each",
    ),
]
Place = dict[str, NeededAmount]
ModelNeeds = Annotated[
    Place | list[Place | str | int] | str | int | None,
    Meta(
        title="what a model needs",
        description="write it as in {gpu0: 20}, or a list of places: [{gpu0: 20}, {gpu1: 20}]",
    ),
]

DEFAULT_HEALTH = "/health"


class ModelConfig(Struct, frozen=True, kw_only=True):
    """
    The configuration of one model: where its backend listens, and what moves it, which is
    either one command, of its server, or scripts.

    @ivar serve: the command of the model's server, in place of wake, sleep and alive.
    @ivar port: the port of its backend; left out with serve, a free one is found at each
        wake; left out without, wake writes the backend's address to C{$LLMUX_STATE/backend}.
    @ivar wake: the script that brings the model up; run on a model that is awake it
        does no harm.
    @ivar sleep: the script that frees what the model holds.
    @ivar stop_secs: with serve: seconds from TERM to KILL when the server is stopped.
    @ivar prepare: a script that runs as soon as a switch is to lead to the model, beside
        the drain and wake, until the model is awake.
    @ivar alive: the script that says whether the model is awake; where there is
        none llmux itself asks the backend.
    @ivar health: the path that llmux asks then; status 200 is yes, refused or 503 is
        no, no answer in time is unknown.
    @ivar host: the host of its backend.
    @ivar wake_timeout_secs: the longest that wake, and C{alive}'s yes after it, may take.
    @ivar sleep_timeout_secs: the longest that sleep may take.
    @ivar alive_timeout_secs: the longest that one question to C{alive} may take.
    @ivar first_byte_timeout_secs: how long its backend may take until its reply
        begins; None for ever.
    @ivar weight: what its waiters count, for policies that weigh.
    @ivar check_secs: while the model is awake, C{alive} is asked this often;
        None only when there is a reason.
    @ivar confirm_sleep: the model counts as asleep when C{alive} says no, and
        not already when its sleep hook has succeeded.
    @ivar needs: what the model needs of the resources while it is awake: a mapping, a list
        of places of which one is enough, the name of a resource that it needs all of, or
        C{{}} for nothing; None for all that models with C{keep: always} leave.
    @ivar keep: C{always} for a model that is woken at start, and again when it dies, and
        that makes room for nobody.
    @ivar aliases: further names by which requests may call the model.
    @ivar backend_model: what the backend is told as C{model}; None: what the client said.
    @ivar strip: keys of a JSON body that do not reach the backend.
    @ivar defaults: members of a JSON body where the client gives none.
    @ivar set: members of a JSON body, whatever the client gives.
    @ivar variants: further names with changes of their own: the same backend.
    @ivar listed: C{/v1/models} has the model.
    @ivar metadata: what clients are told of the model there.
    @ivar idle_sleep_secs: after how long without a request the model is put to sleep;
        None never.
    """

    serve: OptionalScript = None
    port: Annotated[Port | None, Meta(title="a port", description="give 1 to 65535")] = None
    wake: OptionalScript = None
    sleep: OptionalScript = None
    alive: Annotated[
        Script | None,
        Meta(
            title="a shell script",
            description="give one, in quotes, or leave it out to have the backend asked",
        ),
    ] = None
    health: Annotated[
        str,
        Meta(
            pattern=r"\A/[!-~]*\Z",
            title="a path",
            description='give one that begins with a slash, as in "/health"',
        ),
    ] = DEFAULT_HEALTH
    host: Name = "127.0.0.1"
    wake_timeout_secs: Duration = 900.0
    sleep_timeout_secs: Duration = 300.0
    alive_timeout_secs: Duration = 10.0
    first_byte_timeout_secs: OptionalDuration = None
    weight: Weight = 1.0
    check_secs: Annotated[
        Duration | None,
        Meta(
            title="a number of seconds",
            description="give a number above 0, or null to ask only after errors",
        ),
    ] = 60.0
    confirm_sleep: Flag = False
    stop_secs: Duration = 10.0
    prepare: OptionalScript = None

    needs: ModelNeeds = None
    keep: Annotated[
        Literal["always"] | None,
        Meta(title="a way to keep a model", description="write always, or leave it out"),
    ] = None
    aliases: Names = ()
    backend_model: OptionalName = None
    strip: BodyKeys = ()
    defaults: BodyMembers = {}
    set: BodyMembers = {}
    variants: Mapping[str, VariantConfig] = {}
    listed: Flag = True
    metadata: ModelMetadata = ModelMetadata()

    idle_sleep_secs: OptionalDuration = None

    @property
    def address(self) -> tuple[str, int]:
        """Where its backend listens, as far as the configuration tells: else the port is 0."""
        return self.host, self.port or 0

    @property
    def is_plain(self) -> bool:
        """Whether the model has no name but its own, and its bodies pass as they come."""
        return not (
            self.aliases
            or self.backend_model
            or self.strip
            or self.defaults
            or self.set
            or self.variants
        )


class PolicyConfig(Struct, frozen=True, kw_only=True):
    """
    The part of a configuration that says when to switch.

    @ivar name: the name of the policy that decides.
    @ivar request_timeout_secs: the longest that a request waits; None for ever.
    @ivar drain_before_switch: requests in flight end before the sleep hook.
    @ivar min_active_secs: the shortest that a model is awake.
    @ivar drain_timeout_secs: after this long a drain aborts what is still in
        flight; None never.
    @ivar parallel_wakes: the number of models that wake at a time, at most; None for no
        limit.
    @ivar settings: the policy's own, an instance of its factory's C{settings};
        None if it has none, or for its defaults.
    """

    name: Name = "cost_aware"
    request_timeout_secs: OptionalDuration = None
    drain_before_switch: Flag = True
    min_active_secs: Seconds = 0.0
    drain_timeout_secs: OptionalDuration = None
    parallel_wakes: Annotated[
        Count | None,
        Meta(
            title="a whole number",
            description="give 1 or more, or leave it out for no limit",
        ),
    ] = None
    settings: Any = None


class AdminConfig(Struct, frozen=True, kw_only=True):
    """
    The part of a configuration that says where llmux is asked and told.

    @ivar listen: a Twisted endpoint string: what is under /llmux/ is there, and no
        longer where clients connect; None leaves it there.
    @ivar socket: the Unix socket of the command line, or None for the default
        (L{llmux.socket_path.socket_path}).
    """

    listen: Annotated[
        Name | None,
        Meta(
            title="an endpoint",
            description='give a string, as in "tcp:3001:interface=127.0.0.1"',
        ),
    ] = None
    socket: Annotated[
        Name | None, Meta(title="a file name", description="give a string, or leave it out")
    ] = None


class Config(Struct, frozen=True, kw_only=True):
    """
    A whole configuration.

    @ivar models: the models, by the names that requests call them.
    @ivar policy: when to switch, and to which model.
    @ivar resources: what the models share, in any unit, by any names; a list means 1 of
        each.  Where there are none, one model is awake at a time.
    @ivar port: the port at which llmux listens.
    @ivar host: the address at which llmux listens; 0.0.0.0 for every interface.
    @ivar listen: a Twisted endpoint string in place of C{host} and C{port}.
    @ivar admin: where llmux is asked and told.
    @ivar allowed_hosts: names by which clients may ask for a server that only
        this machine reaches, besides its own; C{*.} stands for what is under one.
    @ivar cors_origins: origins whose web pages may use the server.
    @ivar client_stall_timeout_secs: how long a client may take no byte while
        others wait for its model to drain.
    @ivar shutdown_timeout_secs: how long requests in flight have when told to
        stop.
    @ivar sleep_on_exit: put the models that are awake to sleep on the way out.
    @ivar abandon_wake_secs: after how long a wake is called off that nobody
        waits for any more, while others wait for its room; None never.
    @ivar max_body_mb: larger request bodies are refused (MiB).
    @ivar max_memory_mb: bodies of all clients in memory, beyond which those of
        more than 64 KiB go to disk (MiB).
    @ivar max_spool_mb: bodies of all clients on disk, beyond which they are
        refused (MiB); at least C{max_body_mb}.
    @ivar spool_dir: where large bodies lie, or None for the system's directory
        for temporary files.
    @ivar min_upload_bytes_per_sec: bodies that come more slowly, over a minute,
        are refused; 0 for none.
    @ivar max_connections: as many clients are connected at most; others wait in
        the kernel's queue.
    @ivar request_log: a file that gets a line for each request and each switch, or None.
    @ivar preload: the models that are woken at start, and when a pause ends.
    @ivar default_model: the model that is woken when there has been nothing to do for
        C{default_after_secs}; None for none.
    @ivar default_after_secs: after how long without a request in flight or waiting the
        default model is woken.
    @ivar watch_config: the configuration is read anew when its file changes.
    @ivar state_dir: where llmux keeps what outlives it, or None for
        C{$STATE_DIRECTORY}, else a directory of this file's own under
        C{$XDG_STATE_HOME/llmux}.
    @ivar directory: hooks run here, and relative paths start here; absolute.
    @ivar file: what it was read from, as messages name it.
    """

    models: Mapping[str, ModelConfig]
    policy: PolicyConfig = PolicyConfig()
    resources: Resources | None = None
    port: Port = 3000
    host: Name = "127.0.0.1"
    listen: Annotated[
        Name | None,
        Meta(title="an endpoint", description='give a string, as in "tcp:3000"'),
    ] = None
    admin: Annotated[
        AdminConfig,
        Meta(title="a mapping", description="indent listen or socket under it"),
    ] = AdminConfig()
    allowed_hosts: Hosts = ()
    cors_origins: Origins = ()
    client_stall_timeout_secs: Duration = 60.0
    shutdown_timeout_secs: Seconds = 30.0
    sleep_on_exit: Flag = False
    abandon_wake_secs: OptionalDuration = 30.0
    max_body_mb: Megabytes = 512
    max_memory_mb: Megabytes = 256
    max_spool_mb: Megabytes = 4096
    spool_dir: Annotated[
        Name | None,
        Meta(title="a directory's name", description="give a string, or leave it out"),
    ] = None
    min_upload_bytes_per_sec: ByteRate = 100.0
    max_connections: Count = 8192
    request_log: Annotated[
        Name | None, Meta(title="a file name", description="give a string, or leave it out")
    ] = None
    preload: Annotated[
        tuple[Name, ...],
        Meta(title="a list of models", description='give their names, as in ["embed"]'),
    ] = ()
    default_model: Annotated[
        Name | None, Meta(title="a model", description="give its name, or leave it out")
    ] = None
    default_after_secs: Duration = 60.0
    watch_config: Flag = False
    state_dir: Annotated[
        Name | None,
        Meta(title="a directory's name", description="give a string, or leave it out"),
    ] = None
    directory: str = msgspec.field(default_factory=os.getcwd)
    file: str = "configuration"

    def names(self) -> dict[str, str]:
        """Return all names that requests may give, each with its model's own name."""
        names = {name: name for name in self.models}
        for name, model in self.models.items():
            names |= dict.fromkeys((*model.aliases, *model.variants), name)
        return names

    def policy_context(self) -> PolicyContext:
        """Return what a policy is told when it is made."""
        policy = self.policy
        room = room_of(self)
        return PolicyContext(
            weights={name: model.weight for name, model in self.models.items()},
            resources=room.resources,
            places=room.places,
            always=room.always,
            request_timeout=policy.request_timeout_secs,
            min_active=policy.min_active_secs,
            drain_before_switch=policy.drain_before_switch,
            parallel_wakes=policy.parallel_wakes,
        )
