"""This module has what is noted of an episode, and keeps it for a later look."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.soak.episode import Episode

__all__ = ["Life", "Violation", "save"]


@dataclass(frozen=True)
class Violation:
    """
    A violation is a promise of llmux that was broken.

    @ivar kind: the promise, in words that are the same for the same defect.
    @ivar at: the time (ns).
    """

    kind: str
    detail: str
    at: int


@dataclass
class Life:
    """
    A life is one process of the daemon.

    @ivar began: the time (ns) at which the process was started; C{up} is when it answered,
        C{told} when it was told to stop, C{ended} when it was gone.
    """

    number: int
    began: int
    up: int = 0
    told: int = 0
    ended: int = 0
    killed: bool = False
    counters: dict[tuple[str, str], float] | None = None
    survivors: set[int] = field(default_factory=set)


def save(episode: Episode, where: Path) -> None:
    """Keep what an episode wrote, and its faults and outcomes, for a later look."""
    where.mkdir(parents=True, exist_ok=True)
    for name in ("log", "truth", "config.json", "turns"):
        with suppress(OSError):
            shutil.copy(episode.directory / name, where / name)
    with (where / "story.json").open("w") as file:
        story = {
            "configuration": episode.describe(),
            "violations": [vars(v) for v in episode.violations],
            "faults": episode.faults,
            "lives": [
                {
                    k: v
                    for k, v in vars(x).items()
                    if k in ("number", "began", "up", "told", "ended", "killed")
                }
                for x in episode.lives
            ],
            "outcomes": [vars(o) for o in episode.outcomes],
        }
        json.dump(story, file, indent=1, default=str)
