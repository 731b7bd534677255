"""This module has the command line of C{llmux simulate}: its options, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import msgspec
from msgspec.structs import replace

from llmux.config import Config, config_from_mapping, load_config
from llmux.simulate.recording import RecordedCosts
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace

__all__ = [
    "DEFAULT_SLOTS",
    "DEFAULT_SWITCH_COST",
    "MachineOptions",
    "UsageError",
    "candidates",
    "machine_options",
    "parser",
    "switch_costs",
]

DEFAULT_SWITCH_COST = 15.0
DEFAULT_SLOTS = 16
BOTH = ("fifo", "cost_aware")


class UsageError(Exception):
    """An option makes no sense; the error's message says why."""


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
    return _count(text, "requests")


def _wakes(text: str) -> int:
    return _count(text, "models")


def _count(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**6):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what}, 1 or more")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="llmux simulate",
        description="What policies would make of recorded or invented requests: the switcher "
        "that llmux runs, with a clock that jumps, and models made of numbers.",
        epilog="A trace has one request a line, as JSON: "
        '{"t": 12.5, "model": "a", "service_s": 4.2}; optional: "id"; "after": ID and '
        '"think_s": 3 for a request sent that long after another\'s reply (no "t" then); '
        '"patience_s" for a client that gives up. llmux writes one of its own traffic, with '
        "the switches that it made, if the configuration says request_log: FILE.",
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
    add(
        "--capacity",
        metavar="NAME=AMOUNT,...",
        help="what the machine has, as under resources: in a configuration, as in "
        "gpu0=24,gpu1=24 (default: the configuration's, else room for one model)",
    )
    add(
        "--needs",
        metavar="MODEL=NAME:AMOUNT,...|...",
        action="append",
        default=[],
        help="what a model needs of that, as in a=gpu0:20 for one place, "
        "'a=gpu0:20|gpu1:20' for either of two, b=gpu0:22,gpu1:22 for both, e= for nothing; "
        "may be repeated (default: the configuration's, else all there is)",
    )
    add(
        "--parallel-wakes",
        metavar="N",
        type=_wakes,
        help="how many models may wake at a time (default: the configuration's, else no limit)",
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
    Return the times of hooks that the words of C{--switch-cost} ask for.

    @param recorded: the costs that are used if no word is for all models.
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
    """Return the names FROM and TO of a pair; the name of a model may contain colons."""
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


@dataclass(frozen=True)
class MachineOptions:
    """
    L{MachineOptions} are what the command line says of the machine, in addition to a
    configuration or in its place.

    @ivar resources: the capacities; None if the command line does not say them.
    @ivar needs: the places of some models, as in a configuration.
    @ivar parallel_wakes: how many models may wake at a time; None if the command line does not
        say that.
    """

    resources: Mapping[str, float] | None = None
    needs: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    parallel_wakes: int | None = None

    @property
    def says_anything(self) -> bool:
        """Tell whether the command line says anything of the machine."""
        return bool(self.resources is not None or self.needs or self.parallel_wakes)


def machine_options(
    capacity: str | None, needs: Iterable[str], parallel_wakes: int | None = None
) -> MachineOptions:
    """
    Read the words of C{--capacity} and C{--needs}.

    @raise UsageError: a word makes no sense.
    """
    resources = None if capacity is None else _amounts("--capacity", capacity, capacity, "=")
    places: dict[str, list[Mapping[str, float]]] = {}
    for word in needs:
        model, equals, text = word.rpartition("=")
        if not equals or not model:
            raise UsageError(f"--needs {word}: not MODEL=NAME:AMOUNT")
        if model in places:
            raise UsageError(f"--needs {word}: {model} has needs already; separate places by |")
        places[model] = [_amounts("--needs", word, part, ":") for part in text.split("|")]
    return MachineOptions(resources, places, parallel_wakes)


def _amounts(option: str, word: str, text: str, sign: str) -> dict[str, float]:
    """Return the amounts in a text such as C{gpu0=24,gpu1=24}."""
    amounts: dict[str, float] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        name, found, number = item.rpartition(sign)
        if not found or not name:
            raise UsageError(f"{option} {word}: {item!r} is not NAME{sign}AMOUNT")
        try:
            amount = float(number)
        except ValueError:
            amount = -1.0
        if not (isfinite(amount) and amount >= 0):
            raise UsageError(f"{option} {word}: {number!r} is not an amount, 0 or more")
        if name in amounts:
            raise UsageError(f"{option} {word}: {name} occurs twice")
        amounts[name] = int(amount) if amount.is_integer() else amount
    if not amounts and option == "--capacity":
        raise UsageError("--capacity: give NAME=AMOUNT, as in gpu0=24,gpu1=24")
    return amounts


def candidates(
    words: Sequence[str],
    config_file: str | None,
    trace: Trace,
    machine: MachineOptions | None = None,
) -> list[tuple[str, Config]]:
    """
    Return the policies to compare: for each the title, and a configuration that chooses the
    policy.

    @param machine: options that replace the configuration's resources and needs.
    @raise ConfigError: a policy does not exist, a setting is out of range, or a model
        cannot be awake.
    @raise UsageError: the trace or an option names a model that does not exist.
    """
    if config_file is None:
        base = config_from_mapping(_document(trace.models()), directory=".")
    else:
        base = load_config(config_file)
        strangers = [name for name in trace.models() if name not in base.models]
        if strangers:
            raise UsageError(
                f"the trace asks for {', '.join(strangers)}; {config_file} has no such model"
            )
    if machine is not None and machine.says_anything:
        base = _on_machine(base, machine)
    asked = list(words)
    found = []
    if not asked:
        asked = [name for name in BOTH if config_file is None or base.policy.name != name]
        found = [] if config_file is None else [(base.policy.name, base)]
    return [*found, *((word, _with_policy(word, base)) for word in asked)]


def _document(models: Iterable[str]) -> dict[str, Any]:
    """Return a configuration that says almost nothing of its models."""
    scripts = {"port": 1, "wake": "true", "sleep": "true", "alive": "true"}
    return {"models": dict.fromkeys(models, scripts)}


def _on_machine(base: Config, machine: MachineOptions) -> Config:
    """
    Return a configuration changed by what the options say of the machine.

    @raise ConfigError: a model cannot be awake.
    @raise UsageError: an option names a model that does not exist.
    """
    document = _document(base.models)
    for name, places in machine.needs.items():
        if name not in base.models:
            raise UsageError(
                f"--needs {name}=...: there is no such model; the models are "
                f"{', '.join(base.models)}"
            )
        document["models"][name] = document["models"][name] | {
            "needs": places[0] if len(places) == 1 else places
        }
    for name, model in base.models.items():
        own = {"needs": model.needs} if name not in machine.needs else {}
        if model.keep is not None:
            own["keep"] = model.keep
        document["models"][name] = own | document["models"][name]
    document["resources"] = base.resources if machine.resources is None else machine.resources
    if machine.needs and document["resources"] is None:
        raise UsageError("--needs: say what the machine has, as in --capacity gpu0=24,gpu1=24")
    checked = config_from_mapping(document, file="--capacity, --needs", directory=".")
    policy = base.policy
    if machine.parallel_wakes is not None:
        policy = replace(policy, parallel_wakes=machine.parallel_wakes)
    models = {
        name: replace(model, needs=checked.models[name].needs)
        for name, model in base.models.items()
    }
    return replace(base, models=models, resources=checked.resources, policy=policy)


def _with_policy(word: str, base: Config) -> Config:
    """
    Return the configuration with another policy.

    @param word: the policy's name and settings.
    """
    name, _, rest = word.partition(":")
    policy: dict[str, Any] = {"name": name}
    if base.policy.parallel_wakes is not None:
        policy["parallel_wakes"] = base.policy.parallel_wakes
    for item in filter(None, rest.split(",")):
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--policy {word}: {item!r} is not KEY=VALUE")
        policy[key.strip()] = _value(text.strip())
    checked = config_from_mapping(
        _document(base.models) | {"policy": policy}, file=f"--policy {word}", directory="."
    )
    return replace(base, policy=checked.policy)


def _value(text: str) -> Any:
    """Return the value of a setting: what JSON can read is JSON, all else is a string."""
    try:
        return msgspec.json.decode(text.encode())
    except msgspec.DecodeError:
        return text
