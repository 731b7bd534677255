"""
What the cost-aware policy learns as it goes.

Every estimator is shown one observation at a time, in O(1), and keeps a
bounded number of them; what takes a sorted list of them is worked out when it
is asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from itertools import islice
from math import exp

__all__ = [
    "AbsenceGaps",
    "CompletionInterval",
    "Ghosts",
    "InFlightTimes",
    "MovingAverage",
    "Pace",
    "ServiceTimes",
    "SwitchCosts",
]


class MovingAverage:
    """
    An exponential moving average; the first observation is taken as it is.

    @ivar value: the average, None before the first observation.
    """

    __slots__ = ("_alpha", "value")

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self.value: float | None = None

    def add(self, x: float) -> None:
        """v' = v + alpha (x - v)."""
        value = self.value
        self.value = x if value is None else value + self._alpha * (x - value)


class ServiceTimes:
    """
    How long a model's requests take from being forwarded to the end of the
    reply, in seconds: the last 64 of them, and a moving average over all.

    @ivar mean: the average, with step max(0.05, 1 / (n + 1)) for the n-th
        observation, so that it is nearly the plain mean at first.  It begins at
        C{initial}, which counts as one observation.
    """

    __slots__ = ("_known", "_recent", "_sorted", "mean")

    KEPT = 64

    def __init__(self, initial: float = 1.0) -> None:
        self.mean = initial
        self._known = 0
        self._recent: deque[float] = deque(maxlen=self.KEPT)
        # Of what is recent; None until somebody asks again.
        self._sorted: list[float] | None = None

    def __len__(self) -> int:
        return len(self._recent)

    def add(self, seconds: float) -> None:
        """A request took this long."""
        known = self._known = self._known + 1
        self.mean += (seconds - self.mean) * (1 / (known + 1) if known < 19 else 0.05)
        self._recent.append(seconds)
        self._sorted = None

    def _ordered(self) -> list[float]:
        ordered = self._sorted
        if ordered is None:
            ordered = self._sorted = sorted(self._recent)
        return ordered

    def remaining(self, elapsed: float, quantile: float = 0.7) -> float:
        """
        The quantile of the time left to a request that has run for
        C{elapsed} seconds, over those of the known ones that ran for longer.
        One that has outrun them all is given the mean once more.
        """
        ordered = self._ordered()
        first = bisect_right(ordered, elapsed)
        beyond = len(ordered) - first
        if not beyond:
            return self.mean
        return ordered[first + int(quantile * (beyond - 1) + 0.5)] - elapsed

    def mean_excess(self, seconds: float) -> float:
        """The mean over the known ones of max(x - seconds, 0); unknown, the mean less it."""
        ordered = self._ordered()
        if not ordered:
            return max(self.mean - seconds, 0.0)
        beyond = ordered[bisect_right(ordered, seconds) :]
        return (sum(beyond) - len(beyond) * seconds) / len(ordered)


class CompletionInterval:
    """The average time between a model's completions while it is awake, EMA(0.1)."""

    __slots__ = ("_average", "_last")

    def __init__(self) -> None:
        self._average = MovingAverage(0.1)
        self._last: float | None = None

    def completed(self, now: float) -> None:
        """A request of the model was answered."""
        if self._last is not None:
            self._average.add(now - self._last)
        self._last = now

    def restart(self, now: float) -> None:
        """The model woke: its sleep is no interval between completions."""
        self._last = now

    @property
    def seconds(self) -> float | None:
        """The average, None while it is unknown."""
        return self._average.value


class Pace:
    """
    How many requests have been answered per second lately: an exponentially
    weighted count, with a time constant of a quarter of an hour, so that it
    takes in some rounds of all models.
    """

    __slots__ = ("_began", "_count", "_last")

    TIME = 900.0
    STEP = TIME / 200

    def __init__(self) -> None:
        self._began: float | None = None
        self._last = 0.0
        self._count = 0.0

    def completed(self, now: float) -> None:
        """A request was answered."""
        if self._began is None:
            self._began = self._last = now
        if now - self._last > self.STEP:
            # Within a step the count hardly fades.
            self._count *= exp((self._last - now) / self.TIME)
            self._last = now
        self._count += 1

    def per_second(self, now: float) -> float:
        """Requests per second; 0 before there is anything to count."""
        if self._began is None or now <= self._began:
            return 0.0
        count = self._count * exp((self._last - now) / self.TIME)
        return count / (self.TIME * (1 - exp((self._began - now) / self.TIME)))


class AbsenceGaps:
    """
    How long a model that has nothing to do waits for its next request: the
    last 16 times from "nothing in flight and nothing queued" to the next
    arrival.

    @ivar idle_since: since when the model has had nothing to do, or None.
    """

    __slots__ = ("_recent", "idle_since")

    KEPT = 16

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=self.KEPT)
        self.idle_since: float | None = None

    def emptied(self, now: float) -> None:
        """Nothing is in flight and nothing queued from now on."""
        self.idle_since = now

    def arrived(self, now: float) -> None:
        """A request arrived; it ends the gap, if there was one."""
        since = self.idle_since
        if since is None:
            return
        self.idle_since = None
        self._recent.append(now - since)

    @property
    def median(self) -> float | None:
        """Their median, None until two are known."""
        return self._quantile(0.5)

    @property
    def upper(self) -> float | None:
        """Their upper quartile, None until two are known."""
        return self._quantile(0.75)

    def _quantile(self, share: float) -> float | None:
        last = len(self._recent) - 1
        return sorted(self._recent)[int(share * last + 0.5)] if last >= 1 else None


class Ghosts:
    """
    The requests for a model that gave up since it last woke, so that the
    impatient are not forgotten: their number and the sum of the squares of the
    ages at which they left.
    """

    __slots__ = ("count", "squares")

    def __init__(self) -> None:
        self.count = 0
        self.squares = 0.0

    def add(self, age: float) -> None:
        """One left, C{age} seconds after it arrived."""
        self.count += 1
        self.squares += age * age

    def clear(self) -> None:
        """The model woke."""
        self.count = 0
        self.squares = 0.0


class InFlightTimes(OrderedDict[int, float]):
    """
    When each request in flight of a model was forwarded, oldest first.

    (Not a dict: to find its first key walks over the places of all those
    deleted before it.)
    """

    LOOKED_AT = 4

    def drain(self, now: float, service: ServiceTimes) -> float:
        """
        An estimate of the seconds until none is in flight, if none is added: the
        longest time left to any of the four oldest and the four newest.
        """
        if len(self) <= 2 * self.LOOKED_AT:
            starts = list(self.values())
        else:
            starts = list(islice(self.values(), self.LOOKED_AT))
            starts += islice(reversed(self.values()), self.LOOKED_AT)
        remaining = service.remaining
        return max((remaining(now - start) for start in starts), default=0.0)


class SwitchCosts:
    """
    What to expect of a switch that was never made: the average over those to
    the same model, EMA(0.3), else over all, else C{initial} seconds.
    """

    __slots__ = ("_all", "_by_target", "_initial")

    def __init__(self, initial: float) -> None:
        self._initial = initial
        self._all = MovingAverage(0.3)
        self._by_target: dict[str, MovingAverage] = {}

    def add(self, target: str, seconds: float) -> None:
        """A switch to C{target} took this long, sleep and wake."""
        self._all.add(seconds)
        average = self._by_target.get(target)
        if average is None:
            average = self._by_target[target] = MovingAverage(0.3)
        average.add(seconds)

    def guess(self, target: str) -> float:
        """Seconds that a switch to C{target} takes, from wherever."""
        average = self._by_target.get(target, self._all).value
        return self._initial if average is None else average
