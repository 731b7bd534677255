"""This module asks C{nvidia-smi} which GPUs this machine has."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

__all__ = ["Gpu", "gpus_in", "installed_gpus"]

QUERY = ("nvidia-smi", "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits")
LIMIT = 10.0
"""
nvidia-smi may take this many seconds: a driver that hangs must not make this program hang.
"""


@dataclass(frozen=True)
class Gpu:
    """
    A L{Gpu} is one GPU of this machine, as C{nvidia-smi} lists it.

    @ivar gib: the size of the GPU's memory, in whole GiB, rounded down.
    """

    index: int
    name: str
    gib: int

    @property
    def resource(self) -> str:
        """Return the name of the resource that stands for the GPU."""
        return f"gpu{self.index}"


def installed_gpus(command: tuple[str, ...] = QUERY) -> list[Gpu]:
    """
    Return the GPUs that C{nvidia-smi} lists; none where it is missing, fails, or takes
    more than ten seconds.
    """
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return gpus_in(ended.stdout.decode("utf-8", "replace"))


def gpus_in(text: str) -> list[Gpu]:
    """
    Return the GPUs in a table whose lines have an index, a name and MiB of memory; other lines
    are left out.
    """
    found = []
    for line in text.splitlines():
        index, _, rest = line.partition(",")
        name, _, memory = rest.rpartition(",")
        # Unified memory, as on a Grace or a Jetson, is shown as "[N/A]", which is no amount.
        if index.strip().isdecimal() and memory.strip().isdecimal():
            found.append(Gpu(int(index), name.strip(), int(memory) // 1024))
    return found
