"""
This module remembers what has happened to models and in switches, for people who ask.

A chronicle is told of each step of a model and of each switch that begins or ends, which is
rare, but never of a request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from twisted.logger import Logger

from llmux.policy.estimators import MovingAverage
from llmux.scheduling import Needs, Phase, Why
from llmux.switching.facts.model import Model

__all__ = ["Chronicle", "SwitchRecord", "ToldSwitch"]

MOST_STEPS = 256
"""This many steps are kept of each model."""

MOST_SWITCHES = 200

_log = Logger()

_WEIGHT = 0.3
"""The latest wake, or sleep, has this weight in the average."""


class ToldSwitch(Protocol):
    """A L{ToldSwitch} is what a chronicle needs to know of a switch: a L{Transition}."""

    @property
    def number(self) -> int: ...
    @property
    def target(self) -> Model: ...
    @property
    def place(self) -> int: ...
    @property
    def victims(self) -> Sequence[Model]: ...
    @property
    def why(self) -> Why | None: ...


class SwitchRecord:
    """
    A L{SwitchRecord} is a switch that is under way or over.  All times are in seconds on the
    switcher's clock.

    @ivar number: the number of the switch, which no other switch has.
    @ivar place: the number of the target's place.
    @ivar target: the name of the model to wake.
    @ivar victims: the names of the models that make room.
    @ivar began: when the drain began.
    @ivar hooks_began: when the first sleep hook began, or the wake hook if there
        was no victim; None while the victims drain.
    @ivar ended: when the switch was over.
    @ivar result: C{ok}, C{failed} or C{called_off}; None while it is under way.
    @ivar reason: the reason of the decision that chose the target and the victims; None if the
        policy gave no reason, or if a command or C{keep: always} wanted the switch.
    """

    __slots__ = (
        "began",
        "ended",
        "hooks_began",
        "number",
        "place",
        "reason",
        "result",
        "target",
        "victims",
    )

    def __init__(
        self,
        number: int,
        target: str,
        place: int,
        victims: Sequence[str],
        began: float,
        reason: Why | None,
    ) -> None:
        self.number = number
        self.target = target
        self.place = place
        self.victims = victims
        self.began = began
        self.hooks_began: float | None = None
        self.ended: float | None = None
        self.result: str | None = None
        self.reason = reason

    @property
    def drain_secs(self) -> float | None:
        """
        Return the seconds from the beginning to the first hook; None if no hook was reached.
        """
        return None if self.hooks_began is None else self.hooks_began - self.began

    @property
    def cost_secs(self) -> float | None:
        """Return the seconds that the hooks took; None while they run, and if none ran."""
        if self.ended is None or self.hooks_began is None:
            return None
        return self.ended - self.hooks_began


class Chronicle:
    """
    A chronicle has the latest steps of each model, and the latest switches.

    @ivar switches: the latest switches that are over, the oldest first.
    @ivar under_way: the switches that are not over.
    @ivar wake_secs: for each model, the average seconds that its wakes have taken lately.
    @ivar sleep_secs: for each model, the average seconds that its sleep hooks have taken
        lately.
    @ivar listeners: functions that are called with the model that has made a step, or with the
        record of the switch that has begun or ended.  What they raise is logged.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._steps: dict[str, deque[tuple[float, Phase, Needs]]] = {}
        self.switches: deque[SwitchRecord] = deque(maxlen=MOST_SWITCHES)
        self.under_way: list[SwitchRecord] = []
        # Switches whose wake is over; the target's next step says whether it succeeded.
        self._waking: dict[str, SwitchRecord] = {}
        self._last: dict[str, SwitchRecord] = {}
        self.wake_secs: dict[str, MovingAverage] = {}
        self.sleep_secs: dict[str, MovingAverage] = {}
        self.listeners: list[Callable[[Model | SwitchRecord], None]] = []

    def steps(self, model: str) -> Iterable[tuple[float, Phase, Needs]]:
        """
        Yield, for each step of the model, when it came to which phase, and what it held then;
        the oldest first.
        """
        return self._steps.get(model, ())

    def last_switch(self, model: str) -> SwitchRecord | None:
        """Return the last switch to the model that is over."""
        return self._last.get(model)

    def averages(self) -> Mapping[str, tuple[float | None, float | None]]:
        """
        Return, for each model that has been moved, the average seconds of a wake, and of a
        sleep hook.
        """
        names = {**self.wake_secs, **self.sleep_secs}
        return {
            name: (_value(self.wake_secs.get(name)), _value(self.sleep_secs.get(name)))
            for name in names
        }

    # ------------------------------------------------------------- told by the switcher

    def forget(self, model: str) -> None:
        """
        Forget the steps and the averages of a model that does not exist any more.  The history
        keeps switches to the model.
        """
        for kept in (self._steps, self._last, self.wake_secs, self.sleep_secs):
            kept.pop(model, None)

    def stepped(self, model: Model) -> None:
        """Note that the model has come to another phase."""
        name, phase, now = model.name, model.phase, model.since
        steps = self._steps.get(name)
        if steps is None:
            steps = self._steps[name] = deque(maxlen=MOST_STEPS)
        before = steps[-1] if steps else None
        is_asleep = phase is Phase.ASLEEP
        steps.append((now, phase, {} if is_asleep else model.needs))
        if before is not None:
            since, was, _ = before
            if is_asleep:
                if was is Phase.SLEEPING:
                    _note(self.sleep_secs, name, now - since)
            elif phase is Phase.AWAKE and was is Phase.WAKING:
                _note(self.wake_secs, name, now - since)
        if phase is Phase.SLEEPING or phase is Phase.WAKING:
            for record in self.under_way:
                if record.hooks_began is None and (
                    record.target == name or name in record.victims
                ):
                    record.hooks_began = now
        woken = self._waking.pop(name, None)
        if woken is not None:
            self._over(woken, "ok" if phase is Phase.AWAKE else "failed")
        self._tell(model)

    def switch_began(self, switch: ToldSwitch) -> None:
        """Note that a switch has begun."""
        record = SwitchRecord(
            switch.number,
            switch.target.name,
            switch.place,
            [model.name for model in switch.victims],
            self._seconds(),
            switch.why,
        )
        self.under_way.append(record)
        self._tell(record)

    def _record(self, switch: ToldSwitch) -> SwitchRecord:
        return next(each for each in self.under_way if each.number == switch.number)

    def switch_rebound(self, switch: ToldSwitch) -> None:
        """Note that a switch has another target now, or other victims."""
        record = self._record(switch)
        record.target = switch.target.name
        record.place = switch.place
        record.victims = [model.name for model in switch.victims]
        record.reason = switch.why
        self._tell(record)

    def switch_ended(self, switch: ToldSwitch) -> None:
        """Note that a switch has let go of its models, which make their next step now."""
        record = self._record(switch)
        self.under_way.remove(record)
        record.ended = self._seconds()
        if switch.target.phase is Phase.WAKING:
            self._waking[record.target] = record
        else:
            failed = any(model.phase is Phase.SLEEPING for model in switch.victims)
            slept = record.hooks_began is not None
            self._over(record, "failed" if failed or slept else "called_off")

    def _over(self, record: SwitchRecord, result: str) -> None:
        record.result = result
        self.switches.append(record)
        self._last[record.target] = record
        self._tell(record)

    def _tell(self, news: Model | SwitchRecord) -> None:
        for listener in self.listeners:
            try:
                listener(news)
            except Exception:
                _log.failure("a defect in what listens to the history")


def _note(averages: dict[str, MovingAverage], name: str, secs: float) -> None:
    average = averages.get(name)
    if average is None:
        average = averages[name] = MovingAverage(_WEIGHT)
    average.add(secs)


def _value(average: MovingAverage | None) -> float | None:
    return None if average is None else average.value
