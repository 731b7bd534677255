"""These tests check that the policy in the README's section "Writing a policy" works."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyObject

import llmux.events
import llmux.interfaces
import llmux.scheduling
from llmux.interfaces import Completed, ISwitchPolicy, ISwitchPolicyFactory, PolicyContext

ROOT = Path(__file__).resolve().parent.parent
LLMUX = (sys.executable, "-m", "llmux")


@pytest.fixture(scope="module")
def code() -> str:
    """Return the Python code of the section about policies in README.md."""
    _, section = (ROOT / "README.md").read_text().split("\n## Writing a policy\n")
    return section.split("```python\n")[1].split("```")[0]


def test_the_policy_of_the_readme_provides_the_interfaces(code: str) -> None:
    names: dict[str, Any] = {}
    exec(code, names)
    factory = names["mine"]
    assert verifyObject(ISwitchPolicyFactory, factory)
    policy = factory.build(PolicyContext(weights={"a": 1.0}), None)
    assert verifyObject(ISwitchPolicy, policy)
    policy.observe(Completed(5.0, "a", 1, 3.0, True))
    assert policy.slowest == {"a": 3.0}


def test_llmux_simulate_finds_the_policy_of_the_readme_as_a_plugin(
    code: str, tmp_path: Path
) -> None:
    """
    The policy admits a third quick request to a model that drains; under fifo the same request
    waits for two switches.
    """
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "my_policies.py").write_text(code)
    trace = tmp_path / "trace.jsonl"
    sent = [(0, "a", 0.5), (50, "a", 0.5), (50.1, "b", 0.5), (50.2, "a", 0.2)]
    trace.write_text(
        "".join(json.dumps({"t": t, "model": m, "service_s": s}) + "\n" for t, m, s in sent)
    )
    done = subprocess.run(
        [*LLMUX, "simulate", trace, "--json", "--policy", "mine", "--policy", "fifo"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    mine, fifo = json.loads(done.stdout)["policies"]
    assert (mine["switches"], fifo["switches"]) == (2, 3)


def test_the_interfaces_export_each_public_name() -> None:
    module = ast.parse(Path(llmux.interfaces.__file__).read_text())
    defined = {node.name for node in module.body if isinstance(node, ast.ClassDef)}
    for part in (llmux.events, llmux.scheduling):
        defined |= {*part.__all__}
    for node in module.body:
        if isinstance(node, ast.Assign):
            defined |= {name.id for name in node.targets if isinstance(name, ast.Name)}
    public = {name for name in defined if not name.startswith("_")}
    assert public == set(llmux.interfaces.__all__)
