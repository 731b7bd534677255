"""
This module makes the JSON schema of a configuration; editors use the schema to complete and
check a file.

The schema is derived from the structs of L{llmux.config.values} and from the settings of
the policies that are installed.  What the schema refuses the reader refuses as well; the
reader refuses more, because some checks compare two keys.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, get_args

import msgspec

from llmux.config.conversion import EITHER_PLACE, keys_of
from llmux.config.values import Config, ModelConfig, PolicyConfig
from llmux.policy.catalog import PolicyLookupError, find_policy, known_policies

__all__ = ["configuration_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_CHECKED = "llmux.config."
"""
The reader refuses unknown keys in the structs whose modules have names that begin like this.
"""

Schema = dict[str, Any]


def configuration_schema() -> Schema:
    """Return the schema of a configuration file, in the dialect of draft 2020-12."""
    definitions = _definitions(Config)
    top = _only(definitions.pop(Config.__name__), keys_of(Config))
    core = _only(definitions.pop(PolicyConfig.__name__), keys_of(PolicyConfig))
    model = definitions[ModelConfig.__name__]
    definitions[ModelConfig.__name__] = _only(model, keys_of(ModelConfig)) | {
        "anyOf": [{"required": ["serve"]}, {"required": ["wake", "sleep"]}]
    }
    both = top["properties"] | core["properties"]
    either = {key: both[key] for key in EITHER_PLACE}
    policies = []
    for name in known_policies():
        try:
            settings = find_policy(name).settings
        except PolicyLookupError:
            # No configuration can name a policy whose name two plugins have.
            continue
        own: Schema = {}
        if settings is not None:
            others = _definitions(settings)
            own = others.pop(settings.__name__)["properties"]
            definitions |= others
        # A core key wins over a policy's setting of the same name, as it does for the reader.
        policies.append(_policy(name, own | core["properties"] | either))
    top["properties"] |= either
    top["properties"]["$schema"] = {
        "type": "string",
        "description": "Where an editor finds this schema; llmux does not look at it.",
    }
    top["properties"]["models"] |= {"minProperties": 1, "propertyNames": {"minLength": 1}}
    top["properties"]["policy"] = {
        "description": top["properties"]["policy"]["description"],
        "anyOf": [*policies, {"type": "null"}],
    }
    definitions = dict(sorted(definitions.items()))
    return {"$schema": DIALECT, "title": "llmux", **top, "$defs": definitions}


def _definitions(struct: type[Any]) -> dict[str, Schema]:
    """Return the schemas of a struct and of the structs that it names, by their names."""
    _, components = msgspec.json.schema_components((struct,), ref_template="#/$defs/{name}")
    definitions = {name: _written_out(schema) for name, schema in components.items()}
    for type_ in _structs_in(struct):
        _describe(definitions[type_.__name__], type_)
    return definitions


def _structs_in(type_: Any) -> set[type[Any]]:
    """Return the structs that a type names, the type itself included."""
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        inner = [field.type for field in msgspec.structs.fields(type_)]
        return {type_}.union(*(_structs_in(each) for each in inner))
    return set().union(*(_structs_in(each) for each in get_args(type_)))


def _policy(name: str, properties: Schema) -> Schema:
    named = properties["name"] | {"const": name}
    schema: Schema = {
        "type": "object",
        "title": name,
        "properties": properties | {"name": named},
        "additionalProperties": False,
    }
    if name != PolicyConfig().name:
        schema["required"] = ["name"]
        del named["default"]
    return schema


def _only(schema: Schema, keys: Iterable[str]) -> Schema:
    """Return the schema of a mapping that has these keys and no other."""
    kept = {key: schema["properties"][key] for key in keys}
    required = [key for key in schema.get("required", ()) if key in kept]
    return {
        "type": "object",
        "description": schema["description"],
        "properties": kept,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _written_out(schema: Any) -> Any:
    """
    Return msgspec's schema of a type, changed in two ways: patterns are written as JavaScript
    reads them, and the alternatives inside a value lose the titles and descriptions that are
    only for the reader's messages.
    """
    if isinstance(schema, list | tuple):
        return [_written_out(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    written: Schema = {key: _written_out(value) for key, value in schema.items()}
    if isinstance(pattern := written.get("pattern"), str):
        written["pattern"] = re.sub(r"\\Z$", "$", re.sub(r"^\\A", "^", pattern))
    for inner in written.get("anyOf", ()):
        inner.pop("title", None)
        inner.pop("description", None)
    return written


def _describe(schema: Schema, struct: type[Any]) -> None:
    """Put the meaning of each key in the place of the words that the reader's errors use."""
    said = _fields_of_docstring(struct)
    summary, _, _ = (inspect.getdoc(struct) or struct.__name__).partition("\n@")
    schema["description"] = _plain(summary)
    if struct.__module__.startswith(_CHECKED):
        schema["additionalProperties"] = False
    for key, value in schema["properties"].items():
        title, remedy = value.pop("title", ""), value.pop("description", "")
        if key in said:
            kind = f" ({title})" if title else ""
            value["description"] = f"{said[key][:1].upper()}{said[key][1:]}{kind}"
        elif title:
            value["description"] = f"{title[:1].upper()}{title[1:]}: {remedy}."


def _fields_of_docstring(struct: type[Any]) -> dict[str, str]:
    """Return what the C{@ivar} fields of a class's docstring say, by the name of the key."""
    text = inspect.getdoc(struct) or ""
    found = re.finditer(r"^@ivar (\w+):(.*?)(?=^@|^$|\Z)", text, re.MULTILINE | re.DOTALL)
    keys = {field.name: field.encode_name for field in msgspec.structs.fields(struct)}
    return {keys.get(match[1], match[1]): _plain(match[2]) for match in found}


def _plain(text: str) -> str:
    """Return a piece of a docstring in one line, without its markup."""
    text = re.sub(r"\b[A-Z]\{([^}]*)\}", r"\1", " ".join(text.split()))
    return re.sub(r"\bNone\b", "null", text)
