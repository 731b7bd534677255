"""
This module asks the system about processes that may be the children of an earlier llmux:
whether they run, and who belongs to their groups.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Protocol

from msgspec import Struct

__all__ = [
    "ProcessIdentity",
    "ProcessTable",
    "SystemProcesses",
    "boot_id",
    "is_running",
    "started",
]


def started(pid: int) -> int | None:
    """
    Return the time when a process started, in ticks since boot; None if there is no such
    process, if it has exited and only waits to be reaped, or if this system has no C{/proc}.
    """
    found = _stat(pid)
    return None if found is None or found.exited else found.started


def is_running(pid: int, when: int | None) -> bool:
    """
    Tell whether the process with this number, which started at this time (in ticks since boot),
    still runs.
    """
    return when is not None and started(pid) == when


@cache
def boot_id() -> str:
    """Return the id of the system's boot; "" if the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


class ProcessIdentity(Struct, frozen=True):
    """
    A L{ProcessIdentity} tells a process that leads a group from every other process.

    @ivar pid: the number of the process.
    @ivar started: when it started, in ticks since boot (field 22 of C{/proc/PID/stat}).
    @ivar boot: the id of the system's boot.
    """

    pid: int
    started: int | None
    boot: str


class ProcessTable(Protocol):
    """
    A L{ProcessTable} knows the processes of a system, as far as ending a server needs that.
    """

    def identify(self, pid: int) -> ProcessIdentity:
        """Return the identity of a process that has just been started."""

    def leads(self, leader: ProcessIdentity) -> bool:
        """Tell whether exactly this process still runs."""

    def group_lives(self, leader: ProcessIdentity) -> bool:
        """
        Tell whether this process, or another one of the group that it has led, still runs.
        """

    def signal_group(self, leader: ProcessIdentity, number: int) -> None:
        """Signal all processes of the group that are left."""


class SystemProcesses:
    """
    L{SystemProcesses} are the processes of this system.

    A group has the number of its leader, and the system gives this number to no new process
    while any process of the group is left.  So if a process has the leader's number and is not
    the leader, the group has gone.
    """

    def identify(self, pid: int) -> ProcessIdentity:
        """See L{ProcessTable.identify}."""
        return ProcessIdentity(pid, started(pid), boot_id())

    def leads(self, leader: ProcessIdentity) -> bool:
        """See L{ProcessTable.leads}."""
        return leader.boot == boot_id() and is_running(leader.pid, leader.started)

    def group_lives(self, leader: ProcessIdentity) -> bool:
        """See L{ProcessTable.group_lives}."""
        if self.leads(leader):
            return True
        return (
            self._may_be_signalled(leader)
            and _group_exists(leader.pid)
            and any(not member.exited for member in _members(leader.pid))
        )

    def signal_group(self, leader: ProcessIdentity, number: int) -> None:
        """See L{ProcessTable.signal_group}."""
        if self._may_be_signalled(leader):
            try:
                os.killpg(leader.pid, number)
            except (ProcessLookupError, PermissionError):
                # The group has gone, or belongs to another user now.
                pass

    def _may_be_signalled(self, leader: ProcessIdentity) -> bool:
        """Tell whether a group with this number, if there is one, must be the leader's."""
        if leader.boot != boot_id() or leader.started is None:
            return False
        found = _stat(leader.pid)
        return found is None or found.started == leader.started


def _group_exists(group: int) -> bool:
    """Tell whether there is a group with this number, even if all its processes have exited."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


_STAT_BYTES = 4096
"""C{/proc/PID/stat} is shorter: some fifty numbers, and a name of at most 64 bytes."""


class _Stat(Struct, frozen=True):
    """
    A L{_Stat} is what C{/proc/PID/stat} says of a process.

    @ivar exited: whether the process has exited, and only waits to be reaped.
    """

    exited: bool
    group: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        # Unbuffered, this takes four calls of the system; a buffer adds five.
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            # The second field, a program's name, may hold any character; no other field can
            # hold a bracket.
            fields = file.read(_STAT_BYTES).rpartition(b")")[2].split()
        return _Stat(fields[0] in (b"Z", b"X"), int(fields[2]), int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


def _members(group: int) -> Iterator[_Stat]:
    """Yield the processes of a group."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            found = _stat(int(name))
            if found is not None and found.group == group:
                yield found
