"""
This module writes a configuration as text: keys in an order for people, with comments between
them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from llmux.config.error import printable

__all__ = ["Draft", "DraftError", "ModelDraft", "flow", "size_in_words"]

WIDTH = 96


class DraftError(Exception):
    """
    No configuration can be drafted, because there is nothing to draft it from.  The error's
    message says why, and what to do.
    """


@dataclass
class ModelDraft:
    """
    A L{ModelDraft} is the part of a draft that is about one model.

    @ivar keys: the keys under the model's name, in this order.
    @ivar remarks: comments above the model's name.
    @ivar suggestions: keys that stand below the others, as comments.
    """

    name: str
    keys: dict[str, Any]
    remarks: list[str] = field(default_factory=list)
    suggestions: list[str] = field(default_factory=list)


@dataclass
class Draft:
    """
    A L{Draft} is a whole configuration that has not been written yet.

    @ivar remarks: comments at the beginning, a paragraph each.
    @ivar keys: the keys at the top level, above the models.
    @ivar suggestions: comments at the top level, above C{resources} if there is such a key.
    @ivar closing: comments below the models.
    @ivar left_out: a sentence for each thing that the source has and this configuration has
        not.
    @ivar hints: sentences for the user who asked for the draft, which are not written to the
        file.
    @ivar mode: the permissions that the file may have, before the umask.
    """

    models: list[ModelDraft]
    remarks: list[str] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)
    suggestions: list[str] = field(default_factory=list)
    closing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    mode: int = 0o666

    def text(self, schema: str | None = None) -> str:
        """
        Return the text of the file.

        @param schema: the name of the schema's file, which the text mentions; None to mention
            no schema.
        """
        lines = [f"# yaml-language-server: $schema={schema}"] if schema else []
        for remark in self.remarks:
            lines += _comment(remark)
        if self.left_out:
            lines += ["#", "# Left out:"]
            for sentence in self.left_out:
                lines += _comment(sentence, first="# - ", then="#   ")
        lines.append("")
        explanation = [f"# {line}".rstrip() for line in self.suggestions]
        for key, value in self.keys.items():
            if key == "resources":
                lines += explanation
                explanation = []
            lines += _entry(key, value)
        lines += explanation
        if lines[-1]:
            lines.append("")
        lines.append("models:")
        anchors: dict[str, str] = {}
        for at, model in enumerate(self.models):
            lines += [""] if at else []
            lines += _indented(_model(model, self._shared(), anchors), "  ")
        if self.closing:
            lines += ["", *(f"  # {line}".rstrip() for line in self.closing)]
        return "\n".join(lines) + "\n"

    def _shared(self) -> set[str]:
        """Return the scripts of several lines that more than one model has."""
        texts = [
            value
            for model in self.models
            for value in model.keys.values()
            if isinstance(value, str) and "\n" in value
        ]
        return {text for text in texts if texts.count(text) > 1}


def _model(model: ModelDraft, shared: set[str], anchors: dict[str, str]) -> Iterator[str]:
    """
    Yield the lines of a model.

    @param shared: the scripts that are to be written only once.
    @param anchors: the YAML anchor of each shared script that has been written already.
    """
    for remark in model.remarks:
        yield from _comment(remark, width=WIDTH - 2)
    yield f"{flow(model.name)}:"
    for key, value in model.keys.items():
        lines = _entry(key, value)
        if isinstance(value, str) and value in shared:
            if value in anchors:
                lines = [f"{key}: *{anchors[value]}"]
            else:
                anchors[value] = (
                    f"{key}{len(anchors) or ''}" if key in anchors.values() else key
                )
                lines[0] = lines[0].replace(": ", f": &{anchors[value]} ", 1)
        yield from _indented(lines, "  ")
    yield from _indented([f"# {line}".rstrip() for line in model.suggestions], "  ")


def _entry(key: str, value: Any) -> list[str]:
    """Return the lines of one key."""
    if isinstance(value, str) and "\n" in value:
        return _dumped({key: value}, default_flow_style=False).split("\n")
    return [f"{flow(key)}: {flow(value)}"]


def size_in_words(size: int) -> str:
    """Return a number of bytes in GiB or MiB, as people say it."""
    return f"{size / 2**30:.1f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:.1f} MiB"


def flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    return _dumped([value], default_flow_style=True)[1:-1]


def _dumped(value: Any, **options: Any) -> str:
    dumped: str = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=float("inf"),
        **options,
    )
    return dumped.strip()


def _comment(text: str, first: str = "# ", then: str = "# ", width: int = WIDTH) -> list[str]:
    return textwrap.wrap(
        printable(text),
        width,
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    ) or ["#"]


def _indented(lines: Iterable[str], by: str) -> list[str]:
    return [by + line if line else line for line in lines]


_OTHER_BREAKS = "\x85\u2028\u2029"
"""
YAML takes these characters for line breaks, and PyYAML writes them unchanged only within double
quotes.
"""


class _Dumper(yaml.SafeDumper):
    """This dumper is PyYAML's, but writes scripts of several lines as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text.rstrip("\n") else None
    if any(character in text for character in _OTHER_BREAKS):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
