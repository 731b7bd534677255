"""This module runs code in a Python interpreter that has imported nothing yet."""

from __future__ import annotations

import subprocess
import sys

__all__ = ["printed_by"]


def printed_by(code: str) -> str:
    """Run some code in an interpreter of its own, and return what the code prints."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
