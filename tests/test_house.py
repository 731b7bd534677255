"""
The floors of the house: imports point down, and where requests go no two modules
need each other.

Imports for types alone (C{if TYPE_CHECKING}) and inside functions count as well.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import llmux

ROOT = Path(llmux.__file__).parent
FLOORS = {
    **dict.fromkeys(("__init__", "__main__"), 9),
    "command": 8,
    **dict.fromkeys(("tap", "simulate", "demo"), 7),
    "daemon": 6,
    "app": 5,
    **dict.fromkeys(("proxy", "admin", "hooks"), 4),
    **dict.fromkeys(("switching", "config"), 3),
    **dict.fromkeys(("policy", "monitoring"), 2),
    **dict.fromkeys(("backend", "web"), 1),
    **dict.fromkeys(("interfaces", "errors", "similar_names", "_version"), 0),
}


def imports(path: Path) -> set[str]:
    """The modules of llmux that a file names, without C{llmux.} in front."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {
            n.removeprefix("llmux").lstrip(".") or "__init__" for n in names if is_ours(n)
        }
    return found


def is_ours(name: str) -> bool:
    return name == "llmux" or name.startswith("llmux.")


def modules() -> dict[str, Path]:
    names = {path: path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("*.py")}
    return {
        ".".join(name.parts).removesuffix(".__init__"): path for path, name in names.items()
    }


def test_imports_point_down() -> None:
    """A floor knows nothing of those above it, nor of its neighbours."""
    upwards = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for other in imports(path)
        if (mine := name.partition(".")[0]) != (theirs := other.partition(".")[0])
        and FLOORS[theirs] >= FLOORS[mine]
    ]
    assert upwards == []


def test_no_two_modules_on_the_way_of_a_request_need_each_other() -> None:
    """A cycle raises, and the error names its modules."""
    rooms = ("backend", "proxy", "web")
    needs = {
        name: imports(path) - {name}
        for name, path in modules().items()
        if name.startswith(rooms)
    }
    assert list(TopologicalSorter(needs).static_order())
