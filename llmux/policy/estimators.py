"""
This module has estimators: averages and quantiles of what has been observed.

An estimator is shown one observation at a time, which costs O(1), and keeps a bounded number of
observations.  Results that need a sorted list are computed only when they are asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from itertools import islice
from math import exp

__all__ = [
    "AbsenceGaps",
    "AnswerRate",
    "CompletionInterval",
    "Ghosts",
    "InFlightTimes",
    "MovingAverage",
    "Pace",
    "ScriptTimes",
    "ServiceTimes",
]


class MovingAverage:
    """
    This estimator is an exponential moving average, which begins with the first observation.

    @ivar value: the average; None before the first observation.
    """

    __slots__ = ("_alpha", "value")

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self.value: float | None = None

    def add(self, x: float) -> None:
        """Move the average v towards C{x}: v' = v + alpha (x - v)."""
        value = self.value
        self.value = x if value is None else value + self._alpha * (x - value)


class ServiceTimes:
    """
    This estimator has the service times of a model's requests, in seconds: from when a request
    is forwarded to the end of its reply.  The last 64 are kept.

    @ivar known: the number of all service times so far.
    @ivar mean: a moving average over all service times, with step max(0.05, 1 / (n +
        1)) for the n-th, so that at first it is nearly the plain mean.  The average
        begins at C{initial}, which counts as one observation.
    """

    __slots__ = ("_recent", "_sorted", "known", "mean")

    KEPT = 64

    def __init__(self, initial: float = 1.0) -> None:
        self.mean = initial
        self.known = 0
        self._recent: deque[float] = deque(maxlen=self.KEPT)
        # The recent service times, sorted; None if they have changed since they were sorted.
        self._sorted: list[float] | None = None

    def __len__(self) -> int:
        return len(self._recent)

    def add(self, seconds: float) -> None:
        """Add the service time of a request."""
        known = self.known = self.known + 1
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
        Return how many seconds a request that has run for C{elapsed} seconds will still take: a
        quantile over the recent requests that ran for longer, or the mean if none did.
        """
        ordered = self._ordered()
        first = bisect_right(ordered, elapsed)
        beyond = len(ordered) - first
        if not beyond:
            return self.mean
        return ordered[first + int(quantile * (beyond - 1) + 0.5)] - elapsed

    def mean_excess(self, seconds: float) -> float:
        """
        Return the mean over the recent service times x of max(x - seconds, 0); if there are
        none, the mean service time less C{seconds}, and at least 0.
        """
        ordered = self._ordered()
        if not ordered:
            return max(self.mean - seconds, 0.0)
        beyond = ordered[bisect_right(ordered, seconds) :]
        return (sum(beyond) - len(beyond) * seconds) / len(ordered)


class CompletionInterval:
    """
    This estimator has the average time between two completions of a model while the model is
    awake, in seconds: an exponential moving average with step 0.1.
    """

    __slots__ = ("_average", "_last")

    def __init__(self) -> None:
        self._average = MovingAverage(0.1)
        self._last: float | None = None

    def completed(self, now: float) -> None:
        """Note that a request of the model was answered."""
        if self._last is not None:
            self._average.add(now - self._last)
        self._last = now

    def restart(self, now: float) -> None:
        """
        Note that the model woke, because the time asleep is no interval between completions.
        """
        self._last = now

    @property
    def seconds(self) -> float | None:
        """Return the average, in seconds; None while it is unknown."""
        return self._average.value


class Pace:
    """
    This estimator has the number of requests that were answered per second lately: an
    exponentially weighted count.  Its time constant of a quarter of an hour covers several
    rounds of all models.
    """

    __slots__ = ("_began", "_count", "_last")

    TIME = 900.0
    STEP = TIME / 200

    def __init__(self) -> None:
        self._began: float | None = None
        self._last = 0.0
        self._count = 0.0

    def completed(self, now: float) -> None:
        """Note that a request was answered."""
        if self._began is None:
            self._began = self._last = now
        if now - self._last > self.STEP:
            # Within a step the weights hardly change.
            self._count *= exp((self._last - now) / self.TIME)
            self._last = now
        self._count += 1

    def per_second(self, now: float) -> float:
        """Return how many requests are answered per second; 0 before the first was answered."""
        if self._began is None or now <= self._began:
            return 0.0
        count = self._count * exp((self._last - now) / self.TIME)
        return count / (self.TIME * (1 - exp((self._began - now) / self.TIME)))


class AnswerRate:
    """
    This estimator has the number of requests of a model that are answered per second in the
    long run (a quarter of an hour and more), the model's time asleep included.

    A request costs nothing here, because the caller passes the number of all answers so far.
    Answers before the first L{note} do not count.
    """

    __slots__ = ("_answers", "_noted", "_seconds", "_seen")

    TIME = 900.0

    def __init__(self) -> None:
        self._noted: float | None = None
        self._seen = 0
        self._answers = 0.0
        self._seconds = 1.0

    def _look(self, now: float, answered: int) -> tuple[float, float]:
        """
        Return the answers, and the seconds in which they came; those of long ago count less.
        """
        if self._noted is None:
            return 0.0, 1.0
        fades = exp((self._noted - now) / self.TIME)
        return (
            self._answers * fades + answered - self._seen,
            self._seconds * fades + now - self._noted,
        )

    def note(self, now: float, answered: int) -> None:
        """
        Note how many requests were answered until now, which count less and less from now on.
        """
        self._answers, self._seconds = self._look(now, answered)
        self._noted, self._seen = now, answered

    def per_second(self, now: float, answered: int) -> float:
        """
        Return how many requests are answered per second.

        @param answered: the number of all requests of the model that were answered.
        """
        answers, seconds = self._look(now, answered)
        return answers / seconds


class AbsenceGaps:
    """
    This estimator has the gaps between a model's work, in seconds: from when the model has
    nothing in flight and no waiters to its next request.  The last 16 gaps are kept.

    Gaps alone do not say whether the clients come back while others wait: a client that uses
    two models in turn never comes back to one model before the other has served.  So for each
    of the last 16 gaps in which others waited, it is noted whether the model's next request
    came in time, that is, before a given time and before another model woke for which this one
    made room.  It makes no difference for this whether the model really lingered, or was left
    at once.

    @ivar idle_since: the time since which the model has had nothing to do; None while
        it has something to do.
    """

    __slots__ = ("_awaited_until", "_in_time", "_recent", "idle_since")

    KEPT = 16

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=self.KEPT)
        self._in_time: deque[bool] = deque(maxlen=self.KEPT)
        self._awaited_until: float | None = None
        self.idle_since: float | None = None

    def emptied(self, now: float) -> None:
        """Note that the model has nothing to do from now on."""
        self.idle_since = now

    def arrived(self, now: float) -> None:
        """Note that a request arrived, which ends the gap if there was one."""
        since = self.idle_since
        if since is None:
            return
        self.idle_since = None
        self._recent.append(now - since)
        if self._awaited_until is not None:
            self._in_time.append(now <= self._awaited_until)
            self._awaited_until = None

    def awaited(self, until: float) -> None:
        """Note that others wait, and until when the next request is in time."""
        if self._awaited_until is None:
            self._awaited_until = until

    def overtaken(self) -> None:
        """
        Note that another model woke in this one's room, so that the next request is not in
        time.
        """
        if self._awaited_until is not None:
            self._awaited_until = None
            self._in_time.append(False)

    @property
    def returning(self) -> float:
        """
        Return the part of the gaps in which others waited that ended in time, from 0 to 1; one
        success is added to those observed.
        """
        return (sum(self._in_time) + 1) / (len(self._in_time) + 1)

    def expected(self, now: float) -> float:
        """
        Return the mean length of a gap, in seconds; the present gap counts with its length so
        far.
        """
        so_far = 0.0 if self.idle_since is None else now - self.idle_since
        return (sum(self._recent) + so_far + 1.0) / (len(self._recent) + 1)

    @property
    def median(self) -> float | None:
        """Return the median of the gaps, in seconds; None until two are known."""
        return self._quantile(0.5)

    @property
    def upper(self) -> float | None:
        """Return the upper quartile of the gaps, in seconds; None until two are known."""
        return self._quantile(0.75)

    def _quantile(self, share: float) -> float | None:
        last = len(self._recent) - 1
        return sorted(self._recent)[int(share * last + 0.5)] if last >= 1 else None


class Ghosts:
    """
    L{Ghosts} are the waiters that gave up since their model last woke.

    @ivar count: the number of these waiters.
    @ivar squares: the sum of the squares of the ages at which they left, in square
        seconds.
    """

    __slots__ = ("count", "squares")

    def __init__(self) -> None:
        self.count = 0
        self.squares = 0.0

    def add(self, age: float) -> None:
        """Note that a waiter gave up, C{age} seconds after it arrived."""
        self.count += 1
        self.squares += age * age

    def clear(self) -> None:
        """Forget these waiters, because their model woke."""
        self.count = 0
        self.squares = 0.0


class InFlightTimes(OrderedDict[int, float]):
    """
    L{InFlightTimes} are the requests in flight of a model, and the time at which each was
    forwarded, the oldest first.

    (An OrderedDict finds its first key at once; a dict has to pass over the places of
    all keys that were deleted before it.)
    """

    LOOKED_AT = 4

    def drain(self, now: float, service: ServiceTimes) -> float:
        """
        Return the expected time until no request is in flight, in seconds, if none is added:
        the longest time that any of the four oldest and the four newest requests will still
        take.
        """
        if len(self) <= 2 * self.LOOKED_AT:
            starts = list(self.values())
        else:
            starts = list(islice(self.values(), self.LOOKED_AT))
            starts += islice(reversed(self.values()), self.LOOKED_AT)
        remaining = service.remaining
        return max((remaining(now - start) for start in starts), default=0.0)


class ScriptTimes:
    """
    This estimator has the expected times of the models' scripts of one kind, in seconds: the
    average over the runs of the model's own script; if there are none, the average over all
    scripts of that kind; if there are none either, C{initial}.  All are exponential moving
    averages with step 0.3.
    """

    __slots__ = ("_all", "_by_model", "_initial")

    def __init__(self, initial: float) -> None:
        self._initial = initial
        self._all = MovingAverage(0.3)
        self._by_model: dict[str, MovingAverage] = {}

    def add(self, model: str, seconds: float) -> None:
        """Note that the script of C{model} took C{seconds}."""
        self._all.add(seconds)
        average = self._by_model.get(model)
        if average is None:
            average = self._by_model[model] = MovingAverage(0.3)
        average.add(seconds)

    def take_over(self, before: ScriptTimes) -> None:
        """Take over the times that another estimator knows."""
        self._all, self._by_model = before._all, before._by_model

    def of(self, model: str) -> float:
        """Return the expected time of the model's script, in seconds."""
        average = self._by_model.get(model, self._all).value
        return self._initial if average is None else average
