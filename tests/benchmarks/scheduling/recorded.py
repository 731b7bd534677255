"""
This module makes scenarios of recorded traffic: conversations, or clients, are given to four
models by a seeded draw, and time is stretched until the load is the wanted one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from random import Random

from llmux.simulate.trace import Trace, TraceRequest
from tests.benchmarks.scheduling.families import ALIKE, SLOTS, THOUGHTS, Scenario, zipf

__all__ = ["RECORDED", "mooncake", "mooncake_agents", "servegen"]

DATA = Path(__file__).parent.parent / "data"
MODELS = 4
LOADS = [(0.02, "light"), (0.15, "medium"), (0.45, "heavy"), (0.8, "heavy")]


def service_seconds(input_tokens: int, output_tokens: int) -> float:
    """
    Return the seconds of a service, with prefill at 5000 tokens a second, then 50 tokens a
    second.
    """
    return input_tokens / 5000 + output_tokens / 50 + 0.05


@lru_cache(maxsize=1)
def _mooncake_rows() -> list[tuple[float, float, int]]:
    """
    Read for each request the time, the seconds of its service, and the number of its
    conversation.
    """
    rows = []
    with open(DATA / "mooncake.csv") as lines:
        next(lines)
        for line in lines:
            sent, tokens_in, tokens_out, conversation = map(int, line.split(","))
            rows.append((sent / 1000, service_seconds(tokens_in, tokens_out), conversation))
    return rows


def _stretched(
    requests: list[TraceRequest], load: float, longest: float
) -> tuple[Trace, float]:
    """
    Return the same requests at that load, and how many seconds they last now.

    If they would last for longer than C{longest} seconds, only the first of them are kept.
    """
    work = sum(request.service for request in requests)
    length = max(request.sent for request in requests)
    factor = work / SLOTS / load / length
    kept = [
        TraceRequest(request.model, request.service, request.sent * factor)
        for request in requests
        if request.sent * factor <= longest
    ]
    return Trace.of(kept), min(length * factor, longest)


def mooncake(seed: int, load: float, longest: float = 28800.0) -> tuple[Trace, float]:
    """
    Return every request at the time when it was sent; each conversation is held with one model.
    """
    random = Random(seed)
    names = [f"m{number}" for number in range(MODELS)]
    dealt: dict[int, str] = {}
    requests = []
    for sent, service, conversation in _mooncake_rows():
        if conversation not in dealt:
            [dealt[conversation]] = random.choices(names, zipf(MODELS))
        requests.append(TraceRequest(dealt[conversation], service, sent))
    return _stretched(requests, load, longest)


def mooncake_agents(seed: int, count: int, think: tuple[float, float], horizon: float) -> Trace:
    """
    Return the requests of agents that hold one conversation after the other, each of at least
    three turns, each with one model; the next request follows the reply after the seconds of
    thought.
    """
    random = Random(seed)
    names = [f"m{number}" for number in range(MODELS)]
    turns: dict[int, list[float]] = {}
    for _, service, conversation in _mooncake_rows():
        turns.setdefault(conversation, []).append(service)
    long = [services for services in turns.values() if len(services) >= 3]
    requests: list[TraceRequest] = []
    for _ in range(count):
        busy = sent = random.uniform(0, 60)
        after = None
        while busy < horizon:
            [name] = random.choices(names, zipf(MODELS))
            for service in random.choice(long):
                pause = random.uniform(*think)
                requests.append(TraceRequest(name, service, sent, after, pause))
                after, sent = len(requests) - 1, 0.0
                busy += service + pause
    return Trace.of(requests)


def servegen(seed: int, load: float, longest: float = 28800.0) -> tuple[Trace, float]:
    """
    Return the requests of clients with their recorded rates and burstiness (gamma intervals of
    the recorded coefficient of variation), given to models at random.
    """
    random = Random(seed)
    names = [f"m{number}" for number in range(MODELS)]
    requests = []
    with open(DATA / "servegen.json") as file:
        recorded = json.load(file)
    begin = min(
        window["ts"]
        for model in recorded
        for client in model["clients"]
        for window in client["w"]
    )
    for model in recorded:
        for client in model["clients"]:
            [name] = random.choices(names, zipf(MODELS))
            for window in client["w"]:
                for sent in _gamma(random, window["rate"], window["cv"]):
                    service = service_seconds(0, random.choice(client["out"]))
                    requests.append(
                        TraceRequest(name, min(service, 120.0), window["ts"] - begin + sent)
                    )
    requests.sort(key=lambda request: request.sent)
    return _stretched(requests, load, longest)


def _gamma(random: Random, rate: float, cv: float, window: float = 600.0) -> Iterator[float]:
    if rate <= 0 or cv <= 0:
        return
    shape = 1 / (cv * cv)
    now = random.gammavariate(shape, 1 / (rate * shape)) * random.random()
    while now < window:
        yield now
        now += random.gammavariate(shape, 1 / (rate * shape))


def _same(trace: Trace) -> Trace:
    return trace


def RECORDED(seed: int) -> list[Scenario]:
    """
    Make the scenarios of the two traces at every load and cost, and of agents made of
    conversations.
    """
    scenarios = []
    sources: list[tuple[str, Callable[[int, float, float], tuple[Trace, float]]]] = [
        ("mooncake", mooncake),
        ("servegen", servegen),
    ]
    for name, source in sources:
        for load, regime in LOADS:
            trace, horizon = source(seed, load, 28800.0 if regime == "light" else 9000.0)
            for cost, costs in ALIKE:
                scenarios.append(
                    Scenario(
                        f"{name} load {load:g} cost {cost}",
                        regime,
                        partial(_same, trace),
                        costs,
                        horizon,
                        horizon / 10,
                        seed=seed,
                    )
                )
    for count, (regime, think) in product((6, 16, 32), THOUGHTS):
        for cost, costs in ALIKE:
            scenarios.append(
                Scenario(
                    f"mooncake, {count} {regime}, cost {cost}",
                    regime,
                    partial(mooncake_agents, seed, count, think, 7200.0),
                    costs,
                    seed=seed,
                )
            )
    return scenarios
