"""
This module says what a daemon's process tree has used: CPU in nanoseconds, memory in bytes.

The clock of a live process has a resolution of nanoseconds; the clock of its reaped children
(C{cutime} and C{cstime}) has a resolution of a clock tick, 10 ms.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = [
    "available_cores",
    "peak_memory",
    "reset_peak",
    "resident_memory",
    "tree",
    "tree_cpu",
]

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _stat_fields(pid: int) -> list[str]:
    # The command name, in parentheses, may hold spaces: the fields begin after it.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """Return the live processes below C{root}, with C{root} itself as the first."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parent = int(_stat_fields(int(name))[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def tree_cpu(root: int) -> int:
    """
    Return the user and system time of C{root} and everything below it, in nanoseconds, reaped
    children included.
    """
    total = 0
    for pid in tree(root):
        try:
            # The clock id of another process's CPU time: clock_getcpuclockid(3).
            total += time.clock_gettime_ns((~pid << 3) | 2)
            fields = _stat_fields(pid)
        except OSError:
            continue
        total += (int(fields[13]) + int(fields[14])) * _TICK_NS
    return total


def _status_bytes(root: int, key: str) -> int:
    total = 0
    for pid in tree(root):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith(key):
                total += int(line.split()[1]) * 1024
    return total


def resident_memory(root: int) -> int:
    """Return the bytes that are resident now, summed over the processes of the tree."""
    return _status_bytes(root, "VmRSS:")


def peak_memory(root: int) -> int:
    """Return the most bytes that were ever resident since the start or L{reset_peak}."""
    return _status_bytes(root, "VmHWM:")


def reset_peak(root: int) -> None:
    """Forget the peak so far (see clear_refs in proc(5))."""
    for pid in tree(root):
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except OSError:
            pass


def available_cores() -> list[int]:
    """Return the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))
