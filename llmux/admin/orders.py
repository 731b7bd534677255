"""
This module says what a command may hold: verbs, their keys, and what is wrong with a body.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from llmux.admin.roles import Asker
from llmux.control import CommandError, IControl
from llmux.duration_text import LONGEST_DURATION, parse_duration
from llmux.similar_names import most_similar

__all__ = ["Key", "Order", "Verb", "WrongValue", "control_verbs", "parse_order", "seconds_of"]

_SHOWN = 80


class WrongValue(ValueError):
    """A value cannot be accepted; the text says which values can be, as in C{true or false}."""


def seconds_of(value: object) -> float:
    """
    Read a duration: a number of seconds, or a text that L{parse_duration} accepts.

    @raise WrongValue: the value is no duration, or not above 0, or longer than a year.
    """
    secs = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        secs = float(value)
    elif isinstance(value, str):
        with suppress(ValueError):
            secs = parse_duration(value)
    if not 0 < secs <= LONGEST_DURATION:
        raise WrongValue('a duration: a number of seconds, or as in "90s", "15m", "2h"')
    return secs


def flag_of(value: object) -> bool:
    """
    Read a flag, true or false.

    @raise WrongValue: the value is no flag.
    """
    if not isinstance(value, bool):
        raise WrongValue("true or false")
    return value


def text_of(value: object) -> str:
    """
    Read a text that is not empty.

    @raise WrongValue: the value is no text, or is empty.
    """
    if not isinstance(value, str) or not value:
        raise WrongValue("a string that is not empty")
    return value


def one_of(*words: str) -> Callable[[object], str]:
    """Return a reader of texts that accepts these words only."""

    def read(value: object) -> str:
        if value not in words:
            raise WrongValue(" or ".join(f'"{word}"' for word in words))
        return str(value)

    return read


@dataclass(frozen=True, slots=True)
class Key:
    """
    A L{Key} describes one key of a command's JSON object.

    @ivar read: a function that returns the value, or raises L{WrongValue}.
    @ivar is_required: whether the command needs this key.
    @ivar is_model: whether the value is the name of a model, which must be known.
    @ivar default: the value of a key that is missing.
    """

    read: Callable[[object], Any]
    is_required: bool = False
    is_model: bool = False
    default: Any = None


MODEL = Key(text_of, is_required=True, is_model=True)
SOME_MODEL = Key(text_of, is_model=True)
FLAG = Key(flag_of, default=False)
SECONDS = Key(seconds_of)


@dataclass(frozen=True, slots=True)
class Order:
    """
    An order is one command, read and checked.

    @ivar values: every key of the verb, with its value or its default.
    """

    asker: Asker
    values: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @property
    def by(self) -> str:
        """Return the name of whoever gives the command."""
        return self.asker.name or "anybody"


@dataclass(frozen=True, slots=True)
class Verb:
    """
    A verb is a kind of command.

    @ivar keys: the keys that the command's JSON object may hold.
    @ivar run: a function that carries an order out.  The Deferred fires with None, and then the
        answer is the status, or with another object to answer.
    @ivar is_for_socket: whether the verb is accepted only at the Unix socket.
    @ivar is_secret: whether the body is kept out of the log.
    @ivar while_stopping: whether the verb is accepted while llmux stops.
    """

    name: str
    keys: Mapping[str, Key]
    run: Callable[[Order], Deferred[Any]]
    is_for_socket: bool = False
    is_secret: bool = False
    while_stopping: bool = False


def parse_order(
    verb: Verb,
    asker: Asker,
    body: bytes,
    names: Mapping[str, str],
) -> Order:
    """
    Read and check a command's body.

    @param names: all names by which requests may call models, each with the model's own name;
        the order gets the latter.
    @raise CommandError: the body is not sound: status 400, 404 or 422; the error names the key.
    """
    try:
        document = msgspec.json.decode(body) if body.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CommandError(f"The body is no JSON: {error}", 400, "invalid_json") from None
    if not isinstance(document, dict):
        raise CommandError("The body is no JSON object.", 422, "invalid_body")
    for key in document:
        if key not in verb.keys:
            near = most_similar(key, verb.keys)
            known = ", ".join(verb.keys) or "none"
            hint = f"did you mean {near}?" if near else f"{verb.name} has these: {known}"
            raise CommandError(f"Unknown key {_shown(key)}: {hint}", 422, "unknown_key", key)
    values = {}
    for name, key in verb.keys.items():
        if name not in document or (document[name] is None and not key.is_required):
            if key.is_required:
                raise CommandError(
                    f"{verb.name} needs the key {name}.", 422, "missing_key", name
                )
            values[name] = key.default
            continue
        try:
            value = key.read(document[name])
        except WrongValue as expected:
            raise CommandError(
                f"{name} is {_shown(document[name])}; it must be {expected}.",
                422,
                "wrong_value",
                name,
            ) from None
        if key.is_model:
            if value not in names:
                raise unknown_model(value, names)
            value = names[value]
        values[name] = value
    return Order(asker, values)


def unknown_model(name: str, models: Iterable[str]) -> CommandError:
    """Return the error for a name that no model has."""
    near = most_similar(name, models)
    hint = f" Did you mean {near}?" if near else ""
    return CommandError(
        f"There is no model {_shown(name)}.{hint}", 404, "model_not_found", "model"
    )


def _shown(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def control_verbs(control: IControl) -> list[Verb]:
    """Return the verbs that an L{IControl} carries out."""

    def sleep(order: Order) -> Deferred[None]:
        model, every = order["model"], order["all"]
        if every == (model is not None):
            raise CommandError(
                'sleep needs either the key model or "all": true.',
                422,
                "missing_key" if model is None else "wrong_value",
                "model" if model is None else "all",
            )
        models = None if every else [model]
        return control.sleep(models, order["abort"], order["force"], order.by)

    return [
        Verb("wake", {"model": MODEL}, lambda o: control.wake(o["model"], o.by)),
        Verb(
            "switch",
            {"model": MODEL, "abort": FLAG},
            lambda o: control.switch(o["model"], o["abort"], o.by),
        ),
        Verb(
            "sleep",
            {"model": SOME_MODEL, "all": FLAG, "abort": FLAG, "force": FLAG},
            sleep,
        ),
        Verb(
            "pin",
            {
                "model": MODEL,
                "for": SECONDS,
                "others": Key(one_of("wait", "refuse"), default="wait"),
            },
            lambda o: control.pin(o["model"], o["for"], o["others"] == "refuse", o.by),
        ),
        Verb("unpin", {"model": SOME_MODEL}, lambda o: control.unpin(o["model"], o.by)),
        Verb(
            "pause",
            {"sleep": FLAG, "for": SECONDS, "refuse": FLAG},
            lambda o: control.pause_switching(o["for"], o["sleep"], o["refuse"], o.by),
        ),
        Verb("resume", {}, lambda o: control.resume(o.by)),
    ]
