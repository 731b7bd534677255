"""This module draws several runs of a trace, one below the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from llmux.simulate.lanes import Span, spans
from llmux.simulate.options import UsageError
from llmux.simulate.run import Mode, Record
from llmux.simulate.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plotter", "queue_lengths", "stacked"]

KINDS = (".svg", ".png", ".pdf")
POINTS = 600
COLOURS = (
    "#3366aa",
    "#dd7733",
    "#448844",
    "#aa4466",
    "#886699",
    "#997733",
    "#339999",
    "#666666",
)
SHADES = {Mode.SERVING: 1.0, Mode.DRAINING: 0.45, Mode.IDLE: 0.15, Mode.SWITCHING: 1.0}
HOOKS = "#444444"
QUEUES, LANE = 1.89, 0.21
"""Inches: the height of the part that shows the queues, and of the lane of a resource."""


def plotter(file: str) -> Callable[[Trace, Sequence[tuple[str, Record]]], None]:
    """
    Make a function that draws runs of a trace into C{file}.

    @raise UsageError: the file's name ends in no known kind of picture, its directory
        does not exist, or matplotlib is not installed.
    """
    if Path(file).suffix.lower() not in KINDS:
        raise UsageError(f"--plot {file}: name a file that ends in {', '.join(KINDS)}")
    if not Path(file).absolute().parent.is_dir():
        raise UsageError(f"--plot {file}: there is no such directory")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(
            "--plot needs matplotlib; install it from the checkout: pip install '.[plot]'"
        ) from None

    def draw(trace: Trace, records: Sequence[tuple[str, Record]]) -> None:
        _draw(file, trace, records)

    return draw


def _draw(file: str, trace: Trace, records: Sequence[tuple[str, Record]]) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(trace.models())}
    # With these settings text is written as text, and the same runs give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "llmux", "font.size": 9}):
        lanes = max((len(record.resources) for _, record in records), default=1)
        height = 0.9 + (QUEUES + LANE * lanes) * len(records)
        figure = Figure(figsize=(10, height), layout="constrained")
        all_axes = figure.subplots(len(records), 1, sharex=True, sharey=True, squeeze=False)
        for axes, (name, record) in zip(all_axes[:, 0], records, strict=True):
            axes.set_title(f"{name}: {_summary(record)}", loc="left", fontsize=9)
            part = LANE / (QUEUES + LANE * lanes)
            _draw_queues(axes, trace, record, colours, part * lanes)
            _draw_lanes(axes, record, colours, part)
            axes.set_ylabel("requests waiting")
        all_axes[-1, 0].set_xlabel("minutes")
        figure.legend(
            handles=[
                *(Patch(color=colour, label=name) for name, colour in colours.items()),
                Patch(color="#777777", alpha=SHADES[Mode.DRAINING], label="draining"),
                Patch(color=HOOKS, label="scripts run"),
            ],
            loc="outside lower center",
            ncols=min(8, len(colours) + 2),
            frameon=False,
        )
        metadata = {"Date": None} if file.lower().endswith(".svg") else None
        figure.savefig(file, dpi=150, metadata=metadata)


def _summary(record: Record) -> str:
    waits = [
        (began if not isnan(began) else left if not isnan(left) else record.ended) - sent
        for sent, began, left in zip(record.sent, record.began, record.left, strict=True)
        if not isnan(sent)
    ]
    mean = sum(waits) / len(waits) if waits else 0.0
    answered = sum(not isnan(when) for when in record.answered)
    return f"{answered} answered, mean wait {mean:.1f} s, {len(record.woken)} switches"


def _draw_lanes(axes: Axes, record: Record, colours: dict[str, str], height: float) -> None:
    """
    Draw a lane for each resource above the queues.  A lane shows which models hold how
    much of the resource: in a paler colour while they drain or are idle, dark while
    their hooks run.

    @param height: the part of the axes' height that a lane takes.
    """
    lanes = list(record.resources.items())
    for number, (resource, capacity) in enumerate(lanes):
        strip = axes.inset_axes((0.0, 1 - height * (number + 1), 1.0, height), sharex=axes)
        strip.set_axis_off()
        bars: dict[tuple[str, float, float, float], list[tuple[float, float]]] = {}
        for span, pieces in stacked(spans(record), resource, capacity):
            colour = (
                HOOKS if span.mode is Mode.SWITCHING else colours.get(span.model, "#000000")
            )
            for low, high in pieces:
                bar = colour, SHADES[span.mode], low, high - low
                bars.setdefault(bar, []).append((span.begin / 60, (span.end - span.begin) / 60))
        for (colour, shade, low, size), parts in bars.items():
            strip.broken_barh(parts, (low, size), color=colour, alpha=shade, linewidth=0)
        strip.set_ylim(-0.1 * capacity, 1.1 * capacity if len(lanes) > 1 else capacity)
        if len(lanes) > 1:
            strip.text(1.0, 0.5, f" {resource}", transform=strip.transAxes, va="center")


def stacked(
    some: Iterable[Span], resource: str, capacity: float
) -> Iterator[tuple[Span, Sequence[tuple[float, float]]]]:
    """
    Return where in the lane of a resource each span is drawn.  From its wake to its sleep a
    model stays in the lowest room that was free, which may be in several pieces.

    @return: each span that holds some of the resource, with its pieces: (low, high) in the
        resource's unit.
    """
    drawn = [span for span in some if span.end > span.begin and span.held.get(resource)]
    ends = {(span.model, span.end) for span in drawn}
    places: dict[str, tuple[float, list[tuple[float, float]]]] = {}
    # Models that stay come before new ones, which might otherwise be given a place that is
    # taken.
    for span in sorted(drawn, key=lambda s: (s.begin, (s.model, s.begin) not in ends)):
        ended, pieces = places.get(span.model, (-1.0, []))
        if ended != span.begin:
            taken = [piece for end, its in places.values() if end > span.begin for piece in its]
            pieces = _lowest(span.held[resource], capacity, taken)
        places[span.model] = span.end, pieces
        yield span, pieces


def _lowest(
    amount: float, capacity: float, taken: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Return the lowest pieces of a lane that are not taken and together make up C{amount}."""
    pieces = []
    low = 0.0
    for begin, end in [*sorted(taken), (capacity, capacity)]:
        high = min(begin, low + amount)
        if high > low:
            pieces.append((low, high))
            amount -= high - low
        low = max(low, end)
    return pieces


