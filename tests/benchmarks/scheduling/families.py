"""
This module has families of invented traffic to compare policies by.

Open loop: requests come whatever happens to those before them, as a Poisson
process per model or one that is modulated (bursts).  Closed loop: agents, each
of which sends its next request some time after the reply to its last.

A load of 1 is what one model with 16 slots could just carry if it were
always awake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import exp, log
from random import Random

from llmux.simulate.trace import Trace, TraceRequest

__all__ = [
    "FAMILIES",
    "HORIZON",
    "MEAN_SERVICE",
    "REGIMES",
    "SLOTS",
    "THOUGHTS",
    "WARM_UP",
    "Scenario",
    "agents",
    "arrivals",
    "batches",
    "lognormal",
    "open_loop",
    "zipf",
]

SLOTS = 16
HORIZON = 7200.0
WARM_UP = 720.0
MEAN_SERVICE = 5.0


@dataclass(frozen=True)
class Scenario:
    """
    A scenario is what one run simulates.

    @ivar regime: how much there is to do, or what agents are like; one of C{REGIMES}.
    @ivar costs: the seconds of a switch, per pair of models; the pair (None, None) stands for
        all others.
    """

    name: str
    regime: str
    trace: Callable[[], Trace]
    costs: dict[tuple[str | None, str | None], float]
    horizon: float = HORIZON
    warm_up: float = WARM_UP
    jitter: float = 0.1
    seed: int = 1


def lognormal(random: Random, mean: float = MEAN_SERVICE, sigma: float = 0.9) -> float:
    """Draw a service time, which is eight means at most."""
    return min(exp(random.gauss(log(mean) - sigma * sigma / 2, sigma)), 8 * mean)


def zipf(count: int, exponent: float = 1.0) -> list[float]:
    """Return the shares of C{count} models in the requests; the first model has the largest."""
    weights = [1 / (rank + 1) ** exponent for rank in range(count)]
    return [weight / sum(weights) for weight in weights]


def open_loop(
    seed: int,
    load: float,
    shares: list[float],
    *,
    bursts: bool = False,
    horizon: float = HORIZON,
    mean: float = MEAN_SERVICE,
) -> Trace:
    """
    Draw Poisson arrivals; with C{bursts}, five sixths of them come in a fifth of the time.
    """
    random = Random(seed)
    rate = load * SLOTS / mean
    requests = []
    for index, share in enumerate(shares):
        for sent in arrivals(random, rate * share, bursts, horizon):
            requests.append(TraceRequest(f"m{index}", lognormal(random, mean), sent))
    requests.sort(key=lambda request: request.sent)
    return Trace.of(requests)


def arrivals(random: Random, rate: float, bursts: bool, horizon: float) -> Iterator[float]:
    now = 0.0
    busy = False
    phase_ends = random.expovariate(1 / 240) if bursts else horizon
    factor = 5 / 24 if bursts else 1.0
    while now < horizon:
        step = random.expovariate(rate * factor)
        if now + step < phase_ends:
            now += step
            if now < horizon:
                yield now
            continue
        now = phase_ends
        if not bursts:
            return
        busy = not busy
        factor = 25 / 6 if busy else 5 / 24
        phase_ends = now + random.expovariate(1 / (60 if busy else 240))


def agents(
    seed: int,
    count: int,
    models: int,
    think: tuple[float, float],
    *,
    loyalty: float = 1.0,
    horizon: float = HORIZON,
    mean: float = MEAN_SERVICE,
) -> Trace:
    """
    Draw the requests of agents that send one request after the other, without end.

    @param think: the range of the seconds between reply and next request.
    @param loyalty: the chance that the next request is for the same model.
    """
    random = Random(seed)
    requests: list[TraceRequest] = []
    for number in range(count):
        model = number % models
        sent = random.uniform(0, 60)
        after = None
        busy = sent
        while busy < horizon:
            pause = random.uniform(*think)
            service = lognormal(random, mean)
            requests.append(TraceRequest(f"m{model}", service, sent, after, pause))
            after, sent = len(requests) - 1, 0.0
            busy += service + pause
            if random.random() > loyalty:
                model = random.choice([other for other in range(models) if other != model])
    return Trace.of(requests)


def batches(
    seed: int, every: float, size: int, models: int, *, horizon: float = HORIZON
) -> Trace:
    """
    Draw traffic in which now and then somebody sends C{size} requests for one model at once.
    """
    random = Random(seed)
    requests = []
    now = random.expovariate(1 / every)
    while now < horizon:
        model = random.randrange(models)
        for _ in range(random.randint(1, 2 * size - 1)):
            requests.append(TraceRequest(f"m{model}", lognormal(random), now))
        now += random.expovariate(1 / every)
    return Trace.of(requests)


Costs = dict[tuple[str | None, str | None], float]

ALIKE: list[tuple[str, Costs]] = [
    ("5", {(None, None): 5.0}),
    ("15", {(None, None): 15.0}),
    ("45", {(None, None): 45.0}),
]
UNLIKE: tuple[str, Costs] = (
    "unlike",
    {(None, None): 15.0, ("m0", "m1"): 5.0, ("m1", "m0"): 45.0},
)

SHAPES: list[tuple[str, list[float], bool]] = [
    ("balanced2", [0.5, 0.5], False),
    ("skewed2", [0.9, 0.1], False),
    ("zipf4", zipf(4), False),
    ("bursty3", [1 / 3] * 3, True),
]
LOADS = [
    (0.002, "idle"),
    (0.01, "light"),
    (0.05, "light"),
    (0.15, "medium"),
    (0.3, "medium"),
    (0.45, "heavy"),
    (0.8, "heavy"),
    (1.1, "overload"),
]
"""At the least of these loads hardly two requests meet: there is next to nothing to decide."""

AGENTS = [
    (2, 2, 1.0),
    (4, 4, 1.0),
    (8, 2, 1.0),
    (16, 4, 1.0),
    (8, 4, 0.8),
    (24, 2, 1.0),
    (48, 4, 0.9),
]
"""
These tuples have the number of agents, the number of models, and the agents' loyalty to a
model.
"""

THOUGHTS = [
    ("agents, 2 s", (1.0, 3.0)),
    ("agents, 6 s", (2.0, 10.0)),
    ("agents, 16 s", (2.0, 30.0)),
]
"""
These tuples say for how long agents think from reply to request, in seconds.  The time of
thought decides what a policy can gain: an agent that thinks for as long as a switch takes may
as well be left for another.
"""

REGIMES = (
    "idle",
    "light",
    "medium",
    "heavy",
    "overload",
    *(name for name, _ in THOUGHTS),
    "batch",
)


def _open(seed: int) -> Iterator[Scenario]:
    for shape, shares, bursts in SHAPES:
        for load, regime in LOADS:
            for cost, costs in [*ALIKE, UNLIKE] if shape == "skewed2" else ALIKE:
                yield Scenario(
                    f"{shape} load {load:g} cost {cost}",
                    regime,
                    partial(open_loop, seed, load, shares, bursts=bursts),
                    costs,
                    seed=seed,
                )


def _closed(seed: int) -> Iterator[Scenario]:
    for regime, think in THOUGHTS:
        for count, models, loyalty in AGENTS:
            for cost, costs in ALIKE:
                yield Scenario(
                    f"{count} {regime}, {models} models, loyal {loyalty:g}, cost {cost}",
                    regime,
                    partial(agents, seed, count, models, think, loyalty=loyalty),
                    costs,
                    seed=seed,
                )


def _batch(seed: int) -> Iterator[Scenario]:
    for every, size in ((120.0, 8), (60.0, 20)):
        for cost, costs in ALIKE:
            yield Scenario(
                f"batches of {size} every {every:g} s cost {cost}",
                "batch",
                partial(batches, seed, every, size, 3),
                costs,
                seed=seed,
            )


def FAMILIES(seed: int) -> list[Scenario]:
    """Make the scenarios of every family with this seed."""
    return [*_open(seed), *_closed(seed), *_batch(seed)]
