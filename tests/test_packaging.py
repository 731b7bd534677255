"""
These tests install the wheel in a virtual environment that has nothing else: this is what a
user gets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Modules that only an extra can import.
_EXTRAS = ("llmux.demo",)

_IMPORT_ALL = f"""
import importlib, pkgutil, llmux
for module in pkgutil.walk_packages(llmux.__path__, "llmux."):
    if not module.name.startswith({_EXTRAS!r}) and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command, and return its output, both streams of it; a failure shows it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the source distribution, which thus is complete, too."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=ROOT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """
    Make an environment with the wheel and its requirements, and return the directory of its
    programs.
    """
    path = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", path, cwd=path)
    run(path / "bin/pip", "install", "-q", wheel, cwd=path)
    return path / "bin"


def test_the_wheel_has_all_of_llmux_and_nothing_else(wheel: Path) -> None:
    """The wheel has all modules and data of llmux, and nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        str(path.relative_to(ROOT))
        for tree in ("llmux", "twisted")
        for path in (ROOT / tree).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "dropin.cache"
    }
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert "twisted/plugins/llmux_plugin.py" in ours
    assert not ours & {"twisted/__init__.py", "twisted/plugins/__init__.py"}


def test_twistd_knows_llmux_from_any_directory(venv: Path) -> None:
    """twistd knows llmux from any directory."""
    help = run(venv / "twistd", "--help", cwd=Path("/"))
    assert [line.split()[0] for line in help.splitlines() if "One OpenAI" in line] == ["llmux"]
    assert "--config" in run(venv / "twistd", "llmux", "--help", cwd=Path("/"))


def test_twistd_knows_a_checkout() -> None:
    """twistd knows a checkout that was installed with C{pip install -e}, from any directory."""
    if not installed_from_here():
        pytest.skip("this checkout is not installed")
    for directory in (ROOT, Path("/")):
        help = run(Path(sys.executable).with_name("twistd"), "--help", cwd=directory)
        assert "\n    llmux " in help


def installed_from_here() -> bool:
    """Tell whether pip has noted that this checkout was installed with C{-e}."""
    origins = (d.read_text("direct_url.json") for d in distributions(name="txllmux"))
    return any(json.loads(o)["dir_info"].get("editable", False) for o in origins if o)


def test_the_console_script_runs_from_any_directory(venv: Path) -> None:
    import llmux

    assert llmux.__version__ in run(venv / "llmux", "--version", cwd=Path("/"))


def test_needs_no_more_than_it_asks_for(venv: Path) -> None:
    """Every module can be imported with the requirements alone, without an extra."""
    run(venv / "python", "-c", _IMPORT_ALL, cwd=Path("/"))


def test_policies_are_found_as_plugins(venv: Path) -> None:
    """llmux's own policies are found as plugins of Twisted."""
    script = (
        "from twisted.plugin import getPlugins; from llmux.interfaces import *; "
        "print([p.name for p in getPlugins(ISwitchPolicyFactory)])"
    )
    assert "fifo" in run(venv / "python", "-c", script, cwd=Path("/"))
