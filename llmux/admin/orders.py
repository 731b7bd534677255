"""
What a command may say: verbs, their keys, and what is wrong with a body.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from llmux.admin.roles import Asker
from llmux.control import CommandError, IControl
from llmux.similar_names import most_similar

__all__ = ["Key", "Order", "Verb", "WrongValue", "control_verbs", "parse_order", "seconds_of"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|)", re.ASCII)
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_SECS = 366 * 86400.0
_SHOWN = 80


class WrongValue(ValueError):
    """A value cannot be taken; the text says what can, as in C{true or false}."""


def seconds_of(value: object) -> float:
    """
    Read a duration: a number of seconds, or text such as C{90}, C{90s}, C{15m}, C{2h}.

    @raise WrongValue: it is none, or not above 0, or longer than a year.
    """
    secs = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        secs = float(value)
    elif isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        secs = float(found[1]) * _UNITS[found[2]]
    if not 0 < secs <= _LONGEST_SECS:
        raise WrongValue('a duration: a number of seconds, or as in "90s", "15m", "2h"')
    return secs


def flag_of(value: object) -> bool:
    """
    Read a flag.

    @raise WrongValue: it is none.
    """
    if not isinstance(value, bool):
        raise WrongValue("true or false")
    return value


def text_of(value: object) -> str:
    """
    Read a text.

    @raise WrongValue: it is none, or empty.
    """
    if not isinstance(value, str) or not value:
        raise WrongValue("a string that is not empty")
    return value


def one_of(*words: str) -> Callable[[object], str]:
    """A reader of texts of which only these words are taken."""

    def read(value: object) -> str:
        if value not in words:
            raise WrongValue(" or ".join(f'"{word}"' for word in words))
        return str(value)

    return read


@dataclass(frozen=True, slots=True)
class Key:
    """
    A key of a command's JSON object.

    @ivar read: gives the value, or raises L{WrongValue}.
    @ivar is_required: the command says nothing without this key.
    @ivar is_model: the value is the name of a model, which must be known.
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
    One command, read and checked.

    @ivar values: every key of the verb, with its value or its default.
    """

    asker: Asker
    values: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @property
    def by(self) -> str:
        """The name of the one who gives the command."""
        return self.asker.name or "anybody"


@dataclass(frozen=True, slots=True)
class Verb:
    """
    What can be commanded.

    @ivar keys: what its JSON object may hold.
    @ivar run: carries an order out.  The Deferred fires with None, for the status
        as the answer, or with an object of its own.
    @ivar is_for_socket: nobody but who comes by the socket may use the verb.
    @ivar is_secret: what its body holds does not go to the log.
    @ivar while_stopping: the verb makes sense while llmux stops.
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
    Read a command's body.

    @param names: all names that models are called by, each with the model's own, which
        stands in the order.
    @raise CommandError: 400, 404 or 422, which names the key.
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
    """The error for a name that no model has."""
    near = most_similar(name, models)
    hint = f" Did you mean {near}?" if near else ""
    return CommandError(
        f"There is no model {_shown(name)}.{hint}", 404, "model_not_found", "model"
    )


def _shown(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def control_verbs(control: IControl) -> list[Verb]:
    """The verbs that an L{IControl} carries out."""

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
