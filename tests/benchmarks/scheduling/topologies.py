"""
This module has machines on which several models fit at a time, and traffic for them.

A load of 1 is what the machine could just carry if every model were always awake
and C{fits} backends with 16 slots each were all that works at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace, TraceRequest
from tests.benchmarks.scheduling.families import (
    MEAN_SERVICE,
    SLOTS,
    arrivals,
    lognormal,
    zipf,
)

__all__ = [
    "COSTS",
    "MACHINES",
    "MACHINE_REGIMES",
    "MachineScenario",
    "Shape",
    "Topology",
    "machine_scenarios",
]

HOUR = 3600.0
COSTS = (5.0, 15.0, 45.0)
SLEEP_PART, WAKE_PART = 0.2, 0.8

Amounts = Mapping[str, int]


@dataclass(frozen=True)
class Shape:
    """
    A shape says what a model is like.

    @ivar places: what the model needs, in each of the places where it fits.
    @ivar share: the model's part of the requests, in proportion to the shares of the others.
    @ivar cost: how many times as long as others' the model's sleep and wake take.
    @ivar service: the mean seconds of a request.
    """

    places: Sequence[Amounts]
    share: float = 1.0
    cost: float = 1.0
    service: float = MEAN_SERVICE


@dataclass(frozen=True)
class Topology:
    """
    A topology is a machine and its models.

    @ivar fits: how many models of the usual size fit at a time.
    """

    name: str
    resources: Amounts
    models: Mapping[str, Shape]
    fits: int

    def costs(self, switch: float) -> HookTimes:
        """
        Return the times of hooks where a usual model takes C{switch} seconds to sleep and wake.
        """
        sleeps = {n: SLEEP_PART * switch * shape.cost for n, shape in self.models.items()}
        wakes = {n: WAKE_PART * switch * shape.cost for n, shape in self.models.items()}
        return HookTimes(switch, sleeps=sleeps, wakes=wakes, jitter=0.1)

    def document(self) -> dict[str, object]:
        """Return the part of a configuration that describes the machine."""
        models = {
            name: {
                "port": 1,
                "wake": "true",
                "sleep": "true",
                "alive": "true",
                "needs": [dict(place) for place in shape.places],
            }
            for name, shape in self.models.items()
        }
        return {"resources": dict(self.resources), "models": models}

    def rates(self, load: float) -> dict[str, float]:
        """Return the requests a second of each model, at a load."""
        shares = sum(shape.share for shape in self.models.values())
        mean = sum(shape.share * shape.service for shape in self.models.values()) / shares
        rate = load * self.fits * SLOTS / mean
        return {name: rate * shape.share / shares for name, shape in self.models.items()}


def _slots(number: int, shares: Sequence[float]) -> tuple[Amounts, dict[str, Shape]]:
    """Return a machine on which any C{number} of the models fit."""
    shapes = {f"m{i}": Shape([{"gpu": 1}], share) for i, share in enumerate(shares)}
    return {"gpu": number}, shapes


def _gpus(*numbers: int) -> Amounts:
    return {f"gpu{number}": 1 for number in numbers}


SMALL, BIG, EMBEDDER = 0.7, 2.0, 0.15
"""The hooks of such models take so many times as long as those of a usual model."""

MACHINES: tuple[Topology, ...] = (
    Topology("eq4on2", *_slots(2, [1.0] * 4), fits=2),
    Topology("zipf6on3", *_slots(3, zipf(6)), fits=3),
    Topology(
        "emb+3on24",
        {"gpu": 24},
        {
            "embed": Shape([{"gpu": 2}], 1.0, EMBEDDER, service=0.3),
            **{f"m{number}": Shape([{"gpu": 10}]) for number in range(3)},
        },
        fits=2,
    ),
    Topology(
        "2gpu",
        {"gpu0": 24, "gpu1": 24},
        {
            **{f"m{number}": Shape([{"gpu0": 20}, {"gpu1": 20}]) for number in range(4)},
            "big": Shape([{"gpu0": 22, "gpu1": 22}], 0.5, BIG),
        },
        fits=2,
    ),
    Topology(
        "8gpu",
        _gpus(*range(8)),
        {
            **{
                name: Shape([_gpus(gpu) for gpu in range(8)], cost=SMALL)
                for name in ("one-a", "one-b")
            },
            **{
                name: Shape([_gpus(gpu, gpu + 1) for gpu in range(0, 8, 2)])
                for name in ("two-a", "two-b")
            },
            "four": Shape([_gpus(*range(4)), _gpus(*range(4, 8))], 0.5, BIG),
            "eight": Shape([_gpus(*range(8))], 0.25, BIG),
        },
        fits=4,
    ),
    Topology("12on4", *_slots(4, zipf(12)), fits=4),
)


@dataclass(frozen=True)
class MachineScenario:
    """This scenario is one hour of traffic for one machine."""

    topology: Topology
    regime: str
    traffic: str
    switch: float
    trace: Callable[[], Trace] = field(repr=False)
    horizon: float = HOUR
    warm_up: float = HOUR / 10
    seed: int = 1

    @property
    def name(self) -> str:
        """Return a name that no other scenario has."""
        return f"{self.topology.name}, {self.traffic}, cost {self.switch:g}"


LOADS = (
    (0.003, "idle"),
    (0.015, "light"),
    (0.05, "light"),
    (0.15, "medium"),
    (0.45, "heavy"),
    (0.8, "heavy"),
    (1.1, "overload"),
)
BURSTS = (0.15, 0.45)
AGENTS = (4, 12, 36)
THOUGHTS = ((1.0, 3.0), (2.0, 10.0), (2.0, 30.0))

STAYS = 0.8
"""
This is the chance that a loyal agent's next request is for the same model: five in a row on
average.
"""

MACHINE_REGIMES = (
    "idle",
    "light",
    "medium",
    "heavy",
    "overload",
    "bursts",
    "agents",
    "loyal agents",
)


def _traffic(
    topology: Topology, load: float, seed: int, horizon: float, bursts: bool = False
) -> Trace:
    """Draw requests that come whatever happens to those before them."""
    random = Random(f"{topology.name} {load} {seed}")
    requests = [
        TraceRequest(name, lognormal(random, topology.models[name].service), sent)
        for name, rate in topology.rates(load).items()
        for sent in arrivals(random, rate, bursts, horizon)
    ]
    requests.sort(key=lambda request: request.sent)
    return Trace.of(requests)


def _agents(
    topology: Topology,
    count: int,
    think: tuple[float, float],
    seed: int,
    horizon: float,
    stays: float = 0.0,
) -> Trace:
    """
    Draw the requests of agents that send one request after the other, each to two or three
    models by turns.  The trace has what an agent would send if nothing ever made it wait: most
    of them send less.

    The trace has what an agent would send if nothing ever made it wait: most of them send
    less.

    @param stays: the chance that the next request is for the same model.
    """
    random = Random(f"{topology.name} {count} {think} {seed}")
    shares = {name: shape.share for name, shape in topology.models.items()}
    requests: list[TraceRequest] = []
    for _ in range(count):
        turns = _some(random, shares, random.choice((2, 3)))
        sent = random.uniform(0, 60)
        busy, after, turn = sent, None, 0
        while busy < horizon:
            name = turns[turn % len(turns)]
            service = lognormal(random, topology.models[name].service)
            pause = random.uniform(*think)
            requests.append(TraceRequest(name, service, sent, after, pause))
            after, sent = len(requests) - 1, 0.0
            busy += service + pause
            # There is no draw where nobody stays, so that these traces are as they have always
            # been.
            turn += not (stays and random.random() < stays)
    return Trace.of(requests)


def _some(random: Random, shares: Mapping[str, float], count: int) -> list[str]:
    """Draw different models by their shares."""
    left = dict(shares)
    drawn = []
    for _ in range(count):
        [name] = random.choices(list(left), list(left.values()))
        del left[name]
        drawn.append(name)
    return drawn


def _of(topology: Topology, seed: int, horizon: float) -> Iterator[MachineScenario]:
    def scenario(
        regime: str, traffic: str, cost: float, trace: Callable[[], Trace]
    ) -> MachineScenario:
        return MachineScenario(
            topology, regime, traffic, cost, trace, horizon, horizon / 10, seed
        )

    for cost in COSTS:
        for load, regime in LOADS:
            trace = partial(_traffic, topology, load, seed, horizon)
            yield scenario(regime, f"load {load:g}", cost, trace)
        for load in BURSTS:
            trace = partial(_traffic, topology, load, seed, horizon, bursts=True)
            yield scenario("bursts", f"bursts, load {load:g}", cost, trace)
    for row, count in enumerate(AGENTS):
        for column, think in enumerate(THOUGHTS):
            # Each number of agents meets each thought and each cost, at a third of the runs.
            cost = COSTS[(row + column) % len(COSTS)]
            trace = partial(_agents, topology, count, think, seed, horizon)
            low, high = think
            traffic = f"{count} agents that think for {low:g} to {high:g} s"
            yield scenario("agents", traffic, cost, trace)
            trace = partial(_agents, topology, count, think, seed, horizon, STAYS)
            yield scenario("loyal agents", f"loyal, {traffic}", cost, trace)


def machine_scenarios(seed: int, *, quick: bool = False) -> list[MachineScenario]:
    """
    Make the scenarios of every machine with every kind of traffic.

    @param quick: True to make a twentieth of it: a quarter of an hour, with switches of 15 s,
        and without overload.
    """
    if not quick:
        return [each for topology in MACHINES for each in _of(topology, seed, HOUR)]
    return [
        each
        for topology in MACHINES
        for each in _of(topology, seed, HOUR / 4)
        if each.switch == 15 and each.regime != "overload"
    ]
