"""
This module counts what llmux does, and writes the counts in Prometheus' format.

Counting is a few operations on plain integers, because each request pays for it;
prometheus_client is used only when somebody scrapes.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Protocol, cast

from llmux.interfaces import Estimate

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "Histogram", "Metrics", "SwitcherView"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_LONG_SECONDS = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)

_VICTIMS = (0, 1, 2, 3, 4, 8)

_HISTOGRAMS_A_PIECE = 16
_SAMPLES_A_PIECE = 400
"""
One piece of an exposition has at most this many samples, or histograms, which take some 2 ms of
CPU. A thousand models have 80 000 samples.
"""

IDLE = "idle"
"""The C{from} label has this value if no model was awake."""


_TO_IMPORT = ("http.server", "wsgiref.simple_server", "prometheus_client")
"""
The first scrape imports these modules, each in a piece of its own.  prometheus_client takes
some 10 ms of CPU and, with what it imports, 2 MiB.
"""


class Histogram:
    """
    A histogram counts observations in buckets; C{bounds} are the inclusive upper ends of the
    buckets.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = _SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one more observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """
        Return (upper bound, number of observations up to it) for each bucket; the last bound is
        "+Inf", as Prometheus' format requires.
        """
        buckets = []
        seen = 0
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            seen += count
            buckets.append(("+Inf" if bound is None else f"{float(bound)}", float(seen)))
        return buckets


class SwitcherView(Protocol):
    """A L{SwitcherView} has what is read from the switcher at each scrape."""

    def per_model(self) -> Iterable[tuple[str, int, int, bool]]:
        """
        Yield (model, number of waiters, number of requests in flight, whether awake) for each
        model.
        """

    def switch_costs(self) -> Iterable[tuple[str | None, str, float]]:
        """Yield (from, to, seconds) for each switch whose cost is known."""

    def estimates(self) -> Iterable[Estimate]:
        """Yield what the policy has learnt."""

    def resources(self) -> Iterable[tuple[str, float]]:
        """Yield (resource, capacity) for each resource."""

    def holdings(self) -> Iterable[tuple[str, str, float]]:
        """Yield (resource, model, amount that the model holds), where the amount is not 0."""


class _Family:
    """A family has one histogram for each combination of label values."""

    __slots__ = ("bounds", "by_labels", "documentation", "labels", "name")

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float] = _SECONDS,
    ) -> None:
        self.name = name
        self.documentation = documentation
        self.labels = labels
        self.bounds = bounds
        self.by_labels: dict[tuple[str, ...], Histogram] = {}

    def of(self, *labels: str) -> Histogram:
        """Return the histogram with these label values."""
        found = self.by_labels.get(labels)
        if found is None:
            found = self.by_labels[labels] = Histogram(self.bounds)
        return found


