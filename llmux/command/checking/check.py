"""C{llmux check} says whether a configuration is sound, and describes it."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any, ClassVar, NoReturn

import msgspec
from twisted.python import usage

from llmux.backend.whereabouts import address_text
from llmux.command.checking.rights import who_may
from llmux.command.checking.script_check import script_problems
from llmux.config import Config, ConfigError, ModelConfig, load_config
from llmux.config.error import key_path, printable, shown
from llmux.config.hook_checks import SCRIPTS
from llmux.config.room import Room, room_of, written
from llmux.interfaces import Needs

__all__ = ["CheckOptions", "check_surroundings", "describe", "doubts"]


class CheckOptions(usage.Options):
    """This class parses the options that stand after C{llmux check}."""

    longdesc = (
        "Say whether a configuration is sound, and what it amounts to.  Listens nowhere, and "
        "runs no hook unless told to.  What looks wrong but may be meant is said on stderr."
    )
    optParameters: ClassVar[Any] = [
        ["config", "c", None, "The configuration, YAML or JSON by its extension."],
        ["model", "m", None, "With --hooks: this model's hooks only."],
    ]
    optFlags: ClassVar[Any] = [
        ["json", None, "Print the configuration as a JSON object."],
        ["strict", None, "Exit with status 1 if anything looks wrong."],
        ["hooks", None, "Run each model's alive, and print what it said and how long it took."],
        ["cycle", None, "With --hooks: sleep, wake, alive until it says yes, and sleep again."],
    ]
    parent: Any = None

    def __init__(self) -> None:
        usage.Options.__init__(self)

    def getSynopsis(self) -> str:
        """Return the first line of the help."""
        return "Usage: llmux check [options]"

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        self.parent.opt_version()
        raise AssertionError("it has not exited")

    def parseArgs(self, *words: str) -> None:
        """Refuse words that are no options; the name of a file is the likeliest mistake."""
        if words:
            raise usage.UsageError(
                f"what is {printable(words[0])}? a configuration is given with -c FILE"
            )

    def postOptions(self) -> None:
        """Refuse options that do not go together."""
        if self["config"] is None:
            self["config"] = self.parent["config"]
        for option in "cycle", "model":
            if self[option] and not self["hooks"]:
                raise usage.UsageError(f"--{option} goes with --hooks")

    def run(self) -> int:
        """
        Check the configuration, print what was found, and return the exit status.

        @return: 0 if the configuration is sound; 1 if it is not, if a hook does not do what
            llmux needs, or, with C{--strict}, if anything looks wrong.
        """
        try:
            config = load_config(self["config"])
            check_surroundings(config)
            models = _models(config, self["model"])
        except ConfigError as e:
            print(e, file=sys.stderr)
            return 1
        if self["json"]:
            print(json.dumps(as_plain_values(config), indent=2))
        elif not self["hooks"]:
            print("\n".join(describe(config)))
        warnings = list(doubts(config))
        for warning in warnings:
            print(f"{printable(config.file)}: {warning}", file=sys.stderr)
        status = 1 if warnings and self["strict"] else 0
        if self["hooks"]:
            from llmux.command.checking.rehearsal import run_hooks

            try:
                if self["cycle"]:
                    check_nobody_serves(config)
                if not run_hooks(config, models, bool(self["cycle"]), sys.stdout):
                    status = 1
            except ConfigError as e:
                print(e, file=sys.stderr)
                return 1
        return status


def _models(config: Config, name: str | None) -> list[str]:
    if name is None:
        return sorted(config.models)
    if name not in config.models:
        known = ", ".join(sorted(config.models))
        raise ConfigError(config.file, "", f"it has no model {shown(name)}", f"known: {known}")
    return [name]


def doubts(config: Config) -> Iterator[str]:
    """Yield a line for each thing in a configuration that looks wrong but may be intended."""
    at: dict[tuple[str, int], list[str]] = {}
    for name, model in sorted(config.models.items()):
        if model.port is not None and model.serve is None:
            at.setdefault(model.address, []).append(name)
        for hook in SCRIPTS:
            place = key_path(("models", name, hook))
            script = getattr(model, hook) or "true"
            for problem in script_problems(script, config.directory):
                yield f"{place}: {printable(problem)}"
    for (host, port), names in at.items():
        if len(names) > 1:
            yield (
                f"models {', '.join(names)} share {host}:{port}; the alive of each must say no "
                "while another one is awake"
            )


def check_nobody_serves(config: Config) -> None:
    """
    Check that no llmux serves by this configuration, because it would not know that its models
    are put to sleep and woken.

    @raise ConfigError: something listens on the port of the configuration.
    """
    if config.listen is not None:
        return
    with socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as e:
            if e.errno == errno.EADDRINUSE:
                raise ConfigError(
                    config.file,
                    "port",
                    f"something listens on {config.port} already: is it llmux?",
                    "stop it before its models are put to sleep and woken",
                ) from None


def check_surroundings(config: Config) -> None:
    """
    Check the files and endpoints that a configuration names, without listening and
    without writing.

    @raise ConfigError: C{listen} or C{admin.listen} is no endpoint, or the directory of
        C{request_log} does not exist.
    """
    # The socket of systemd exists only in an llmux that systemd has started.
    if config.listen is not None and not config.listen.startswith("systemd:"):
        from llmux.daemon.listener import make_endpoint

        make_endpoint(config, None)
    if config.admin.listen is not None and not config.admin.listen.startswith("systemd:"):
        from llmux.daemon.listener import make_endpoint

        elsewhere = msgspec.structs.replace(config, listen=config.admin.listen)
        try:
            make_endpoint(elsewhere, None)
        except ConfigError as error:
            raise ConfigError(error.file, "admin.listen", error.problem, error.remedy) from None
    if config.request_log is not None:
        directory = os.path.dirname(os.path.join(config.directory, config.request_log))
        if not os.path.isdir(directory):
            raise ConfigError(
                config.file,
                "request_log",
                f"there is no directory {printable(directory)}",
                "make it, or name a file elsewhere",
            )


def as_plain_values(config: Config) -> dict[str, Any]:
    """Return the configuration with every default filled in, models sorted by name."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    plain["models"] = dict(sorted(plain["models"].items()))
    settings = plain["policy"].pop("settings")
    plain["policy"] |= settings or {}
    if config.listen is not None:
        del plain["host"], plain["port"]
    else:
        del plain["listen"]
    return plain


