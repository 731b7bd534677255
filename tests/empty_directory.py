"""
This module makes an empty directory, and the files that tests of C{llmux init} put into it.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest


@pytest.fixture(name="here")
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty directory, and hide any GPU, llama-server and Ollama."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    (tmp_path / "programs").mkdir()
    return directory


def program(tmp_path: Path, name: str, script: str) -> Path:
    path = tmp_path / "programs" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(path: Path, size: int = 0, **keys: str | int | list[str]) -> None:
    """Write the beginning of a GGUF file, and fill it with zeros up to C{size} bytes."""
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys))
    for key, value in keys.items():
        data += text(key.replace("__", "."))
        if isinstance(value, str):
            data += struct.pack("<I", 8) + text(value)
        elif isinstance(value, int):
            data += struct.pack("<II", 4, value)
        else:
            data += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        if size:
            # No blocks are written: the file is as long as that, and no larger.
            file.truncate(size)
