"""What switches cost, learnt from those that were made."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["SwitchCostTracker"]


class SwitchCostTracker:
    """
    An exponential moving average of the seconds that each switch took, per
    pair of models.

    The first observation of a pair is its estimate; each later one moves it by
    C{alpha}: e' = e + alpha (x - e).

    The source is None when nothing was awake.
    """

    def __init__(self, alpha: float = 0.3) -> None:
        self._alpha = alpha
        self._estimates: dict[tuple[str | None, str], float] = {}

    def record(self, source: str | None, target: str, seconds: float) -> None:
        """A switch from C{source} to C{target} took this long."""
        pair = source, target
        known = self._estimates.get(pair)
        self._estimates[pair] = (
            seconds if known is None else known + self._alpha * (seconds - known)
        )

    def estimate(self, source: str | None, target: str) -> float | None:
        """The estimate for the pair in seconds, or None before its first observation."""
        return self._estimates.get((source, target))

    def __iter__(self) -> Iterator[tuple[str | None, str, float]]:
        """Every known (source, target, seconds)."""
        for (source, target), seconds in self._estimates.items():
            yield source, target, seconds
