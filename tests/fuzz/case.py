"""
A case is one input: what a client sends, how, and when it leaves.  The seed and the number of a
case determine it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from random import Random

from tests.fuzz.replies import Script, script
from tests.fuzz.streams import stream

__all__ = ["Case", "Leaving", "departures", "make_case"]


class Leaving(Enum):
    """These are the ways in which a client can end."""

    STAYS = "stays for all replies"
    CLOSES = "closes"
    RESETS = "resets"
    HALF = "ends its own side and reads on"
    READS_NOTHING = "reads nothing, and resets"


@dataclass(frozen=True)
class Case:
    """
    A case is one input of the fuzzer.

    @ivar data: the bytes that are sent.
    @ivar cuts: the offsets at which pieces begin; C{pause} seconds lie between two pieces.
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
        """Return what is sent before the client leaves, piece by piece."""
        data = self.data[: self.leaves_at]
        at = [0, *(c for c in self.cuts if 0 < c < len(data)), len(data)]
        return [data[a:b] for a, b in pairwise(at) if a != b]

    def reply_to(self, ordinal: int, key: str, method: bytes) -> Script:
        """Return what the backend does about the request of that number."""
        random = Random(f"reply {self.seed} {self.number} {ordinal}")
        return script(random, key, method, calm=self.calm)

    def with_data(self, data: bytes) -> Case:
        """
        Return the same case with another stream; its pieces begin at the same offsets, as far
        as possible.
        """
        at = min(self.leaves_at, len(data))
        if self.leaves_at == len(self.data):
            at = len(data)
        return replace(self, data=data, leaves_at=at)


def make_case(seed: int, number: int, prefix: str = "") -> Case:
    """
    Make the input of that number.

    @param prefix: a text by which this input differs from the same input, if the same daemon
        has been sent that before.
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
    Return cases of one short stream whose client leaves after the first byte, after the second,
    and so on: it closes or resets, by turns.
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
