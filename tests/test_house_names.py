"""No name of the house means two things."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import llmux

FILES = sorted(Path(llmux.__file__).parent.rglob("*.py"))

MODULES_STILL_TWICE = {"run"}
CLASSES_STILL_TWICE = {"Phase"}
"""Names that mean two things, and should not."""


def _twice(names: list[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def test_each_module_has_a_name_of_its_own() -> None:
    names = [path.stem for path in FILES if path.stem != "__init__"]
    assert _twice(names) <= MODULES_STILL_TWICE


def test_each_public_class_has_a_name_of_its_own() -> None:
    names = [
        node.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert _twice(names) <= CLASSES_STILL_TWICE
