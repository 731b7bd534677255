"""This module finds the processes that an episode has left."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

__all__ = ["left_behind", "processes_of"]


def processes_of(mark: str) -> set[int]:
    """Return the ids of all processes that descend from the episode with this mark."""
    sought = f"SOAK={mark}\0".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if sought in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
    return found - {os.getpid()}


def left_behind(mark: str, survivors: Collection[int], hooks_killed: bool) -> dict[int, str]:
    """
    Return the commands of the processes that should have ended, by their ids.

    @param survivors: the processes that outlived a daemon that was killed.
    @param hooks_killed: whether hooks were killed, whose children may stay.
    """
    left = {}
    for pid in processes_of(mark).difference(survivors):
        with suppress(OSError):
            if os.getpgid(pid) in survivors:
                # A hook outlived llmux, which was killed, and started this afterwards.
                continue
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            text = command.decode("utf-8", "replace").strip()
            # The servers that wake hooks start may stay, with the children that a fault
            # ordered, and the processes that read what these write.
            stays = "tests.soak.server" in text or text in ("sleep 777", "/bin/cat")
            # The child of a hook that was killed may stay too: it might be a server.
            stays = stays or (text == "sleep 1000" and hooks_killed)
            if text and not stays:
                left[pid] = text
    return left
