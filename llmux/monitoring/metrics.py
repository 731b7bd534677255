"""
What can be counted, and its Prometheus exposition.

Recording is a few operations on plain integers, because a request pays for it
each time; prometheus_client comes in only when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Protocol, cast

from llmux.interfaces import Estimate

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "Histogram", "Metrics", "SwitcherView", "load_exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_LONG_SECONDS = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)

_VICTIMS = (0, 1, 2, 3, 4, 8)

_HISTOGRAMS_A_PIECE = 16
_SAMPLES_A_PIECE = 400
"""
What is exposed at once: some 2 ms of CPU each.  A thousand models have 80 000 samples.
"""

IDLE = "idle"
"""The C{from} label when nothing was awake."""


def load_exposition() -> None:
    """
    Import now what a scrape needs, 15 ms of CPU: later there might be no
    descriptor left to open the modules with.
    """
    import prometheus_client.exposition  # noqa: F401 # it is wanted in sys.modules


class Histogram:
    """Observations counted into buckets; C{bounds} are their inclusive upper ends."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = _SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """One more observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, observations up to it), the last one "+Inf", as the format wants."""
        buckets = []
        seen = 0
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            seen += count
            buckets.append(("+Inf" if bound is None else f"{float(bound)}", float(seen)))
        return buckets


class SwitcherView(Protocol):
    """What is read from the switcher at each scrape."""

    def per_model(self) -> Iterable[tuple[str, int, int, bool]]:
        """(model, waiters, requests in flight, awake)."""

    def switch_costs(self) -> Iterable[tuple[str | None, str, float]]:
        """(from, to, seconds)."""

    def estimates(self) -> Iterable[Estimate]:
        """What the policy has learnt."""

    def resources(self) -> Iterable[tuple[str, float]]:
        """(resource, how much there is)."""

    def holdings(self) -> Iterable[tuple[str, str, float]]:
        """(resource, model, how much the model holds), of those that hold some."""


class _Family:
    """One histogram per combination of label values."""

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
        """The histogram with these label values."""
        found = self.by_labels.get(labels)
        if found is None:
            found = self.by_labels[labels] = Histogram(self.bounds)
        return found


class Metrics:
    """
    Everything that llmux counts.  Callers pass only names of configured
    models, so a client cannot make series.
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
        """A reply began, C{seconds} after its request was complete."""
        histogram = self._requests.get((model, status))
        if histogram is None:
            histogram = self._requests[model, status] = Histogram()
        histogram.counts[bisect_left(_SECONDS, seconds)] += 1
        histogram.total += seconds

    def queue_wait(self, model: str) -> Histogram:
        """Where to record how long requests of C{model} waited."""
        return self._queue_seconds.of(model)

    def switch_ended(
        self, source: str | None, target: str, seconds: float, *, succeeded: bool
    ) -> None:
        """A switch came to its end, one way or the other."""
        origin = source or IDLE
        key = origin, target, "success" if succeeded else "failure"
        self._switches[key] = self._switches.get(key, 0) + 1
        if succeeded:
            self._switch_seconds.of(origin, target).observe(seconds)

    def made_room(self, victims: int) -> None:
        """So many models were put to sleep for one that woke."""
        self._victims.of().observe(victims)

    def drained(self, source: str, target: str, seconds: float) -> None:
        """The drain of C{source} took this long."""
        self._drain_seconds.of(source, target).observe(seconds)

    def went_to_sleep(self, model: str, seconds: float) -> None:
        """C{model} is asleep after having been awake for this long."""
        self._active_seconds.of(model).observe(seconds)

    def hook_finished(self, model: str, hook: str, seconds: float, ok: bool) -> None:
        """A hook ended."""
        self._hook_seconds.of(model, hook).observe(seconds)
        if not ok:
            key = model, hook
            self._hook_failures[key] = self._hook_failures.get(key, 0) + 1

    def exchange_aborted(self, model: str, reason: str) -> None:
        """llmux itself cut an exchange short."""
        key = model, reason
        self._aborted[key] = self._aborted.get(key, 0) + 1

    def config_reloaded(self, succeeded: bool) -> None:
        """The configuration was read anew, or could not be taken over."""
        self._last_reload = int(succeeded)

    def policy_failed(self, question: str) -> None:
        """The policy raised, or answered nonsense; C{question} is the method that did."""
        key = (question,)
        self._policy_failures[key] = self._policy_failures.get(key, 0) + 1

    def slept_in_name_only(self, model: str) -> None:
        """The model's sleep hook succeeded, and C{alive} says yes all the same."""
        key = (model,)
        self._not_asleep[key] = self._not_asleep.get(key, 0) + 1

    def commanded(self, verb: str, result: str) -> None:
        """A command was carried out, refused or denied."""
        key = verb, result
        self._commands[key] = self._commands.get(key, 0) + 1

    def answered(self) -> dict[str, tuple[int, int]]:
        """For each model how many replies began: with a status below 500, and with another."""
        found: dict[str, tuple[int, int]] = {}
        for (model, status), histogram in self._requests.items():
            good, bad = found.get(model, (0, 0))
            number = sum(histogram.counts)
            found[model] = (good + number, bad) if status < 500 else (good, bad + number)
        return found

    # -- exposition

    def expose(self) -> bytes:
        """The exposition in Prometheus' text format."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """
        The exposition, some 2 ms of CPU at a time.  What is counted in the
        meantime may or may not be in it.
        """
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
                    # The family's HELP and TYPE have been said.
                    text = text.split(b"\n", 2)[2]
                last = metric.name
                yield text

    def describe(self) -> Iterator[Metric]:
        """Nothing up front: for prometheus_client, which would else scrape to find out."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Every family, as prometheus_client's collectors give them."""
        return self._parts(None)

    def _parts(self, size: int | None) -> Iterator[Metric]:
        """
        Every family, those of histograms in parts of C{size} if it is given.
        """
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
    """A collector of one metric."""

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
