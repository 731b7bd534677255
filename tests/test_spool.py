"""
These tests check the directory for large request bodies: it is chosen at start, and tried.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmux.config import Config, ConfigError
from llmux.config.values import ModelConfig
from llmux.daemon.spool import open_storage, spool_directory

Configure = Callable[..., Config]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    model = ModelConfig(port=1, wake="true", sleep="true", alive="true")

    def configure(**keys: Any) -> Config:
        return Config(models={"a": model}, directory=str(tmp_path), **keys)

    return configure


def test_a_relative_directory_starts_at_the_configuration(
    configure: Configure, tmp_path: Path
) -> None:
    (tmp_path / "spool").mkdir()
    assert spool_directory(configure(spool_dir="spool")) == str(tmp_path / "spool")


def test_a_directory_that_cannot_be_written_is_an_error_of_its_key(
    configure: Configure,
) -> None:
    with pytest.raises(ConfigError, match=r"spool_dir: .*/nowhere cannot be written: no such"):
        spool_directory(configure(spool_dir="/nowhere"))


def test_by_default_it_is_the_directory_for_temporary_files(configure: Configure) -> None:
    assert spool_directory(configure()) == os.path.abspath(tempfile.gettempdir())


def test_the_current_directory_is_never_taken_for_want_of_another(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ConfigError, match="spool_dir: neither TMPDIR nor"):
        spool_directory(configure())
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert spool_directory(configure()) == str(tmp_path)


def test_the_budgets_are_the_configurations(configure: Configure) -> None:
    """A single body may always be as large as max_body_mb."""
    storage = open_storage(configure(max_spool_mb=1, max_body_mb=3, max_memory_mb=2))
    storage.take_room(3 * 2**20)
    storage.in_memory = 2 * 2**20
    assert storage.memory_is_full
