"""
These tests check that the package offers what it says it offers, and imports little for that.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

import llmux


@pytest.mark.parametrize("name", llmux.__all__)
def test_each_name(name: str) -> None:
    assert getattr(llmux, name) is not None


def test_no_other_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        llmux.nothing  # noqa: B018  # looking it up is the test


def test_importing_the_package_imports_no_reactor_and_no_product_code() -> None:
    code = (
        "import sys, llmux;"
        "print(sorted(m for m in sys.modules if 'llmux.' in m or 'twisted' in m))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "['llmux._version']"
