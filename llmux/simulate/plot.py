"""A picture of several runs of a trace, one below the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from llmux.simulate.options import UsageError
from llmux.simulate.run import Mode, Record
from llmux.simulate.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plotter", "queue_lengths"]

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
SHADES = {Mode.SERVING: 1.0, Mode.DRAINING: 0.45, Mode.IDLE: 0.15}


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
    # Text stays text, and the same runs give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "llmux", "font.size": 9}):
        figure = Figure(figsize=(10, 0.9 + 2.1 * len(records)), layout="constrained")
        all_axes = figure.subplots(len(records), 1, sharex=True, sharey=True, squeeze=False)
        for axes, (name, record) in zip(all_axes[:, 0], records, strict=True):
            axes.set_title(f"{name}: {_summary(record)}", loc="left", fontsize=9)
            _draw_queues(axes, trace, record, colours)
            _draw_awake(axes, record, colours)
            axes.set_ylabel("requests waiting")
        all_axes[-1, 0].set_xlabel("minutes")
        figure.legend(
            handles=[
                *(Patch(color=colour, label=name) for name, colour in colours.items()),
                Patch(color="#777777", alpha=SHADES[Mode.DRAINING], label="draining"),
                Patch(facecolor="white", edgecolor="#777777", label="switching"),
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


def _draw_awake(axes: Axes, record: Record, colours: dict[str, str]) -> None:
    """
    Draw a strip above the queues that shows which model is awake, in a paler colour
    while the model drains or is idle.
    """
    spans: dict[tuple[str, Mode], list[tuple[float, float]]] = {}
    ends = [when for when, _, _ in record.modes[1:]] + [record.ended]
    for (begin, mode, model), end in zip(record.modes, ends, strict=True):
        if model is not None and end > begin:
            spans.setdefault((model, mode), []).append((begin / 60, (end - begin) / 60))
    strip = axes.inset_axes((0.0, 0.9, 1.0, 0.1), sharex=axes)
    strip.set_axis_off()
    for (model, mode), parts in spans.items():
        strip.broken_barh(
            parts, (0, 1), color=colours.get(model, "#000000"), alpha=SHADES[mode], linewidth=0
        )
    strip.set_ylim(0, 1)


def _draw_queues(axes: Axes, trace: Trace, record: Record, colours: dict[str, str]) -> None:
    most = 1.0
    for model, colour in colours.items():
        times, lengths = queue_lengths(trace, record, model)
        most = max(most, *lengths)
        axes.step([t / 60 for t in times], lengths, where="post", color=colour, linewidth=1)
    axes.set_xlim(0, max(record.ended, 1.0) / 60)
    low, high = axes.get_ylim()
    # A tenth at the top is the strip's.
    axes.set_ylim(0, max(high if low == 0 else 0, most / 0.85))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def queue_lengths(
    trace: Trace, record: Record, model: str, points: int = POINTS
) -> tuple[list[float], list[float]]:
    """
    The numbers of a model's requests that waited for their service to begin.  The
    run is divided into equal parts, and the largest number within each part counts.

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