def describe(config: Config) -> Iterator[str]:
    """Yield lines that describe a configuration for people."""
    count = len(config.models)
    yield f"{config.file} is sound: {count} model{'s' if count > 1 else ''}"
    yield ""
    yield f"listens on        {_place(config)}"
    yield f"hooks run in      {config.directory}"
    yield f"request bodies    up to {config.max_body_mb} MiB"
    yield f"a stalled client  is cut off after {_seconds(config.client_stall_timeout_secs)}"
    end = "puts awake models to sleep" if config.sleep_on_exit else "leaves awake models awake"
    yield f"stops             within {_seconds(config.shutdown_timeout_secs)}, {end}"
    if config.request_log is not None:
        log = os.path.join(config.directory, config.request_log)
        yield f"logs requests to  {log}"
    yield ""
    yield from who_may(config)
    yield ""
    yield from _policy(config)
    room = room_of(config)
    if room.is_configured:
        yield from _room(room)
    for name, model in sorted(config.models.items()):
        yield ""
        weight = f", weight {model.weight:g}" if model.weight != 1 else ""
        yield f"model {name} {_place_of(model)}{weight}"
        further = ", ".join((*model.aliases, *model.variants))
        if further:
            yield f"  called  {printable(further)} as well"
        if model.backend_model is not None:
            yield f"  told    its backend as {printable(model.backend_model)}"
        if model.serve is not None:
            yield from _hook("serve", model.serve, model.wake_timeout_secs)
            limit = f"{_seconds(model.stop_secs)} at most:"
            yield f"  stop,  {limit:<16} TERM, and then KILL, to its process group"
        if model.wake is not None:
            yield from _hook("wake", model.wake, model.wake_timeout_secs)
        if model.sleep is not None:
            yield from _hook("sleep", model.sleep, model.sleep_timeout_secs)
        alive = f"GET {model.health}" if model.alive is None else model.alive
        yield from _hook("alive", alive, model.alive_timeout_secs)
        if model.prepare is not None:
            yield from _hook("prepare", model.prepare, model.wake_timeout_secs)
        if room.is_configured:
            places = " or ".join(_amounts(needs) for needs in room.places[name])
            yield f"  needs   {places}"
        if model.keep is not None:
            yield "  awake always"


def _place(config: Config) -> str:
    if config.listen is not None:
        return config.listen
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{config.port}"


def _place_of(model: ModelConfig) -> str:
    if model.port is not None:
        return f"at {address_text(model.address)}"
    if model.serve is not None:
        return f"at a free port of {model.host}"
    return "where its wake writes in $LLMUX_STATE/backend"


def _policy(config: Config) -> Iterator[str]:
    policy = config.policy
    yield f"policy {policy.name}"
    if policy.request_timeout_secs is None:
        yield "  a request waits for its model without limit"
    else:
        yield f"  a request waits for its model {_seconds(policy.request_timeout_secs)} at most"
    if policy.drain_before_switch:
        limit = policy.drain_timeout_secs
        within = "however long it takes" if limit is None else f"within {_seconds(limit)}"
        yield f"  requests in flight finish before a switch, {within}"
    else:
        yield "  a switch does not wait for requests in flight"
    if policy.parallel_wakes is not None:
        yield f"  at most {policy.parallel_wakes} at a time wake"
    yield f"  a model is awake for {_seconds(policy.min_active_secs)} at least"
    if policy.settings is not None:
        for key, value in msgspec.to_builtins(policy.settings).items():
            yield f"  {key}: {json.dumps(value)}"


def _room(room: Room) -> Iterator[str]:
    from llmux.command.checking.fitting import largest_sets

    yield ""
    yield f"resources         {_amounts(room.resources)}"
    sets = largest_sets(room)
    if sets is None:
        yield "awake together    too many sets to list"
        return
    for number, line in enumerate(sets):
        yield f"{'awake together' if not number else '            or':<17} {line}"


def _amounts(needs: Needs) -> str:
    amounts = [f"{written(amount)} of {name}" for name, amount in needs.items()]
    return ", ".join(amounts) or "nothing"


def _hook(name: str, script: str, limit: float) -> Iterator[str]:
    lines = script.strip("\n").rstrip().split("\n")
    start = f"  {name + ',':<7}{_seconds(limit) + ' at most:':<16} "
    if len(lines) == 1:
        yield start + lines[0]
    else:
        yield start.rstrip()
        yield from ("      " + line for line in lines)


def _seconds(value: float) -> str:
    return f"{value:g} s"
