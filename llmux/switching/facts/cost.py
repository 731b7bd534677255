"""This module knows what switches cost, which is learnt from those that were made."""

from __future__ import annotations

from collections.abc import Iterator

from llmux.policy.estimators import MovingAverage

__all__ = ["SwitchCostTracker"]


class SwitchCostTracker:
    """
    A L{SwitchCostTracker} has the average seconds that switches took, for each pair of models.

    Each pair has an exponential moving average: the first switch of a pair gives the estimate,
    and each later one moves the estimate by the fraction C{alpha} of the difference.

    The source of a pair is None when no model was awake.
    """

    def __init__(self, alpha: float = 0.3) -> None:
        self._alpha = alpha
        self._averages: dict[tuple[str | None, str], MovingAverage] = {}

    def record(self, source: str | None, target: str, seconds: float) -> None:
        """Note that a switch from C{source} to C{target} took C{seconds}."""
        pair = source, target
        average = self._averages.get(pair)
        if average is None:
            average = self._averages[pair] = MovingAverage(self._alpha)
        average.add(seconds)

    def estimate(self, source: str | None, target: str) -> float | None:
        """Return the estimate for the pair, in seconds, or None before its first switch."""
        average = self._averages.get((source, target))
        return None if average is None else average.value

    def forget(self, model: str) -> None:
        """Forget the switches from and to a model that does not exist any more."""
        self._averages = {
            pair: average for pair, average in self._averages.items() if model not in pair
        }

    def __iter__(self) -> Iterator[tuple[str | None, str, float]]:
        """Yield every known (source, target, seconds)."""
        for (source, target), average in self._averages.items():
            if average.value is not None:
                yield source, target, average.value
