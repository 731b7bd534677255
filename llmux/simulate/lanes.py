"""This module says what each resource of a simulated machine was used for, and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmux.simulate.run import Mode, Record

__all__ = ["Span", "shares_of_time", "spans", "usage"]

_BUSY = (Mode.SERVING, Mode.DRAINING, Mode.SWITCHING)


@dataclass(frozen=True, slots=True)
class Span:
    """
    A span is a time in which a model did the same thing.

    @ivar held: how much of each resource the model held in this time.
    """

    model: str
    mode: Mode
    begin: float
    end: float
    held: Mapping[str, float]


def spans(record: Record) -> Iterator[Span]:
    """Yield the times in which models held something, in the order of their ends."""
    began: dict[str, tuple[float, Mode, Mapping[str, float]]] = {}
    for when, model, mode, held in record.changes:
        if model in began:
            begin, before, had = began.pop(model)
            yield Span(model, before, begin, when, had)
        if mode is not None:
            began[model] = when, mode, held
    for model, (begin, mode, held) in began.items():
        yield Span(model, mode, begin, record.ended, held)


def usage(record: Record, resource: str) -> Iterator[tuple[float, float, Sequence[float]]]:
    """
    Yield how much of a resource was in use.

    @return: begin, end, and three amounts: what was held by models that served, by models that
        drained, and by models whose hooks ran; what idle models held is not included.
    """
    holding: dict[str, tuple[Mode, float]] = {}
    since, amounts = 0.0, (0.0, 0.0, 0.0)
    changes = record.changes
    for position, (when, model, mode, held) in enumerate(changes):
        holding.pop(model, None)
        if mode is not None and resource in held:
            holding[model] = mode, held[resource]
        if position + 1 < len(changes) and changes[position + 1][0] == when:
            continue
        sums = dict.fromkeys(_BUSY, 0.0)
        for does, amount in holding.values():
            if does in sums:
                sums[does] += amount
        now = sums[Mode.SERVING], sums[Mode.DRAINING], sums[Mode.SWITCHING]
        if now != amounts:
            yield since, when, amounts
            since, amounts = when, now
    yield since, record.ended, amounts


def shares_of_time(record: Record, since: float) -> dict[Mode, float]:
    """
    Return the shares of the time from C{since} to the end of the run, by what the resources
    were used for: the mean over the resources, where each counts by the part of its capacity
    that was held.  The four shares sum to 1.
    """
    seconds = record.ended - since
    shares = dict.fromkeys(Mode, 0.0)
    for resource, capacity in record.resources.items():
        spent = [0.0] * 4
        for begin, end, amounts in usage(record, resource):
            length = max(0.0, end - max(begin, since))
            parts = [amount / capacity for amount in amounts]
            for index, part in enumerate((*parts, 1 - sum(parts))):
                spent[index] += length * part
        for mode, time in zip((*_BUSY, Mode.IDLE), spent, strict=True):
            shares[mode] += time / seconds
    return {mode: share / len(record.resources) for mode, share in shares.items()}
