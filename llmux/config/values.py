"""This module defines the values that a configuration has, with their ranges and defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from llmux.config.name_values import (
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

# Messages of errors say the title (what the value is) and the description (what to give in
# place of a wrong value).
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
NameList = Annotated[
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
    A model's configuration says where its backend listens, and how the model is woken and put
    to sleep: either by the command of its server, or by scripts.

    @ivar serve: the command of the model's server, in place of wake, sleep and alive.
    @ivar port: the TCP port of its backend.  If it is left out, llmux chooses a free port at
        each wake where there is serve; where there is none, wake writes the backend's address
        to C{$LLMUX_STATE/backend}.
    @ivar wake: the script that wakes the model; the script must do no harm when the model is
        awake already.
    @ivar sleep: the script that frees what the model holds.
    @ivar stop_secs: with serve: how many seconds the server has to end after TERM, before it
        gets KILL.
    @ivar prepare: a script that starts as soon as llmux has chosen to wake the model, runs
        beside the drain and wake, and is ended when the model is awake.
    @ivar alive: the script that says whether the model is awake; if there is none, llmux asks
        the backend by HTTP.
    @ivar health: the path that llmux asks if there is no C{alive}; status 200 means yes, a
        refused connection or 503 means no, no answer in time means unknown.
    @ivar host: the host of its backend.
    @ivar wake_timeout_secs: the longest time that wake may take, with C{alive}'s yes after it,
        in seconds.
    @ivar sleep_timeout_secs: the longest time that sleep may take, in seconds.
    @ivar alive_timeout_secs: the longest time that one run of C{alive} may take, in seconds.
    @ivar first_byte_timeout_secs: how many seconds the backend may take until its reply begins;
        None for no limit.
    @ivar weight: how much each of its waiters counts, for policies that use weights.
    @ivar check_secs: while the model is awake, C{alive} is asked each time after this many
        seconds; None to ask only after errors.
    @ivar confirm_sleep: whether the model counts as asleep only when C{alive} says no, and not
        as soon as its sleep hook has succeeded.
    @ivar needs: what the model needs of the resources while it is awake: a mapping, a list of
        places of which any is enough, the name of a resource that the model needs all of, or
        C{{}} for nothing; None for all that the models with C{keep: always} leave.
    @ivar keep: C{always} for a model that is woken at start, and again when its backend dies,
        and that is never put to sleep for another model.
    @ivar aliases: further names by which requests may call the model.
    @ivar backend_model: what the backend is told as C{model}; if None, what the client said.
    @ivar strip: keys that are removed from a JSON body.
    @ivar defaults: members that a JSON body gets where the client gives none.
    @ivar set: members that a JSON body gets whatever the client gives.
    @ivar variants: further names of the model, each with changes of its own to a JSON body; the
        backend is the same.
    @ivar listed: whether C{/v1/models} lists the model.
    @ivar metadata: what C{/v1/models} tells clients of the model.
    @ivar idle_sleep_secs: after how many seconds without a request the model is put to sleep;
        None for never.
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
    aliases: NameList = ()
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
        """
        Return the host and the port of the backend; the port is 0 if the configuration has
        none.
        """
        return self.host, self.port or 0

    @property
    def is_plain(self) -> bool:
        """
        Tell whether the model has no name but its own, and the bodies of its requests pass
        unchanged.
        """
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
    This part of a configuration says when to switch, and to which model.

    @ivar name: the name of the policy that decides.
    @ivar request_timeout_secs: the longest time that a request waits, in seconds; None for no
        limit.
    @ivar drain_before_switch: whether requests in flight end before the sleep hook starts.
    @ivar min_active_secs: the shortest time that a model is awake, in seconds.
    @ivar drain_timeout_secs: after how many seconds a drain aborts the requests that are still
        in flight; None for never.
    @ivar parallel_wakes: the largest number of models that wake at the same time; None for no
        limit.
    @ivar settings: the policy's own settings, an instance of its factory's C{settings}; None if
        the policy has none, or for its defaults.
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
    This part of a configuration says where llmux answers operators' questions and takes their
    commands.

    @ivar listen: a Twisted endpoint string: all paths under /llmux/ are served there, and no
        longer where clients connect; if None, they are served where clients connect.
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
    A configuration says which models there are, and how llmux serves them.

    @ivar models: the models, by the names that requests call them.
    @ivar policy: when to switch, and to which model.
    @ivar resources: the resources that the models share, by any names and in any unit; a list
        means 1 of each.  If there are none, one model is awake at a time.
    @ivar port: the port at which llmux listens.
    @ivar host: the address at which llmux listens; 0.0.0.0 for every interface.
    @ivar listen: a Twisted endpoint string in place of C{host} and C{port}.
    @ivar admin: where llmux answers operators.
    @ivar allowed_hosts: further host names by which clients may call an llmux that only this
        machine reaches; C{*.NAME} stands for all names under NAME.
    @ivar cors_origins: the origins whose web pages may use llmux.
    @ivar client_stall_timeout_secs: how many seconds a client may read nothing of its reply
        while others wait for its model to drain.
    @ivar shutdown_timeout_secs: how many seconds requests in flight have to end after llmux was
        told to stop.
    @ivar sleep_on_exit: whether the models that are awake are put to sleep when llmux stops.
    @ivar abandon_wake_secs: after how many seconds a wake is called off if no request waits for
        it any more, and others wait for its room; None for never.
    @ivar max_body_mb: the size of the largest request body, in MiB; larger ones are refused.
    @ivar max_memory_mb: how much memory the request bodies of all clients may take, in MiB;
        beyond that, bodies of more than 64 KiB go to disk.
    @ivar max_spool_mb: how much disk the request bodies of all clients may take, in MiB; beyond
        that, they are refused.  The least is C{max_body_mb}.
    @ivar spool_dir: the directory of large request bodies, or None for the system's directory
        for temporary files.
    @ivar min_upload_bytes_per_sec: bodies that come more slowly than this, over a minute, are
        refused; 0 for no limit.
    @ivar max_connections: the largest number of connections of clients; others wait in the
        kernel's queue.
    @ivar request_log: a file that gets a line for each request and each switch, or None.
    @ivar preload: the models that are woken at start, and when a pause ends.
    @ivar default_model: the model that is woken when llmux has had nothing to do for
        C{default_after_secs}; None for none.
    @ivar default_after_secs: after how many seconds without a request, in flight or waiting,
        the default model is woken.
    @ivar watch_config: whether the configuration is read anew when its file changes.
    @ivar state_dir: the directory of what llmux must know at its next start; None for
        C{$STATE_DIRECTORY} or, if that is not set, a directory under C{$XDG_STATE_HOME/llmux}
        that belongs to this file only.
    @ivar directory: the absolute path of the directory in which hooks run, and at which
        relative paths start.
    @ivar file: the name of the file that the configuration was read from, as messages give it.
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
        """Return the context that a policy is given when it is made."""
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
