"""These tests check what llmux check says of who may do what."""

from __future__ import annotations

from typing import Any

import pytest

from llmux.command.checking.rights import who_may
from llmux.config import config_from_mapping

MODEL = {"port": 1, "wake": "w", "sleep": "s", "alive": "a"}


def said(**keys: Any) -> dict[str, list[str]]:
    """Return the printed lines, by what may be done."""
    config = config_from_mapping({"models": {"a": MODEL}, **keys}, directory="/etc/llmux")
    found: dict[str, list[str]] = {}
    what = ""
    for line in list(who_may(config))[1:]:
        what = line[2:20].strip() or what
        found.setdefault(what, []).append(line[20:])
    return found


@pytest.mark.parametrize(
    ("keys", "lookers"),
    [
        ({}, 1),
        ({"host": "::1"}, 1),
        ({"host": "localhost"}, 1),
        ({"host": "0.0.0.0"}, 0),
        ({"host": "10.1.2.3"}, 0),
        ({"listen": "tcp:3000"}, 0),
        ({"listen": "tcp:3000:interface=127.0.0.1"}, 1),
        ({"listen": r"tcp6:3000:interface=\:\:1"}, 1),
        ({"listen": "unix:/run/api.sock"}, 1),
        ({"listen": "systemd:domain=INET:index=0"}, 1),
        ({"admin": {"listen": "tcp:3001"}}, 1),
    ],
)
def test_those_who_may_look_are_named(keys: dict[str, Any], lookers: int) -> None:
    what = said(**keys)["see what goes on"]
    assert what[0].startswith("llmux's own user, at ")
    assert sum("whoever reaches" in who for who in what) == lookers


def test_nobody_commands_by_an_address() -> None:
    for keys in ({}, {"host": "0.0.0.0"}, {"admin": {"listen": "tcp:3001"}}):
        what = said(**keys)["give commands"]
        assert not any("whoever" in who for who in what)
        assert len(what) == 2


def test_the_socket_is_named() -> None:
    what = said(admin={"socket": "own.sock"})
    assert what["give commands"][0] == "llmux's own user, at /etc/llmux/own.sock"