class Metrics:
    """
    L{Metrics} are everything that llmux counts.  Callers pass only names of configured models,
    so that clients cannot add label values.
    """

    def __init__(self) -> None:
        self._view: SwitcherView | None = None
        self._switches: dict[tuple[str, ...], int] = {}
        self._hook_failures: dict[tuple[str, ...], int] = {}
        self._aborted: dict[tuple[str, ...], int] = {}
        self._policy_failures: dict[tuple[str, ...], int] = {}
        self._not_asleep: dict[tuple[str, ...], int] = {}
        self._last_reload = 1
        self._commands: dict[tuple[str, ...], int] = {}
        self._requests: dict[tuple[str, int], Histogram] = {}
        self._switch_seconds = _Family(
            "llmux_switch_duration_seconds",
            "Seconds from the start of a drain to the target's being awake.",
            ("from", "to"),
        )
        self._drain_seconds = _Family(
            "llmux_switch_drain_duration_seconds", "Seconds spent draining.", ("from", "to")
        )
        self._victims = _Family(
            "llmux_switch_victims",
            "Models that were put to sleep for the target of a switch.",
            (),
            _VICTIMS,
        )
        self._active_seconds = _Family(
            "llmux_model_active_duration_seconds",
            "Seconds that a model was awake, each time.",
            ("model",),
            _LONG_SECONDS,
        )
        self._queue_seconds = _Family(
            "llmux_request_queue_wait_seconds",
            "Seconds that a request waited for its model.",
            ("model",),
        )
        self._hook_seconds = _Family(
            "llmux_hook_duration_seconds", "Seconds that a hook ran.", ("model", "hook")
        )

    def watch(self, view: SwitcherView) -> None:
        """Read gauges from this switcher from now on."""
        self._view = view

    # -- recording

    def request_answered(self, model: str, status: int, seconds: float) -> None:
        """Count a reply that began C{seconds} after its request was complete."""
        histogram = self._requests.get((model, status))
        if histogram is None:
            histogram = self._requests[model, status] = Histogram()
        histogram.counts[bisect_left(_SECONDS, seconds)] += 1
        histogram.total += seconds

    def queue_wait(self, model: str) -> Histogram:
        """Return the histogram of the times, in seconds, that requests of C{model} waited."""
        return self._queue_seconds.of(model)

    def switch_ended(
        self, source: str | None, target: str, seconds: float, *, succeeded: bool
    ) -> None:
        """Count a switch that has ended, with success or without."""
        origin = source or IDLE
        key = origin, target, "success" if succeeded else "failure"
        self._switches[key] = self._switches.get(key, 0) + 1
        if succeeded:
            self._switch_seconds.of(origin, target).observe(seconds)

    def made_room(self, victims: int) -> None:
        """Record how many models were put to sleep for one that woke."""
        self._victims.of().observe(victims)

    def drained(self, source: str, target: str, seconds: float) -> None:
        """Record that the drain of C{source} took C{seconds}."""
        self._drain_seconds.of(source, target).observe(seconds)

    def went_to_sleep(self, model: str, seconds: float) -> None:
        """Record that C{model} is asleep after having been awake for C{seconds}."""
        self._active_seconds.of(model).observe(seconds)

    def hook_finished(self, model: str, hook: str, seconds: float, ok: bool) -> None:
        """Count a hook that has ended."""
        self._hook_seconds.of(model, hook).observe(seconds)
        if not ok:
            key = model, hook
            self._hook_failures[key] = self._hook_failures.get(key, 0) + 1

    def exchange_aborted(self, model: str, reason: str) -> None:
        """Count an exchange that llmux itself has aborted."""
        key = model, reason
        self._aborted[key] = self._aborted.get(key, 0) + 1

    def config_reloaded(self, succeeded: bool) -> None:
        """Record whether the configuration that was read anew could be taken over."""
        self._last_reload = int(succeeded)

    def policy_failed(self, question: str) -> None:
        """
        Count a call of the policy that raised, or gave an answer that is not possible;
        C{question} is the method.
        """
        key = (question,)
        self._policy_failures[key] = self._policy_failures.get(key, 0) + 1

    def slept_in_name_only(self, model: str) -> None:
        """Count a sleep hook that succeeded although C{alive} still says yes."""
        key = (model,)
        self._not_asleep[key] = self._not_asleep.get(key, 0) + 1

    def commanded(self, verb: str, result: str) -> None:
        """Count a command that was carried out, refused or denied."""
        key = verb, result
        self._commands[key] = self._commands.get(key, 0) + 1

    def answered(self) -> dict[str, tuple[int, int]]:
        """
        Return for each model how many replies began, with a status below 500 and with another
        one.
        """
        found: dict[str, tuple[int, int]] = {}
        for (model, status), histogram in self._requests.items():
            good, bad = found.get(model, (0, 0))
            number = sum(histogram.counts)
            found[model] = (good + number, bad) if status < 500 else (good, bad + number)
        return found

    # -- exposition

    def expose(self) -> bytes:
        """Return the exposition in Prometheus' text format."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """
        Yield the exposition in pieces, some 2 ms of CPU each.  Events that are counted in the
        meantime may or may not be in it.

        @raise OSError: no descriptor is left to import a module, or to look at this process.
        """
        for module in _TO_IMPORT:
            if module not in sys.modules:
                import_module(module)
                yield b""
        from prometheus_client import ProcessCollector
        from prometheus_client.exposition import generate_latest

        process = ProcessCollector(registry=None)
        last = ""
        for metric in chain(self._parts(_HISTOGRAMS_A_PIECE), process.collect()):
            samples = metric.samples
            for at in range(0, len(samples) or 1, _SAMPLES_A_PIECE):
                metric.samples = samples[at : at + _SAMPLES_A_PIECE]
                text = generate_latest(cast("Collector", _Only(metric)))
                if metric.name == last:
                    # The HELP and TYPE lines of this family have been written.
                    text = text.split(b"\n", 2)[2]
                last = metric.name
                yield text

    def describe(self) -> Iterator[Metric]:
        """
        Return nothing; without this method prometheus_client would scrape to learn the names.
        """
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield every family, as prometheus_client's collectors do."""
        return self._parts(None)

    def _parts(self, size: int | None) -> Iterator[Metric]:
        """Yield every family; those of histograms in parts of C{size}, unless it is None."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        counters: list[tuple[str, str, tuple[str, ...], dict[tuple[str, ...], int]]] = [
            ("llmux_switch", "Switches.", ("from", "to", "result"), dict(self._switches)),
            (
                "llmux_hook_failures",
                "Hooks that failed.",
                ("model", "hook"),
                dict(self._hook_failures),
            ),
            (
                "llmux_exchanges_aborted",
                "Exchanges that llmux itself cut short.",
                ("model", "reason"),
                dict(self._aborted),
            ),
            (
                "llmux_policy_failures",
                "Questions that the policy did not answer, so that FIFO did.",
                ("question",),
                dict(self._policy_failures),
            ),
            (
                "llmux_sleep_not_confirmed",
                "Successful sleep hooks after which alive said yes.",
                ("model",),
                dict(self._not_asleep),
            ),
            (
                "llmux_commands",
                "Commands of operators.",
                ("verb", "result"),
                dict(self._commands),
            ),
            (
                "llmux_requests",
                "Requests answered.",
                ("model", "status"),
                {(m, str(s)): sum(h.counts) for (m, s), h in self._requests.items()},
            ),
        ]
        yield GaugeMetricFamily(
            "llmux_config_last_reload_success",
            "0 if the configuration that was read last could not be taken over.",
            value=self._last_reload,
        )
        for name, documentation, labels, values in counters:
            counter = CounterMetricFamily(name, documentation, labels=labels)
            for key, value in values.items():
                counter.add_metric(key, value)
            yield counter

        request_seconds = _Family(
            "llmux_request_duration_seconds",
            "Seconds from a complete request to the first byte of its reply.",
            ("model", "status"),
        )
        request_seconds.by_labels = {(m, str(s)): h for (m, s), h in self._requests.items()}
        for family in (
            self._switch_seconds,
            self._drain_seconds,
            self._victims,
            self._active_seconds,
            self._queue_seconds,
            self._hook_seconds,
            request_seconds,
        ):
            metric = HistogramMetricFamily(
                family.name, family.documentation, labels=family.labels
            )
            for at, (key, histogram) in enumerate(list(family.by_labels.items()), 1):
                metric.add_metric(key, histogram.cumulative(), histogram.total)
                if size is not None and at % size == 0:
                    yield metric
                    metric = HistogramMetricFamily(
                        family.name, family.documentation, labels=family.labels
                    )
            yield metric
        if self._view is not None:
            yield from _gauges(self._view)


class _Only:
    """An L{_Only} is a collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def _gauges(view: SwitcherView) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    depth = GaugeMetricFamily(
        "llmux_request_queue_depth", "Requests that wait for their model.", labels=("model",)
    )
    in_flight = GaugeMetricFamily(
        "llmux_model_in_flight", "Requests in flight to the backend.", labels=("model",)
    )
    awake = GaugeMetricFamily(
        "llmux_model_awake", "1 for each model that is awake.", labels=("model",)
    )
    for model, waiters, flying, is_awake in view.per_model():
        depth.add_metric((model,), waiters)
        in_flight.add_metric((model,), flying)
        awake.add_metric((model,), is_awake)
    cost = GaugeMetricFamily(
        "llmux_switch_cost_ema_seconds",
        "Moving average of sleep + wake.",
        labels=("from", "to"),
    )
    for source, target, seconds in view.switch_costs():
        cost.add_metric((source or IDLE, target), seconds)
    capacity = GaugeMetricFamily(
        "llmux_resource_capacity", "How much there is of a resource.", labels=("resource",)
    )
    for resource, amount in view.resources():
        capacity.add_metric((resource,), amount)
    held = GaugeMetricFamily(
        "llmux_resource_held",
        "How much of a resource a model holds.",
        labels=("resource", "model"),
    )
    for resource, model, amount in view.holdings():
        held.add_metric((resource, model), amount)
    yield from (depth, in_flight, awake, cost, capacity, held)

    estimates: dict[str, GaugeMetricFamily] = {}
    for estimate in view.estimates():
        gauge = estimates.get(estimate.name)
        if gauge is None:
            gauge = estimates[estimate.name] = GaugeMetricFamily(
                f"llmux_policy_{estimate.name}",
                estimate.documentation,
                labels=tuple(estimate.labels),
            )
        gauge.add_metric(tuple(estimate.labels.values()), estimate.value)
    yield from estimates.values()
