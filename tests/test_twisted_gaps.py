"""These tests compare the list of Twisted's private parts that llmux uses with the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

import llmux
from llmux.daemon.twisted_gaps import PRIVATE_PARTS

ROOT = Path(llmux.__file__).parent
MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.py")
    if path.name != "__main__.py"
)
UNDOCUMENTED = {name for use in PRIVATE_PARTS for name in use.names if name[0] != "_"}

NOT_TWISTEDS = {"_replace": "namedtuple", "_actions": "argparse"}
"""These private names are of other libraries."""


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


@cache
def _private_names(cls: type) -> frozenset[str]:
    """Return the private names that this class defines, or that its methods use of C{self}."""
    used: set[str] = set()
    # A class that a decorator has made anew has no source.
    with suppress(OSError):
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and _is_self(node.value)
        }
    return frozenset(name for name in used | set(vars(cls)) if _is_private(name))


def _names(tree: ast.AST) -> Iterator[str]:
    """Yield the names of attributes that are used, and all that is defined."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _of_twisteds_classes(module: str, tree: ast.Module) -> Iterator[str]:
    """Yield the private names of Twisted's classes that their subclasses here use."""
    dotted = ".".join(["llmux", *Path(module).with_suffix("").parts])
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            cls = getattr(importlib.import_module(dotted.removesuffix(".__init__")), node.name)
            used = set(_names(node))
            for parent in inspect.getmro(cls) if isinstance(cls, type) else ():
                if parent.__module__.startswith("twisted."):
                    yield from used & _private_names(parent)


def private_uses(module: str, tree: ast.Module) -> Iterator[str]:
    """
    Yield the names of Twisted's private parts that a module uses: what it imports, what its
    subclasses of Twisted's classes use, private attributes of other objects that the module
    does not define itself, and what the list has as undocumented.
    """
    own = {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        or (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and _is_self(node.value)
        )
    }
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    listed = {name for use in PRIVATE_PARTS for name in use.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("twisted"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from filter(_is_private, names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("twisted."):
                    yield from filter(_is_private, alias.name.split("."))
        elif isinstance(node, ast.Attribute):
            is_ours = _is_self(node.value) or node.attr in own or node.attr in NOT_TWISTEDS
            if (_is_private(node.attr) and not is_ours) or node.attr in UNDOCUMENTED:
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
            if name in listed:
                yield str(name)
    yield from _of_twisteds_classes(module, tree)


@pytest.mark.parametrize("module", MODULES)
def test_each_private_part_of_twisted_is_listed(module: str) -> None:
    listed = {name for use in PRIVATE_PARTS if use.module == module for name in use.names}
    assert set(private_uses(module, ast.parse((ROOT / module).read_text()))) == listed


def test_each_use_has_a_reason_and_is_in_a_module_that_there_is() -> None:
    for use in PRIVATE_PARTS:
        assert use.module in MODULES, use
        assert use.names and use.reason.endswith("."), use
    names = [(use.module, name) for use in PRIVATE_PARTS for name in use.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("from twisted.web.http import _IdentityTransferDecoder", "_IdentityTransferDecoder"),
        ("from twisted.web._http2 import H2Stream", "_http2"),
        ("import twisted.internet._sslverify", "_sslverify"),
        ("def f(transport): return transport._tempDataBuffer", "_tempDataBuffer"),
        ("def f(transport): return transport.dataBuffer", "dataBuffer"),
        ("def f(port): return getattr(port, 'lockFile', None)", "lockFile"),
        ("def f(port): port._shouldShutdown = False", "_shouldShutdown"),
    ],
)
def test_uses_of_private_parts_are_seen(text: str, name: str) -> None:
    assert list(private_uses("errors.py", ast.parse(text))) == [name]


def test_a_use_by_a_subclass_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tuple(use for use in PRIVATE_PARTS if use.module != "web/request.py")
    assert len(listed) < len(PRIVATE_PARTS)
    tree = ast.parse((ROOT / "web/request.py").read_text())
    monkeypatch.setattr("tests.test_twisted_gaps.PRIVATE_PARTS", listed)
    assert {"_disconnected", "_encoder", "_cleanup"} <= set(
        private_uses("web/request.py", tree)
    )
