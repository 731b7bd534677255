"""One input: what a client sends, how, and when it leaves.  A function of seed and number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from random import Random

from tests.fuzz.replies import Script, script
from tests.fuzz.streams import stream

__all__ = ["Case", "Leaving", "departures", "make_case"]


class Leaving(Enum):
    """How a client ends."""

    STAYS = "stays for all replies"
    CLOSES = "closes"
    RESETS = "resets"
    HALF = "ends its own side and reads on"
    READS_NOTHING = "reads nothing, and resets"


@dataclass(frozen=True)
class Case:
    """
    @ivar data: what is sent.
    @ivar cuts: where the pieces begin; C{pause} seconds lie between them.
    @ivar leaving: what happens at byte C{leaves_at}.
    """

    seed: int
    number: int
    data: bytes
    cuts: tuple[int, ...]
    pause: float
    leaving: Leaving
    leaves_at: int
    calm: bool = False

    @property
    def pieces(self) -> list[bytes]:
        """What is sent before the client leaves, piece by piece."""
        data = self.data[: self.leaves_at]
        at = [0, *(c for c in self.cuts if 0 < c < len(data)), len(data)]
        return [data[a:b] for a, b in pairwise(at) if a != b]

    def reply_to(self, ordinal: int, key: str, method: bytes) -> Script:
        """What the backend does about the request of that number."""
        random = Random(f"reply {self.seed} {self.number} {ordinal}")
        return script(random, key, method, calm=self.calm)

    def with_data(self, data: bytes) -> Case:
        """The same with another stream; its pieces begin where they did, as far as may be."""
        at = min(self.leaves_at, len(data))
        if self.leaves_at == len(self.data):
            at = len(data)
        return replace(self, data=data, leaves_at=at)


def make_case(seed: int, number: int, prefix: str = "") -> Case:
    """
    The input of that number.

    @param prefix: tells it from the same input, sent before to the same daemon.
    """
    random = Random(f"case {seed} {number}")
    data = stream(random, f"{prefix}s{seed}n{number}")
    size = len(data)
    style = random.random()
    cuts: tuple[int, ...] = ()
    pause = 0.0
    if style < 0.12 and size < 1500:
        cuts = tuple(range(1, size))
    elif style < 0.5:
        cuts = tuple(sorted(random.randrange(size + 1) for _ in range(random.randint(1, 8))))
        pause = random.choice((0.0, 0.0, 0.002, 0.02, 0.2))
    leaving = Leaving.STAYS
    at = size
    if random.random() < 0.45:
        leaving = random.choice(
            (
                Leaving.CLOSES,
                Leaving.CLOSES,
                Leaving.RESETS,
                Leaving.HALF,
                Leaving.READS_NOTHING,
            )
        )
        at = random.choice((size, random.randint(0, size), random.randint(0, min(size, 400))))
    return Case(seed, number, data, cuts, pause, leaving, at)


def departures(seed: int, number: int) -> list[Case]:
    """
    A short stream whose client leaves after the first byte, after the second, and so on: it
    closes or resets, by turns.
    """
    tries = 0
    while True:
        start = f"sweep {seed} {number} {tries}"
        size = len(stream(Random(start), f"s{seed}n{number}w0000"))
        if size < 400:
            break
        tries += 1
    return [
        Case(
            seed,
            number,
            stream(Random(start), f"s{seed}n{number}w{at:04}"),
            (),
            0.0,
            (Leaving.CLOSES, Leaving.RESETS)[at % 2],
            at,
        )
        for at in range(1, size + 1)
    ]
