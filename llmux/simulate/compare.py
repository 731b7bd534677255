"""
This module has the command C{llmux simulate}, which compares policies on the same requests.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from math import inf

from llmux.app import build_policy, settings_of
from llmux.config import Config
from llmux.config.error import ConfigError, printable
from llmux.config.room import room_of
from llmux.simulate.figures import Figures, figures
from llmux.simulate.options import (
    DEFAULT_SLOTS,
    UsageError,
    candidates,
    machine_options,
    parser,
    switch_costs,
)
from llmux.simulate.progress import ProgressBar
from llmux.simulate.recording import recorded_costs, recorded_figures, recorded_slots
from llmux.simulate.report import Assumptions, about, as_json, as_table
from llmux.simulate.run import Record, Run
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import Trace, TraceError, read_trace
from llmux.switching.facts.settings import ModelSettings
from llmux.switching.wishes.idleness import DefaultModel

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """
    Run the command C{llmux simulate}.

    @return: the exit status: 0, or 1 if the trace, the configuration or an option is
        wrong.
    """
    options = parser().parse_args(argv)
    try:
        trace = _read(options.trace)
        machine = machine_options(options.capacity, options.needs, options.parallel_wakes)
        runs = candidates(options.policy, options.config, trace, machine)
        models = list(runs[0][1].models)
        recorded = recorded_costs(trace, models)
        costs = switch_costs(options.switch_cost, models, options.jitter, recorded)
        until = inf if options.until is None else options.until
        if until <= options.warm_up:
            raise UsageError("--until: nothing is left after the --warm-up")
        draw = None
        if options.plot is not None:
            from llmux.simulate.plot import plotter

            draw = plotter(options.plot)
    except (ConfigError, UsageError, TraceError) as error:
        print(f"llmux simulate: {error}", file=sys.stderr)
        return 1
    log = recorded_figures(trace, options.warm_up, until)
    seen = None if options.slots else recorded_slots(trace)
    slots = options.slots or seen or DEFAULT_SLOTS
    assumed = Assumptions(
        costs,
        slots,
        recorded if costs.wakes else None,
        slots_recorded=seen is not None,
        is_silent=log is not None and recorded is None and not options.switch_cost,
    )
    results: list[Figures] = []
    records: list[tuple[str, Record]] = []
    for name, config in runs:
        bar = ProgressBar(sys.stderr, name)
        record = _run(config, trace, costs, slots, until, options.seed, bar)
        bar.clear()
        results.append(figures(name, trace, record, options.warm_up))
        if draw is not None:
            records.append((name, record))
    if options.json:
        print(as_json(results, log, assumed))
    else:
        print(about(trace, models, assumed, room_of(runs[0][1])))
        print(as_table(results if log is None else [log, *results]))
    if draw is not None:
        try:
            draw(trace, records)
        except OSError as error:
            print(f"llmux simulate: {options.plot}: {error.strerror}", file=sys.stderr)
            return 1
    return 0


def _read(name: str) -> Trace:
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb") as lines:
            return read_trace(lines)
    except OSError as error:
        raise UsageError(f"{printable(name)}: {error.strerror}") from None
    except TraceError as error:
        raise TraceError(f"{printable(name)}: {error}") from None


def _run(
    config: Config,
    trace: Trace,
    costs: HookTimes,
    slots: int,
    until: float,
    seed: int,
    progress: ProgressBar,
) -> Record:
    room = room_of(config)
    models = {
        name: ModelSettings(
            inf,
            places=room.places[name],
            always=name in room.always,
            idle_sleep=model.idle_sleep_secs,
        )
        for name, model in config.models.items()
    }
    default = config.default_model
    return Run(
        trace,
        build_policy(config),
        models,
        costs,
        slots=slots,
        until=until,
        seed=seed,
        settings=settings_of(config),
        resources=room.resources,
        preload=config.preload,
        default=None if default is None else DefaultModel(default, config.default_after_secs),
    ).go(progress)
