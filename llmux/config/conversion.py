"""
This module converts plain values to a L{Config}; an error names the key of the value that is
wrong.

msgspec is given each value by itself.  If it converted a whole model, its error would give the
path without the key, and it would suggest no other name for a key that is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import Meta, Struct
from twisted.internet.abstract import isIPv6Address

from llmux.config.error import ConfigError, Path, key_path, shown
from llmux.config.hook_checks import faults_of_hooks
from llmux.config.name_checks import faults_of_changes, faults_of_names
from llmux.config.name_values import ModelMetadata, VariantConfig
from llmux.config.room import (
    RoomError,
    needs_as_written,
    resources_as_written,
    room_of,
)
from llmux.config.values import (
    AdminConfig,
    Config,
    ModelConfig,
    Name,
    OptionalScript,
    PolicyConfig,
    Script,
)
from llmux.policy.catalog import PolicyLookupError, find_policy, policies_with_setting
from llmux.similar_names import most_similar
from llmux.web.access import host_pattern_is_sound, origin_pattern_is_sound

__all__ = ["EITHER_PLACE", "Conversion", "is_host", "keys_of"]

LIKE_ELSEWHERE = 0.8
"""
A key that is known in another place of the file is suggested if difflib's ratio of likeness to
the given key (0 to 1) is this or more.
"""

_KINDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "a mapping",
    "str": "a string",
}

# These keys are kept in PolicyConfig or Config, and may stand in either place of the file.
EITHER_PLACE = (
    "client_stall_timeout_secs",
    "drain_timeout_secs",
    "shutdown_timeout_secs",
    "sleep_on_exit",
)
_CALLED_ELSEWHERE = {"cmd": "serve", "command": "serve", "ttl": "idle_sleep_secs"}
"""Other programs have these keys for a model; each is given with the key of ours."""

_NOT_KEYS = {"settings", "directory", "file"}
_PARTS: Mapping[type[Struct], Iterable[str]] = {
    Config: ("models",),
    ModelConfig: ("variants", "metadata"),
}
"""These keys hold mappings with keys of their own, each converted by a method of its own."""

_Part = TypeVar("_Part", VariantConfig, ModelMetadata)

_HERE = frozenset({"127.0.0.1", "localhost", "0.0.0.0"})
"""A server that listens on one of these hosts can be reached at the others as well."""


_ZONE = re.compile(r"[\w.-]{1,64}", re.ASCII)
"""This pattern matches the zone of an IPv6 address, as C{eth0} in C{fe80::1%eth0}."""


class Conversion:
    """
    A L{Conversion} converts one document, and raises L{ConfigError} for whatever is wrong with
    the document.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def fail(self, path: Path, problem: str, remedy: str) -> NoReturn:
        raise ConfigError(self.file, key_path(path), problem, remedy)

    def config(self, document: object, directory: str, port: int | None) -> Config:
        if document is None:
            self.fail((), "it holds no configuration", 'it needs at least "models:"')
        if not isinstance(document, dict):
            self.fail((), f"it holds {shown(document)}", 'begin with a mapping: "models:"')
        keys = dict(document)
        # Editors find the schema of a JSON file by this key, because JSON has no comments.
        if isinstance(keys.get("$schema"), str):
            del keys["$schema"]
        raw_policy = self.policy_keys(keys)
        self.check_known((), keys, {*keys_of(Config), *EITHER_PLACE})
        models = self.models(keys.pop("models", None))
        admin = self.admin(keys.pop("admin", {}))
        if port is not None:
            if "listen" in keys:
                self.fail(
                    ("listen",),
                    "the port given by -p cannot override it",
                    "leave out one of the two",
                )
            keys.pop("port", None)
        for key in ("host", "port"):
            if "listen" in keys and key in keys:
                self.fail(("listen",), f"given together with {key}", "leave out one of the two")
        paths: dict[str, Path] = {
            key: ("policy", key) for key in EITHER_PLACE if key in raw_policy
        }
        either = {key: raw_policy.pop(key) for key in paths}
        either |= {key: keys.pop(key) for key in EITHER_PLACE if key in keys}
        paths = {key: paths.get(key, (key,)) for key in either}
        if "resources" in keys:
            keys["resources"] = self.resources(keys["resources"])
        fields = self.fields((), Config, keys | either, paths)
        if port is not None:
            fields["port"] = port
        policy = self.policy(raw_policy, either, paths)
        config = Config(
            **fields,
            models=models,
            policy=policy,
            admin=admin,
            directory=directory,
            file=self.file,
        )
        self.check_room(config)
        self.check_woken(config)
        self.check_policy(config)
        for at, name in enumerate(config.allowed_hosts):
            if not host_pattern_is_sound(name):
                self.fail(
                    ("allowed_hosts", at),
                    f"{shown(name)} is not the name of a host",
                    "give it without http:// and port; *.NAME stands for what is under it",
                )
        for at, origin in enumerate(config.cors_origins):
            if not origin_pattern_is_sound(origin):
                self.fail(
                    ("cors_origins", at),
                    f"{shown(origin)} is not an origin",
                    "write it as in https://chat.example.com, http://localhost:* or app://*",
                )
        if config.listen is None:
            self.check_host(("host",), config.host)
            for name, model in models.items():
                same = model.host == config.host or {model.host, config.host} <= _HERE
                if same and model.port == config.port:
                    self.fail(
                        ("models", name, "port"),
                        f"{model.port} is where llmux itself listens",
                        "give the port of the model's server, or llmux another",
                    )
        return config

    def admin(self, raw: object) -> AdminConfig:
        path = ("admin",)
        if not isinstance(raw, dict):
            self.fail(
                path, f"{shown(raw)} is not a mapping", "indent listen or socket under it"
            )
        self.check_known(path, raw, keys_of(AdminConfig))
        admin = AdminConfig(**self.fields(path, AdminConfig, raw))
        if admin.socket is not None and "\0" in admin.socket:
            self.fail((*path, "socket"), "the name holds a NUL character", "remove it")
        return admin

    # -------------------------------------------------------------- models

    def models(self, raw: object) -> dict[str, ModelConfig]:
        if raw is None or raw == {}:
            self.fail(
                ("models",),
                "there are none",
                "give at least one, with serve, or with port, wake and sleep",
            )
        if not isinstance(raw, dict):
            self.fail(
                ("models",),
                f"{shown(raw)} is not a mapping of names to models",
                'write "NAME:" and, indented under it, serve, or port, wake and sleep',
            )
        models = {name: self.model(name, value) for name, value in raw.items()}
        for fault in faults_of_names(models):
            self.fail(*fault)
        return models

    def model(self, name: object, raw: object) -> ModelConfig:
        if not isinstance(name, str):
            self.fail(
                ("models",), f"the name {shown(name)} is not a string", "put it in quotes"
            )
        path = ("models", name)
        if not name.strip():
            self.fail(path, "a model's name is empty", "give it the name that requests use")
        if not name.isprintable():
            self.fail(path, "the name holds a control character", "remove it")
        if raw is None:
            raw = {}
        if not isinstance(raw, dict):
            self.fail(
                path,
                f"{shown(raw)} is not a model",
                "give it serve, or port, wake and sleep, indented under its name",
            )
        self.check_known(path, raw, keys_of(ModelConfig))
        if "needs" in raw:
            raw = raw | {"needs": self.needs((*path, "needs"), raw["needs"])}
        fields = self.fields(path, ModelConfig, raw)
        if "variants" in raw:
            fields["variants"] = self.variants((*path, "variants"), raw["variants"])
        if "metadata" in raw:
            fields["metadata"] = self.part((*path, "metadata"), ModelMetadata, raw["metadata"])
        model = ModelConfig(**fields)
        for fault in faults_of_changes(path, model):
            self.fail(*fault)
        for fault in faults_of_hooks(path, model, raw):
            self.fail(*fault)
        self.check_host((*path, "host"), model.host)
        return model

    def variants(self, path: Path, raw: object) -> dict[str, VariantConfig]:
        if not isinstance(raw, dict):
            self.fail(
                path,
                f"{shown(raw)} is not a mapping of names to variants",
                'write as in {"NAME:high": {set: {reasoning_effort: high}}}',
            )
        variants = {}
        for name, value in raw.items():
            if not isinstance(name, str):
                self.fail(path, f"the name {shown(name)} is not a string", "put it in quotes")
            variant = self.part((*path, name), VariantConfig, value)
            for fault in faults_of_changes((*path, name), variant):
                self.fail(*fault)
            variants[name] = variant
        return variants

    def part(self, path: Path, type_: type[_Part], raw: object) -> _Part:
        """Convert a mapping that stands within a model."""
        if not isinstance(raw, dict):
            self.fail(
                path,
                f"{shown(raw)} is not a mapping",
                f"give one with some of {', '.join(keys_of(type_))}",
            )
        self.check_known(path, raw, keys_of(type_))
        return type_(**self.fields(path, type_, raw))

    def check_host(self, path: Path, host: str) -> None:
        if not is_host(host):
            self.fail(
                path,
                f"{shown(host)} is neither a host's name nor an IP address",
                "give it without http://, brackets and port",
            )

    # -------------------------------------------------------------- policy

    def policy_keys(self, keys: dict[str, Any]) -> dict[str, Any]:
        raw = keys.pop("policy", None)
        if raw is None:
            raw = {}
        if not isinstance(raw, dict):
            remedy = "indent its keys under it"
            if isinstance(raw, str):
                remedy = f"write {{name: {raw}}}" if raw.isprintable() else "write {name: NAME}"
            self.fail(("policy",), f"{shown(raw)} is not a mapping", remedy)
        for key in EITHER_PLACE:
            if key in raw and key in keys:
                self.fail(
                    ("policy", key), "given here and at the top level", "remove one of the two"
                )
        return dict(raw)

    def policy(
        self, raw: dict[str, Any], either: dict[str, Any], paths: Mapping[str, Path]
    ) -> PolicyConfig:
        core = keys_of(PolicyConfig)
        given = {key: raw[key] for key in raw if key in core}
        fields = self.fields(("policy",), PolicyConfig, given | either, paths)
        name = fields.get("name", PolicyConfig().name)
        try:
            factory = find_policy(name)
        except PolicyLookupError as e:
            self.fail(("policy", "name"), str(e), e.remedy)
        settings_type = factory.settings
        own = keys_of(settings_type) if settings_type is not None else []
        known = {*core, *own, *EITHER_PLACE}
        for key in raw:
            if key not in known and (others := policies_with_setting(str(key))):
                self.fail(
                    ("policy", str(key)),
                    f"{name} has no such setting; {' and '.join(others)} has",
                    f"remove it, or write name: {others[0]}",
                )
        self.check_known(("policy",), raw, known)
        settings = None
        if settings_type is not None:
            given = {key: raw[key] for key in raw if key in own and key not in core}
            converted = self.fields(("policy",), settings_type, given)
            try:
                settings = settings_type(**converted)
            except ValueError as e:
                self.policy_refuses(e, own)
        return PolicyConfig(**fields, settings=settings)

    # -------------------------------------------------------------- room

    def resources(self, raw: object) -> object:
        try:
            return resources_as_written(raw)
        except RoomError as e:
            self.fail(e.path, e.problem, e.remedy)

    def needs(self, path: Path, raw: object) -> object:
        try:
            return needs_as_written(path, raw)
        except RoomError as e:
            self.fail(e.path, e.problem, e.remedy)

    def check_room(self, config: Config) -> None:
        try:
            room_of(config)
        except RoomError as e:
            self.fail(e.path, e.problem, e.remedy)

    def check_woken(self, config: Config) -> None:
        """
        Check the keys that have llmux wake models without a request: C{preload},
        C{default_model} and C{keep}.
        """
        for at, name in enumerate(config.preload):
            self.check_model(("preload", at), name, config.models)
        if config.default_model is not None:
            self.check_model(("default_model",), config.default_model, config.models)
        for name, model in config.models.items():
            if model.keep and model.idle_sleep_secs is not None:
                self.fail(
                    ("models", name, "idle_sleep_secs"),
                    f"{name} is kept awake always (keep: always)",
                    "leave out one of the two",
                )
        problem = room_of(config).problem_of(config.preload)
        if problem is not None:
            self.fail(("preload",), problem, "leave out as many as do not fit")

    def check_model(self, path: Path, name: str, models: Mapping[str, ModelConfig]) -> None:
        if name not in models:
            near = most_similar(name, models)
            self.fail(
                path,
                f"there is no model {shown(name)}",
                f"known here: {', '.join(models)}" if near is None else f"did you mean {near}?",
            )

    def check_policy(self, config: Config) -> None:
        policy = config.policy
        try:
            find_policy(policy.name).build(config.policy_context(), policy.settings)
        except ValueError as e:
            settings = config.policy.settings
            self.policy_refuses(e, () if settings is None else keys_of(type(settings)))

    def policy_refuses(self, error: ValueError, own: Iterable[str]) -> NoReturn:
        message = " ".join(str(error).split()) or "a value is out of range"
        found = [
            (match.start(), key)
            for key in own
            if (match := re.search(rf"\b{re.escape(key)}\b", message))
        ]
        path: Path = ("policy",)
        if found:
            path = ("policy", min(found)[1])
            message = message.removeprefix(f"{path[1]} ")
        problem, _, remedy = message.partition("; ")
        self.fail(path, problem, remedy or "change it, or leave it out for the default")

    # --------------------------------------------------------------- keys

    def check_known(self, path: Path, keys: Iterable[str], known: Iterable[str]) -> None:
        known = set(known)
        for key in keys:
            if not isinstance(key, str):
                self.fail(path, f"the key {shown(key)} is not a string", "put it in quotes")
            if key not in known:
                self.unknown((*path, key), key, known)

    def unknown(self, path: Path, key: str, known: set[str]) -> NoReturn:
        level = path[0] if len(path) > 1 else "top"
        places = (
            ("top", keys_of(Config), "it belongs at the top level"),
            ("policy", keys_of(PolicyConfig), 'it belongs under "policy:"'),
            ("models", keys_of(ModelConfig), 'it belongs under a model\'s name in "models:"'),
        )
        for place, there, remedy in places:
            if place != level and key in there:
                self.fail(path, "not known here", remedy)
        if level != "policy" and policies_with_setting(key):
            self.fail(path, "not known here", 'it belongs under "policy:"')
        near = most_similar(key, known, LIKE_ELSEWHERE)
        if level == "models" and near is None and _CALLED_ELSEWHERE.get(key) in known:
            self.fail(path, "unknown key", f"did you mean {_CALLED_ELSEWHERE[key]}?")
        for place, there, remedy in places:
            meant = most_similar(key, there, LIKE_ELSEWHERE)
            if near is None and place != level and meant is not None:
                self.fail(path, "unknown key", f"did you mean {meant}? {remedy}")
        near = most_similar(key, known)
        if near is not None:
            self.fail(path, "unknown key", f"did you mean {near}?")
        self.fail(path, "unknown key", f"known here: {', '.join(sorted(known))}")

    def fields(
        self,
        path: Path,
        type_: type[Struct],
        raw: Mapping[str, Any],
        paths: Mapping[str, Path] | None = None,
    ) -> dict[str, Any]:
        """
        Convert those values of C{raw} that are fields of C{type_}, one by one so that an
        error knows its key.

        @param paths: where keys stand in the file that do not stand below C{path}.
        """
        paths = paths or {}
        converted = {}
        for field in msgspec.structs.fields(type_):
            key = field.encode_name
            if key in _PARTS.get(type_, ()):
                continue
            if key in _NOT_KEYS and type_ in (Config, PolicyConfig):
                continue
            if key in raw:
                converted[field.name] = self.value(
                    paths.get(key, (*path, key)), field.type, raw[key]
                )
            elif field.required:
                self.fail((*path, key), "missing", f"give {_meta(field.type)[0] or 'it'}")
        return converted

    def value(self, path: Path, type_: Any, raw: Any) -> Any:
        try:
            value = msgspec.convert(raw, type_)
        except msgspec.ValidationError as e:
            message, _, inner = str(e).partition(" - at `$")
            noun, remedy = _meta(type_)
            if noun and not inner:
                self.fail(path, f"{_called(raw)} is not {noun}", _quotes(raw, type_) or remedy)
            what = f"what is at {inner.rstrip('`')}" if inner else _called(raw)
            expected = _expected(message)
            problem = f"{what} is not {expected}" if expected else f"{what}: {message}"
            default = "change it, or leave it out for the default"
            self.fail(path, problem, _quotes(raw, type_) or default)
        if isinstance(value, str):
            if not value.strip() and type_ not in (Script, OptionalScript):
                self.fail(path, "empty", f"give {_meta(type_)[0] or 'it'}")
            try:
                value.encode()
            except UnicodeEncodeError:
                self.fail(
                    path, "it holds half of a surrogate pair", "write the character whole"
                )
        return value


