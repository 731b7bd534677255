"""
These tests hold the lists of README.md to the code: keys with their defaults, metrics, events
of the log, commands.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from llmux.command.link.verb_names import VERBS
from llmux.config import Config, ModelConfig
from llmux.config.values import AdminConfig, PolicyConfig

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

NOT_WRITTEN = {"settings", "directory", "file"}
"""A configuration's values have these fields, which no file has."""

SHOWN_BY_EXAMPLE = {
    "models", "policy", "admin", "resources", "needs", "keep", "serve", "port", "wake", "sleep",
    "alive", "prepare", "name",
}  # fmt: skip
"""README shows what may be written for these keys, and not the default, or they have none."""


def section(title: str, level: str = "##") -> str:
    """Return the text between a heading of README.md and the next one of its level."""
    _, _, rest = README.partition(f"\n{level} {title}\n")
    assert rest, title
    return rest.partition(f"\n{level} ")[0]


def keys() -> Any:
    """Return the block of all keys as YAML reads it."""
    block = section("Configuration").split("```yaml\n")[1].split("```")[0]
    return yaml.safe_load(re.sub(r"<(script|command)>", "x", block).replace("<name>:", "name:"))


@pytest.mark.parametrize(
    ("values", "path"),
    [
        (Config, ()),
        (ModelConfig, ("models", "name")),
        (PolicyConfig, ("policy",)),
        (AdminConfig, ("admin",)),
    ],
)
def test_each_key_is_listed_with_its_default(
    values: type[msgspec.Struct], path: tuple[str, ...]
) -> None:
    listed = keys()
    for key in path:
        listed = listed[key]
    fields = {
        field.encode_name: field
        for field in msgspec.structs.fields(values)
        if field.name not in NOT_WRITTEN
    }
    assert sorted(fields) == sorted(listed)
    for name in fields.keys() - SHOWN_BY_EXAMPLE:
        field = fields[name]
        default = field.default if field.default is not msgspec.NODEFAULT else {}
        if isinstance(default, msgspec.Struct):
            default = {}
        assert listed[name] == (list(default) if isinstance(default, tuple) else default), name


def test_each_metric_is_listed() -> None:
    source = (ROOT / "llmux/monitoring/metrics.py").read_text()
    known = set(re.findall(r'"(llmux_\w+)"', source))
    text = section("What is it doing?")
    listed = set(re.findall(r"llmux_\w+", text.partition("`/metrics`: ")[2].split("\n\n")[0]))
    listed.discard("llmux_policy_")
    assert {name.removesuffix("_total") for name in listed} == known


def events_of_the_log() -> Iterator[str]:
    """Yield the value of each C{event} that is given to a logger."""
    for path in sorted((ROOT / "llmux").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.keyword(arg="event", value=ast.Constant(value=str(event))):
                    yield event
    yield "log_lines_lost"


def test_each_event_of_the_log_is_listed() -> None:
    text = section("What is it doing?").partition("| about | `event` |")[2].split("\n\n")[0]
    assert sorted(set(events_of_the_log())) == sorted(re.findall(r"`(\w+)`", text))


def test_each_command_that_talks_to_a_daemon_is_listed() -> None:
    text = section("Make it do something").partition("| command |")[2].split("\n\n")[0]
    first_cells = [line.split("|")[1] for line in text.splitlines()[2:]]
    listed = {word for cell in first_cells for word in re.findall(r"`(?:llmux )?(\w+)", cell)}
    assert listed == set(VERBS)
