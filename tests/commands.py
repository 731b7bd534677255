"""This module gives commands in this process, to a daemon that remembers them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmux.command.main import main
from llmux.socket_path import socket_path
from tests.fake_daemon import FakeDaemon, fake_daemon

__all__ = ["Commands", "Said", "daemon_of_the_file", "llmux_here"]


class Said:
    """This is what a command has printed, and how it ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Commands:
    """This object runs commands in this process, for the daemon of a configuration file."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = directory / "config.yaml"
        self._capsys = capsys

    def __call__(self, *words: str, where: tuple[str, ...] | None = None) -> Said:
        where = ("-c", str(self.file)) if where is None else where
        self._capsys.readouterr()
        try:
            status = main([words[0], *where, *words[1:]])
        except SystemExit as e:
            status = int(str(e.code))
        out, err = self._capsys.readouterr()
        return Said(status, out, err)


@pytest.fixture
def daemon_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    """Run a fake daemon that has its socket where the configuration's daemon would have it."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = socket_path(tmp_path / "config.yaml", None)
    path.parent.mkdir(mode=0o700)
    with fake_daemon() as daemon:
        daemon.listen_at(path)
        yield daemon


@pytest.fixture
def llmux_here(
    tmp_path: Path, daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> Commands:
    """Give commands with the configuration whose daemon the fixture C{daemon} is."""
    return Commands(tmp_path, capsys)