def _draw_queues(
    axes: Axes, trace: Trace, record: Record, colours: dict[str, str], above: float
) -> None:
    """
    Draw how many requests wait for each model.

    @param above: the part of the axes' height that the lanes take.
    """
    most = 1.0
    for model, colour in colours.items():
        times, lengths = queue_lengths(trace, record, model)
        most = max(most, *lengths)
        axes.step([t / 60 for t in times], lengths, where="post", color=colour, linewidth=1)
    axes.set_xlim(0, max(record.ended, 1.0) / 60)
    low, high = axes.get_ylim()
    axes.set_ylim(0, max(high if low == 0 else 0, most / (0.95 - above)))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def queue_lengths(
    trace: Trace, record: Record, model: str, points: int = POINTS
) -> tuple[list[float], list[float]]:
    """
    Return how many of a model's requests waited for their service to begin, over time.  The run
    is divided into equal parts, and the largest number within each part counts.

    @param points: the number of parts.
    @return: the second at which each part begins, and the number of each part.
    """
    width = (record.ended or 1.0) / points
    most = [0] * points
    waiting = 0
    part = 0
    for when, change in sorted(_changes(trace, record, model)):
        now = min(points - 1, int(when / width))
        while part < now:
            part += 1
            most[part] = waiting
        waiting += change
        most[part] = max(most[part], waiting)
    for rest in range(part + 1, points):
        most[rest] = waiting
    return [index * width for index in range(points)], [float(n) for n in most]


def _changes(trace: Trace, record: Record, model: str) -> Iterator[tuple[float, int]]:
    for number, request in enumerate(trace.requests):
        sent = record.sent[number]
        if request.model != model or isnan(sent):
            continue
        began, left = record.began[number], record.left[number]
        yield sent, 1
        if not isnan(began):
            yield began, -1
        elif not isnan(left):
            yield left, -1
