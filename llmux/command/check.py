"""
C{llmux check}: is a configuration sound, and what does it amount to?
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from llmux.config import Config, ConfigError, load_config
from llmux.config.error import printable

__all__ = ["describe", "main"]


def main(argv: Sequence[str]) -> int:
    """
    Run the command.

    @return: 0 if the configuration is sound, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="llmux check",
        description="Say whether a configuration is sound, and what it amounts to. "
        "Runs no hook and listens nowhere.",
    )
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        default="config.yaml",
        help="the configuration, YAML or JSON by its extension (default: config.yaml)",
    )
    parser.add_argument("--json", action="store_true", help="print it as a JSON object")
    options = parser.parse_args(argv)
    try:
        config = load_config(options.config)
        check_surroundings(config)
    except ConfigError as e:
        print(e, file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(as_plain_values(config), indent=2))
    else:
        print("\n".join(describe(config)))
    return 0


def check_surroundings(config: Config) -> None:
    """
    What can be told without listening and without writing.

    @raise ConfigError: C{listen} is no endpoint, or C{request_log} lies in no
        directory.
    """
    # Only when systemd starts llmux is its socket there.
    if config.listen is not None and not config.listen.startswith("systemd:"):
        from llmux.daemon.listener import make_endpoint

        make_endpoint(config, None)
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
    """The configuration with every default filled in, models sorted by name."""
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
    """The lines for a person."""
    count = len(config.models)
    yield f"{config.file} is sound: {count} model{'s' if count > 1 else ''}"
    yield ""
    yield f"listens on        {_place(config)}"
    yield f"hooks run in      {config.directory}"
    yield f"request bodies    up to {config.max_body_mb} MiB"
    yield f"a stalled client  is cut off after {_seconds(config.client_stall_timeout_secs)}"
    leaves = "puts the awake model to sleep" if config.sleep_on_exit else "leaves it awake"
    yield f"stops             within {_seconds(config.shutdown_timeout_secs)}, {leaves}"
    if config.request_log is not None:
        log = os.path.join(config.directory, config.request_log)
        yield f"logs requests to  {log}"
    yield ""
    yield from _policy(config)
    for name, model in sorted(config.models.items()):
        yield ""
        weight = f", weight {model.weight:g}" if model.weight != 1 else ""
        yield f"model {name} at {model.host}:{model.port}{weight}"
        yield from _hook("wake", model.wake, model.wake_timeout_secs)
        yield from _hook("sleep", model.sleep, model.sleep_timeout_secs)
        yield from _hook("alive", model.alive, model.alive_timeout_secs)


def _place(config: Config) -> str:
    if config.listen is not None:
        return config.listen
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{config.port}"


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
    yield f"  a model is awake for {_seconds(policy.min_active_secs)} at least"
    if policy.settings is not None:
        for key, value in msgspec.to_builtins(policy.settings).items():
            yield f"  {key}: {json.dumps(value)}"


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
