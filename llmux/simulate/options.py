"""The command line of C{llmux simulate}: its options, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import msgspec

from llmux.config import Config, config_from_mapping, load_config
from llmux.simulate.recording import RecordedCosts
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace

__all__ = [
    "DEFAULT_SLOTS",
    "DEFAULT_SWITCH_COST",
    "UsageError",
    "candidates",
    "parser",
    "switch_costs",
]

DEFAULT_SWITCH_COST = 15.0
DEFAULT_SLOTS = 16
BOTH = ("fifo", "cost_aware")


class UsageError(Exception):
    """An option that makes no sense; the message says why."""


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _fraction(text: str) -> float:
    value = _seconds(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction from 0 to 1")
    return value


def _slots(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of requests, 1 or more")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="llmux simulate",
        description="What policies would make of recorded or invented requests: the switcher "
        "that llmux runs, with a clock that jumps, and models made of numbers.",
        epilog="A trace has one request a line, as JSON: "
        '{"t": 12.5, "model": "a", "service_s": 4.2}; optional: "id"; "after": ID and '
        '"think_s": 3 for a request sent that long after another\'s reply (no "t" then); '
        '"patience_s" for a client that gives up. llmux writes one of its own traffic '
        "if the configuration says request_log: FILE.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("trace", metavar="TRACE.jsonl", help='the requests; "-" reads them from standard input')
    add(
        "-c",
        "--config",
        metavar="FILE",
        help="take models, weights and policy from this configuration "
        "(default: the models that the trace names)",
    )
    add(
        "--policy",
        metavar="NAME[:KEY=VALUE,...]",
        action="append",
        default=[],
        help="a policy to try, with keys as under policy: in a configuration; may be repeated "
        "(default: fifo, cost_aware and the configuration's)",
    )
    add(
        "--switch-cost",
        metavar="S|FROM:TO=S",
        action="append",
        default=[],
        help="seconds that a switch takes, half of them in the sleep hook and half in the "
        "wake hook (default: what the log has recorded of each model, else "
        f"{DEFAULT_SWITCH_COST:g}); of one pair of models; idle:TO=S is a wake that puts no "
        "model to sleep; may be repeated",
    )
    add(
        "--jitter",
        metavar="PART",
        type=_fraction,
        default=0.0,
        help="hooks take up to this part more or less, by chance (default: 0)",
    )
    add(
        "--slots",
        metavar="N",
        type=_slots,
        help="requests that a model serves at once; the rest wait inside it (default: the most "
        f"that the log has seen in one model, else {DEFAULT_SLOTS})",
    )
    add("--until", metavar="S", type=_seconds, help="stop the clock at this second")
    add(
        "--warm-up",
        metavar="S",
        type=_seconds,
        default=0.0,
        help="leave out of the figures what was sent before this second and waited no longer "
        "(default: 0)",
    )
    add(
        "--seed", metavar="N", type=int, default=1, help="of all that is by chance (default: 1)"
    )
    add("--json", action="store_true", help="print the figures as a JSON object")
    add(
        "--plot",
        metavar="FILE",
        help="draw which model was awake when, and who waited (.svg, .png or .pdf; "
        "needs matplotlib; from the checkout: pip install '.[plot]')",
    )
    return parser


def switch_costs(
    words: Iterable[str],
    models: Sequence[str],
    jitter: float,
    recorded: RecordedCosts | None = None,
) -> HookTimes:
    """
    The times of hooks that the words of C{--switch-cost} say.

    @param recorded: what is taken where no word is for all models.
    @raise UsageError: a word makes no sense, or names a model that does not exist.
    """
    default = None
    pairs: dict[tuple[str | None, str], float] = {}
    for word in words:
        pair, _, text = word.rpartition("=")
        try:
            seconds = _seconds(text)
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"--switch-cost {word}: {error}") from None
        if pair:
            pairs[_pair(word, pair, models)] = seconds
        else:
            default = seconds
    if default is None and recorded is not None:
        return HookTimes(0.0, pairs, jitter, recorded.sleeps, recorded.wakes)
    return HookTimes(DEFAULT_SWITCH_COST if default is None else default, pairs, jitter)


def _pair(word: str, pair: str, models: Sequence[str]) -> tuple[str | None, str]:
    """The names FROM and TO of a pair; the name of a model may contain colons."""
    parts = pair.split(":")
    found: list[tuple[str | None, str]] = []
    for cut in range(1, len(parts)):
        source, target = ":".join(parts[:cut]), ":".join(parts[cut:])
        if target in models and source in models:
            found.append((source, target))
        elif target in models and source == "idle":
            found.append((None, target))
    if len(found) != 1:
        raise UsageError(
            f"--switch-cost {word}: {pair!r} is not FROM:TO; the models are {', '.join(models)}"
        )
    return found[0]


def candidates(
    words: Sequence[str], config_file: str | None, trace: Trace
) -> list[tuple[str, Config]]:
    """
    The policies to compare: the title of each, and a configuration that chooses the
    policy.

    @raise ConfigError: a policy does not exist, or a setting is out of range.
    @raise UsageError: the trace names a model that the configuration does not have.
    """
    if config_file is None:
        models: Mapping[str, Any] = {
            name: {"port": 1, "wake": "true", "sleep": "true", "alive": "true"}
            for name in trace.models()
        }
        given = None
    else:
        given = load_config(config_file)
        strangers = [name for name in trace.models() if name not in given.models]
        if strangers:
            raise UsageError(
                f"the trace asks for {', '.join(strangers)}; {config_file} has no such model"
            )
        models = {name: msgspec.to_builtins(model) for name, model in given.models.items()}
    asked = list(words)
    if not asked:
        asked = [name for name in BOTH if given is None or given.policy.name != name]
    found = [] if given is None or words else [(given.policy.name, given)]
    return [*found, *((word, _with_policy(word, models)) for word in asked)]


def _with_policy(word: str, models: Mapping[str, Any]) -> Config:
    name, _, rest = word.partition(":")
    policy: dict[str, Any] = {"name": name}
    for item in filter(None, rest.split(",")):
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--policy {word}: {item!r} is not KEY=VALUE")
        policy[key.strip()] = _value(text.strip())
    return config_from_mapping(
        {"models": models, "policy": policy}, file=f"--policy {word}", directory="."
    )


def _value(text: str) -> Any:
    """The value of a setting: what JSON can read is JSON, all else is a string."""
    try:
        return msgspec.json.decode(text.encode())
    except msgspec.DecodeError:
        return text
