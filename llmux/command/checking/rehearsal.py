"""
C{llmux check --hooks} runs each model's scripts as llmux runs them, and reports how long they
take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from llmux.config import Config
from llmux.interfaces import HookKind, HookResult, IHookRunner

__all__ = ["Step", "rehearse", "report", "run_hooks"]

PAUSE = 0.25
"""So many seconds pass between two questions to a model that has not answered yes yet."""


@dataclass(frozen=True)
class Step:
    """
    A L{Step} is one hook that a rehearsal has run.

    @ivar step: the hook's name.
    @ivar outcome: the result, in a few words.
    @ivar ok: whether the result is what llmux needs.
    """

    model: str
    step: str
    seconds: float
    outcome: str
    ok: bool


async def rehearse(
    clock: IReactorTime, hooks: IHookRunner, model: str, wake_limit: float, cycle: bool
) -> list[Step]:
    """
    Run a model's C{alive}; or, with C{cycle}, run C{sleep}, C{wake}, C{alive} until the answer
    is yes, and C{sleep} again.  If a step fails, the steps after it are left out, except for
    the last C{sleep}; if the first C{sleep} fails, all others are left out.

    @param wake_limit: how many seconds the wake hook may take, with C{alive}'s yes after it.
    """

    async def run(kind: HookKind) -> HookResult:
        result: HookResult = await hooks.start(model, kind).exited
        return result

    if not cycle:
        return [_answer(model, await run(HookKind.ALIVE))]
    steps = [_done(model, "sleep", await run(HookKind.SLEEP))]
    if steps[-1].ok:
        began = clock.seconds()
        steps.append(_done(model, "wake", await run(HookKind.WAKE)))
        if steps[-1].ok:
            steps.append(await _until_yes(clock, run, model, began, wake_limit))
        steps.append(_done(model, "sleep", await run(HookKind.SLEEP)))
    return steps


async def _until_yes(clock: Any, run: Any, model: str, began: float, wake_limit: float) -> Step:
    woken = clock.seconds()
    while True:
        step = _answer(model, await run(HookKind.ALIVE))
        passed = clock.seconds() - began
        step = replace(step, seconds=clock.seconds() - woken)
        if step.outcome == "yes":
            return step
        if passed >= wake_limit:
            return replace(step, outcome=f"{step.outcome}, for {wake_limit:g} s", ok=False)
        await deferLater(clock, PAUSE)


def _done(model: str, step: str, result: HookResult) -> Step:
    outcome = "done" if result.ok else _why(result)
    return Step(model, step, result.duration, outcome, result.ok)


def _answer(model: str, result: HookResult) -> Step:
    if result.ok or result.says_no:
        outcome = "yes" if result.ok else f"no ({_why(result)})"
        return Step(model, "alive", result.duration, outcome, True)
    return Step(model, "alive", result.duration, f"unknown ({_why(result)})", False)


def _why(result: HookResult) -> str:
    words = result.last_words
    return f"{result.reason}: {words}" if words else result.reason


def report(steps: Sequence[Step]) -> Iterator[str]:
    """Yield the lines of a table of these steps."""
    rows = [("model", "hook", "seconds", "outcome")]
    rows += [(s.model, s.step, f"{s.seconds:.3f}", s.outcome) for s in steps]
    name, hook, seconds = (max(len(row[i]) for row in rows) for i in range(3))
    for row in rows:
        yield f"{row[0]:<{name}}  {row[1]:<{hook}}  {row[2]:>{seconds}}  {row[3]}"


def run_hooks(config: Config, models: Iterable[str], cycle: bool, out: TextIO) -> bool:
    """
    Rehearse these models one after the other, as L{rehearse} says, and write a table.  This
    function runs the reactor, so it can be called once in a process.

    @return: whether every step did what llmux needs.
    """
    from llmux.daemon.reactor_choice import install_reactor

    install_reactor()
    from twisted.internet import reactor as installed

    reactor: Any = installed
    found: list[Step] = []

    async def all_of_them() -> None:
        for name in models:
            limit = config.models[name].wake_timeout_secs
            hooks = _hook_runner(config, reactor)
            found.extend(await rehearse(reactor, hooks, name, limit, cycle))

    def start() -> None:
        done = Deferred.fromCoroutine(all_of_them())
        done.addErrback(failures.append)
        done.addBoth(lambda _: reactor.stop())

    failures: list[Any] = []
    reactor.callWhenRunning(start)
    reactor.run()
    if failures:
        failures[0].raiseException()
    print("\n".join(report(found)), file=out)
    return all(step.ok for step in found)


def _hook_runner(config: Config, reactor: Any) -> IHookRunner:
    """
    Return a runner of hooks that writes no note of its wakes and reads none: notes are for the
    llmux that serves.
    """
    from llmux.backend.whereabouts import Whereabouts
    from llmux.hooks.assembly import assemble_hooks

    whereabouts = Whereabouts({name: m.address for name, m in config.models.items()})
    assembled = assemble_hooks(config, reactor, whereabouts, serves=False)
    if assembled.places is not None:
        for name in config.models:
            assembled.places.choose_place(name, 0)
    return assembled.hooks