def keys_of(type_: type[Struct]) -> list[str]:
    skipped = _NOT_KEYS if type_ in (Config, PolicyConfig) else ()
    return [name for name in type_.__struct_encode_fields__ if name not in skipped]


def _meta(type_: Any) -> tuple[str, str]:
    for meta in getattr(type_, "__metadata__", ()):
        if isinstance(meta, Meta) and meta.title:
            return meta.title, meta.description or "change it"
    return "", ""


def _called(raw: object) -> str:
    if isinstance(raw, str):
        return "the empty string" if not raw else f"the string {shown(raw)}"
    return shown(raw)


def _expected(message: str) -> str:
    """
    Return what msgspec expected, in the words of the file; empty if C{message} does not say
    what.
    """
    found = re.match(r"Expected `([^`]*)`(?:, got .*)?(.*)", message)
    if found is None:
        return ""
    kinds = [_KINDS.get(kind, kind) for kind in found[1].split(" | ")]
    return " or ".join(kinds) + found[2]


def is_host(text: str) -> bool:
    """Tell whether a text can be looked up as a host and be put in a Host header."""
    address, percent, zone = text.partition("%")
    if isIPv6Address(address):
        return not percent or _ZONE.fullmatch(zone) is not None
    try:
        name = text.encode("idna").decode("ascii")
    except UnicodeError:
        return False
    return re.fullmatch(r"[\w.-]{1,253}", name, re.ASCII) is not None


def _quotes(raw: object, type_: Any) -> str:
    """
    Return a remedy if the value would be right with quotes, or without quotes; else an empty
    string.
    """
    if isinstance(raw, bool | int | float) and type_ in (Script, OptionalScript, Name):
        return f'write it in quotes: "{shown(raw)}"'
    if isinstance(raw, str):
        try:
            return (
                f"write it without quotes: {shown(msgspec.convert(raw, type_, strict=False))}"
            )
        except msgspec.ValidationError:
            pass
    return ""
