"""
These tests check where the daemon's Unix socket is, and where the command line looks for the
daemon.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmux.socket_path import (
    LONGEST_PATH,
    is_private,
    socket_candidates,
    socket_path,
)


def test_systemds_directory_comes_before_the_users_and_that_before_tmp(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    service = {"RUNTIME_DIRECTORY": "/run/llmux:/run/x", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert socket_path(file, None, service) == Path("/run/llmux/llmux.sock")
    of_user = socket_path(file, None, {"XDG_RUNTIME_DIR": "/run/user/7"})
    assert of_user.parent == Path("/run/user/7/llmux")
    assert socket_path(file, None, {}) == Path(f"/tmp/llmux-{os.getuid()}", of_user.name)
    assert socket_path(file, None, {"XDG_RUNTIME_DIR": "relative"}).is_relative_to("/tmp")


def test_a_daemon_that_becomes_another_user_does_not_use_the_present_users_directory(
    tmp_path: Path,
) -> None:
    path = socket_path(tmp_path / "c.yaml", None, {"XDG_RUNTIME_DIR": "/run/user/0"}, uid=77)
    assert path.parent == Path("/tmp/llmux-77")


def test_what_is_configured_is_relative_to_the_file_and_the_only_candidate(
    tmp_path: Path,
) -> None:
    file = tmp_path / "config.yaml"
    assert socket_path(file, "own.sock", {}) == tmp_path / "own.sock"
    assert socket_path(file, "/run/own.sock", {}) == Path("/run/own.sock")
    assert socket_candidates(file, "own.sock", {}) == [tmp_path / "own.sock"]


def test_every_path_to_one_file_leads_to_one_socket_and_two_files_to_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.touch()
    (tmp_path / "link.yaml").symlink_to(file)
    expected = socket_path(file, None, {})
    assert socket_path(tmp_path / "link.yaml", None, {}) == expected
    monkeypatch.chdir(tmp_path)
    assert socket_path("config.yaml", None, {}) == expected
    assert socket_path(tmp_path / "other.yaml", None, {}) != expected


def test_the_command_line_looks_where_any_daemon_of_this_file_may_be(tmp_path: Path) -> None:
    """A path that another configuration's daemon may have as well comes last."""
    file = tmp_path / "config.yaml"
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    candidates = socket_candidates(file, None, environ)
    assert candidates[0] == socket_path(file, None, environ)
    assert socket_path(file, None, {}) in candidates
    assert candidates[-1] == Path("/run/llmux/llmux.sock")


def test_a_path_fits_an_address_however_long_the_files_name_is() -> None:
    path = socket_path(
        "/" + "x/" * 1000 + "c.yaml", None, {"XDG_RUNTIME_DIR": "/run/user/1000"}
    )
    assert len(os.fsencode(path)) <= LONGEST_PATH


def test_a_directory_is_private_if_it_is_ours_and_closed(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir(0o700)
    assert is_private(ours)
    assert not is_private(ours, uid=os.getuid() + 1)
    (tmp_path / "link").symlink_to(ours)
    assert not is_private(tmp_path / "link")
    ours.chmod(0o750)
    assert not is_private(ours)
    assert not is_private(tmp_path / "missing")


def test_the_rules_are_read_without_the_reactor() -> None:
    program = (
        "import sys, llmux.socket_path; sys.exit('twisted.internet.reactor' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 0
