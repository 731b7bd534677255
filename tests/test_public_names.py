"""
These tests check that the package offers what it says it offers, and imports little for that.
"""

from __future__ import annotations

import pytest

import llmux
from tests.interpreter import printed_by


@pytest.mark.parametrize("name", llmux.__all__)
def test_each_public_name_can_be_imported(name: str) -> None:
    assert getattr(llmux, name) is not None


def test_any_other_name_is_missing() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        llmux.nothing  # noqa: B018  # looking it up is the test


def test_importing_the_package_imports_no_reactor_and_no_product_code() -> None:
    code = (
        "import sys, llmux;"
        "print(sorted(m for m in sys.modules if 'llmux.' in m or 'twisted' in m))"
    )
    assert printed_by(code).strip() == "['llmux._version']"


def test_what_a_server_imports_has_no_dataclasses() -> None:
    """
    To make a dataclass takes half a millisecond, because Python compiles its methods, and a
    msgspec Struct takes a thirtieth of that: twenty of them were 15 ms of each start.
    """
    code = (
        "import sys, llmux.app, llmux.daemon.service\n"
        "found = [f'{c.__module__}.{c.__qualname__}'\n"
        "    for m in list(sys.modules.values()) if m.__name__.startswith('llmux')\n"
        "    for c in vars(m).values() if hasattr(c, '__dataclass_fields__')]\n"
        "assert len([m for m in sys.modules if m.startswith('llmux')]) > 50\n"
        "print(sorted(set(found)))\n"
    )
    assert printed_by(code) == "[]\n"
