"""These tests check which package may import which, and that no name occurs twice."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LLMUX = Path(__file__).parent.parent / "llmux"

FLOORS = {
    "__main__": 9,
    "command": 8,
    "tap": 7,
    "simulate": 7,
    "demo": 7,
    "drafting": 7,
    "daemon": 6,
    "app": 5,
    "proxy": 4,
    "admin": 4,
    "hooks": 4,
    "switching": 3,
    "config": 3,
    "policy": 2,
    "monitoring": 2,
    "backend": 1,
    "web": 1,
    "control": 1,
    "interfaces": 1,
    "scheduling": 0.5,
    "events": 0,
    "errors": 0,
    "similar_names": 0,
    "duration_text": 0,
    "socket_path": 0,
    "_version": 0,
}
"""
This is the floor of each package (room); by the design, imports go from a higher floor to a
lower one, or stay in the room.
"""


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(LLMUX.rglob("*.py")):
        parts = path.relative_to(LLMUX.parent).with_suffix("").parts
        yield (
            ".".join(part for part in parts if part != "__init__"),
            ast.parse(path.read_text()),
        )


MODULES = dict(_modules())


def _imports(tree: ast.Module) -> Iterator[str]:
    """
    Yield the names of all imports, those within functions and those for types only included.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_imports_go_downstairs() -> None:
    """The package itself only names what others may import, and is left out."""
    wrong = {
        (_room(module), _room(imported))
        for module, tree in MODULES.items()
        for imported in _imports(tree)
        if _room(module) and imported.startswith("llmux.")
        if _room(module) != _room(imported)
        if FLOORS[_room(module)] <= FLOORS[_room(imported)]
    }
    assert wrong == set()


def _between(known: dict[str, set[str]]) -> dict[str, set[str]]:
    """
    Return the modules that are part of a circle of imports, or import one that is, directly or
    not.
    """
    while leaves := {module for module, names in known.items() if not names & known.keys()}:
        known = {module: names for module, names in known.items() if module not in leaves}
    return known


def test_no_module_imports_itself_by_way_of_others() -> None:
    """This holds for imports for types only and for those within functions as well."""
    imports = {
        module: {name for name in _imports(tree) if name in MODULES and name != module}
        for module, tree in MODULES.items()
        if _room(module)
    }
    left = _between(imports)
    importers: dict[str, set[str]] = {module: set() for module in left}
    for module, names in left.items():
        for name in names & left.keys():
            importers[name].add(module)
    assert set(_between(importers)) == set()


def _packages() -> Iterator[tuple[str, Path]]:
    """Yield the name and the directory of each package within llmux."""
    for path in sorted(LLMUX.rglob("*/__init__.py")):
        yield ".".join(path.parent.relative_to(LLMUX.parent).parts), path.parent


PACKAGES = dict(_packages())


def _map(package: str) -> list[str]:
    """Return the modules and packages that the docstring of a package lists, in its order."""
    return re.findall(r"^ - C\{(\w+)\}: ", ast.get_docstring(MODULES[package]) or "", re.M)


def _contents(directory: Path) -> set[str]:
    modules = {path.stem for path in directory.glob("*.py")} - {"__init__"}
    return modules | {path.parent.name for path in directory.glob("*/__init__.py")}


def test_the_map_of_each_package_lists_what_is_there() -> None:
    """The docstring of a package has one line for each module or package in it."""
    for package, directory in PACKAGES.items():
        assert sorted(_map(package)) == sorted(_contents(directory)), package


def test_imports_go_down_the_map_of_their_package() -> None:
    """
    What a package has is listed from the top to the ground: a module or a package imports only
    those that stand below it in the map.  So the packages within a room have floors too.
    """
    wrong = set()
    for package in PACKAGES:
        places = {name: place for place, name in enumerate(_map(package))}
        inside = re.compile(re.escape(package) + r"\.(\w+)").match
        for module, tree in MODULES.items():
            if importer := inside(module):
                for imported in filter(None, map(inside, _imports(tree))):
                    if places[importer[1]] > places[imported[1]]:
                        wrong.add(f"{module} imports {imported[0]}")
    assert wrong == set()


def test_no_package_is_a_corridor() -> None:
    """A package with more modules than this is parted where its subjects part."""
    counts = {name: len(list(path.glob("*.py"))) - 1 for name, path in PACKAGES.items()}
    assert {name: count for name, count in counts.items() if count > 16} == {}


def test_each_module_has_a_name_of_its_own() -> None:
    """A package counts as a module."""
    names = Counter(module.rpartition(".")[2] for module in MODULES)
    assert {name for name, count in names.items() if count > 1} == set()


def test_each_class_has_a_name_of_its_own() -> None:
    """C{Thing} and C{_Thing} are one name."""
    names = Counter(
        node.name.lstrip("_")
        for tree in MODULES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in names.items() if count > 1} == set()


def test_the_walks_of_the_design_name_what_there_is() -> None:
    """Each C{Class.method} of design.md is defined in that class, or in a parent of it."""
    bodies: dict[str, set[str]] = {}
    parents: dict[str, set[str]] = {}
    for tree in MODULES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                names = bodies.setdefault(node.name, set())
                parents[node.name] = {b.id for b in node.bases if isinstance(b, ast.Name)}
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                        names.add(inner.name)

    def defines(cls: str, name: str) -> bool:
        return name in bodies.get(cls, ()) or any(
            defines(parent, name) for parent in parents.get(cls, ())
        )

    text = (LLMUX / "design.md").read_text()
    steps = re.findall(r"`([A-Z]\w+)\.(\w+)", text)
    assert len(steps) > 20
    assert [f"{cls}.{name}" for cls, name in steps if not defines(cls, name)] == []


_ELSEWHERE = {"Clock", "Deferred", "ProcessProtocol", "ivar"}
"""These names in design.md are Twisted's, or epytext's."""


def test_each_name_and_path_in_the_design_exists() -> None:
    """Each word in backticks of design.md is defined in llmux, or is a file there."""
    defined = {module.rpartition(".")[2] for module in MODULES}
    for tree in MODULES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                defined.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
            elif isinstance(node, ast.arg):
                defined.add(node.arg)
    files = {path.relative_to(LLMUX).as_posix() for path in LLMUX.rglob("*")}
    files |= {path.name for path in LLMUX.rglob("*.py")}
    files |= {path.name for path in PACKAGES.values()}
    text = (LLMUX / "design.md").read_text()
    unknown = []
    words = re.findall(r"`([^` ]+|\w+\([^`]*\))`", text)
    assert len(words) > 80
    for word in words:
        if "/" in word or word.endswith(".py"):
            if word.rstrip("/") not in files and not (LLMUX.parent / word).exists():
                unknown.append(word)
        else:
            names = set(re.findall(r"[A-Za-z_]\w+", word))
            unknown += sorted(names - defined - _ELSEWHERE)
    assert unknown == []
