"""
These tests check the JSON schema that editors use: it agrees with the reader, and has every
key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from llmux.command.main import main
from llmux.config import (
    Config,
    ConfigError,
    ModelConfig,
    PolicyConfig,
    config_from_mapping,
    json_schema,
    load_config,
)
from llmux.config.conversion import EITHER_PLACE, keys_of
from llmux.config.json_schema import configuration_schema
from llmux.policy.catalog import PolicyLookupError, find_policy
from llmux.policy.cost_aware import CostAwareSettings

pytestmark = pytest.mark.own_cpu("the tests validate hundreds of documents between two polls")

ROOT = Path(__file__).parent.parent
SCHEMA = configuration_schema()
VALIDATOR = Draft202012Validator(SCHEMA)

MODEL = {"port": 8001, "wake": "up", "sleep": "down", "alive": "ask"}


def policy_keys(name: str) -> Any:
    """Return what the schema says of the keys of C{policy:} for this policy."""
    found = [each for each in SCHEMA["properties"]["policy"]["anyOf"] if "title" in each]
    return next(each["properties"] for each in found if each["title"] == name)


def model_keys() -> Any:
    return SCHEMA["$defs"]["ModelConfig"]["properties"]


def reader_refuses(document: object) -> str | None:
    try:
        config_from_mapping(document)
    except ConfigError as e:
        return str(e)
    return None


def with_key(place: str, key: str, value: object) -> dict[str, Any]:
    """Return a sound document in which one key has another value."""
    document: dict[str, Any] = {"models": {"a": dict(MODEL)}}
    target = {"top": document, "model": document["models"]["a"]}.get(place)
    if target is None:
        target = document["policy"] = {}
    target[key] = value
    return document


PLACES = [
    *(("top", key) for key in sorted({*keys_of(Config), *EITHER_PLACE})),
    *(("model", key) for key in keys_of(ModelConfig)),
    *(("policy", key) for key in (*keys_of(PolicyConfig), *EITHER_PLACE)),
    *(("policy", key) for key in keys_of(CostAwareSettings)),
]


def test_the_printed_document_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_schema_has_every_key_in_each_place_where_the_reader_takes_it() -> None:
    assert set(SCHEMA["properties"]) == {*keys_of(Config), *EITHER_PLACE, "$schema"}
    assert set(model_keys()) == set(keys_of(ModelConfig))
    core = {*keys_of(PolicyConfig), *EITHER_PLACE}
    assert set(policy_keys("fifo")) == core
    assert set(policy_keys("cost_aware")) == core | set(keys_of(CostAwareSettings))


def test_every_key_says_what_it_means() -> None:
    keys = SCHEMA["properties"] | model_keys() | policy_keys("cost_aware")
    assert [key for key, schema in keys.items() if not schema.get("description")] == []
    for name, schema in SCHEMA["$defs"].items():
        for key, value in schema["properties"].items():
            assert value.get("description"), f"{name}.{key}"
    documented = f"{Config.__doc__}{ModelConfig.__doc__}{PolicyConfig.__doc__}"
    names = {*keys_of(Config), *keys_of(ModelConfig), *keys_of(PolicyConfig)}
    assert [name for name in sorted(names) if f"@ivar {name}:" not in documented] == []


def test_the_schema_has_the_defaults_of_the_structs() -> None:
    top = {
        key: schema["default"]
        for key, schema in SCHEMA["properties"].items()
        if "default" in schema
    }
    plain = json.loads(msgspec.json.encode(Config(models={})))
    for key in keys_of(Config):
        if key not in ("models", "policy"):
            assert top[key] == plain[key], key
    assert model_keys()["health"]["default"] == "/health"
    assert policy_keys("cost_aware")["max_wait_secs"]["default"] == 120


def test_no_pattern_is_pythons_own() -> None:
    assert re.findall(r"\\\\[AZ]", json.dumps(SCHEMA)) == []


@pytest.mark.parametrize(("place", "key"), PLACES)
def test_what_the_schema_refuses_of_one_key_the_reader_refuses(place: str, key: str) -> None:
    for value in (None, True, -1, 0, 1.5, 2, 10**9, "", "x", [], [1], ["x"], {}, {"a": "b"}):
        document = with_key(place, key, value)
        if not VALIDATOR.is_valid(document):
            assert reader_refuses(document) is not None, value


@pytest.mark.parametrize(("place", "key"), PLACES)
def test_a_value_of_no_type_of_the_key_is_refused_by_both(place: str, key: str) -> None:
    wrong: object
    for wrong in ({"an": ["object"]}, [[]]):
        document = with_key(place, key, wrong)
        refused = reader_refuses(document)
        if refused is not None:
            assert not VALIDATOR.is_valid(document), refused


@pytest.mark.parametrize("place", ["top", "model", "policy"])
def test_an_unknown_key_is_refused_by_both(place: str) -> None:
    document = with_key(place, "sleeep", "x")
    assert not VALIDATOR.is_valid(document)
    assert "unknown key" in (reader_refuses(document) or "")


@pytest.mark.parametrize("key", ["metadata", "admin"])
def test_an_unknown_key_of_a_key_is_refused_by_both(key: str) -> None:
    document = with_key("model" if key in keys_of(ModelConfig) else "top", key, {"zzz": 1})
    assert not VALIDATOR.is_valid(document)
    assert "unknown key" in (reader_refuses(document) or "")


def test_a_json_file_may_name_its_schema() -> None:
    document: dict[str, Any] = {"$schema": "llmux.schema.json", "models": {"a": MODEL}}
    assert VALIDATOR.is_valid(document)
    assert reader_refuses(document) is None
    document["$schema"] = 1
    assert not VALIDATOR.is_valid(document)
    assert reader_refuses(document) is not None


def test_a_setting_of_another_policy_is_refused_by_both() -> None:
    document = {"models": {"a": MODEL}, "policy": {"name": "fifo", "quantum": 1}}
    assert not VALIDATOR.is_valid(document)
    assert reader_refuses(document) is not None


class TheirInner(msgspec.Struct):
    """
    This class has a part of the settings of a policy.

    @ivar depth: how deep.
    """

    depth: int = 1


class TheirSettings(msgspec.Struct):
    """
    This class has the settings of a policy that somebody else wrote, and one part of them is a
    class too.

    @ivar inner: the part.
    """

    inner: TheirInner = msgspec.field(default_factory=TheirInner, name="inside")
    name: int = 3


class TheirFactory:
    name = "theirs"
    settings = TheirSettings


def test_the_settings_of_a_policy_that_others_wrote_are_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find(name: str) -> Any:
        if name == "twice":
            raise PolicyLookupError("two policies are called twice", "uninstall one")
        return TheirFactory() if name == "theirs" else find_policy(name)

    monkeypatch.setattr(json_schema, "known_policies", lambda: ["fifo", "theirs", "twice"])
    monkeypatch.setattr(json_schema, "find_policy", find)
    schema = configuration_schema()
    validator = Draft202012Validator(schema)

    def is_valid(**policy: object) -> bool:
        return bool(validator.is_valid({"models": {"a": MODEL}, "policy": policy}))

    assert is_valid(name="theirs", inside={"depth": 2}, min_active_secs=1)
    # A struct of somebody else ignores unknown keys, unless it says otherwise.
    assert is_valid(name="theirs", inside={"depth": 2, "width": 1})
    assert not is_valid(name="theirs", inside={"depth": "x"})
    assert not is_valid(name="theirs", inner={})
    assert not is_valid(name="fifo", inside={})
    assert not is_valid(name="twice")
    assert schema["$defs"]["TheirInner"]["properties"]["depth"]["description"] == "How deep."


@pytest.mark.parametrize("models", [{}, {"": MODEL}, {"a": {}}, {"a": []}, [], None, "a"])
def test_models_that_are_none_are_refused_by_both(models: object) -> None:
    assert not VALIDATOR.is_valid({"models": models})
    assert reader_refuses({"models": models}) is not None


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["/health", "tcp:1", "127.0.0.1", "always", "host:8", "*", "http://a:1"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES), VALUES)
def test_whatever_the_schema_refuses_the_reader_refuses(
    place: tuple[str, str], value: object
) -> None:
    document = with_key(*place, value)
    if not VALIDATOR.is_valid(document):
        assert reader_refuses(document) is not None


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("examples/*/config.yaml")), ids=lambda path: path.parent.name
)
def test_every_example_is_valid(file: Path) -> None:
    document = yaml.safe_load(file.read_text())
    assert [error.message for error in VALIDATOR.iter_errors(document)] == []
    load_config(str(file))


def blocks_of_yaml() -> Iterator[tuple[str, dict[str, Any]]]:
    for page in sorted([ROOT / "README.md", *ROOT.glob("examples/*/README.md")]):
        text = page.read_text()
        for found in re.finditer(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, found.start()) + 1
            yield f"{page.relative_to(ROOT)}:{line}", yaml.safe_load(found[1])


BLOCKS = dict(blocks_of_yaml())


@pytest.mark.parametrize("place", BLOCKS)
def test_every_block_of_the_readme_is_valid(place: str) -> None:
    """
    A block without models, or whose models have no hooks, shows what to add to a configuration.
    """
    document = {"models": {"a": MODEL}} | BLOCKS[place]
    document["models"] = {
        name: model if {"serve", "wake", "sleep"} & set(model) else MODEL | model
        for name, model in document["models"].items()
    }
    assert [error.message for error in VALIDATOR.iter_errors(document)] == []


def test_the_readme_has_blocks() -> None:
    assert len(BLOCKS) >= 4


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
