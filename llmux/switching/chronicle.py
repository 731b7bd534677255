"""
What has happened to models and in switches, for people who ask.

A chronicle is told of each step of a model's and of each switch that begins or
ends, which is seldom, and never of a request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from llmux.policy.estimators import MovingAverage
from llmux.scheduling import Needs, Phase, Why
from llmux.switching.model import Model

__all__ = ["Chronicle", "SwitchRecord", "ToldSwitch"]

MOST_STEPS = 256
"""Steps that are kept of one model."""

MOST_SWITCHES = 200

_WEIGHT = 0.3
"""Of the latest wake, or sleep, in the average."""


class ToldSwitch(Protocol):
    """A switch, as far as a chronicle looks: a L{Transition}."""

    @property
    def number(self) -> int: ...
    @property
    def target(self) -> Model: ...
    @property
    def place(self) -> int: ...
    @property
    def victims(self) -> Sequence[Model]: ...


class SwitchRecord:
    """
    A switch that is under way or over.  All times are the switcher's clock's.

    @ivar number: the switch's own, which no other has.
    @ivar place: the number of the target's place.
    @ivar target: the name of the model to wake.
    @ivar victims: the names of the models that make room.
    @ivar began: when the drain began.
    @ivar hooks_began: when the first sleep hook began, or the wake hook if there
        was no victim; None while the victims drain.
    @ivar ended: when the switch was over.
    @ivar result: C{ok}, C{failed} or C{called_off}; None while it is under way.
    @ivar reason: what the policy's decision gave as its reason.
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
        """Seconds from the beginning to the first hook; None if no hook was reached."""
        return None if self.hooks_began is None else self.hooks_began - self.began

    @property
    def cost_secs(self) -> float | None:
        """Seconds of the hooks; None while they run, and if none ran."""
        if self.ended is None or self.hooks_began is None:
            return None
        return self.ended - self.hooks_began


class Chronicle:
    """
    The latest steps of each model and the latest switches.

    @ivar switches: the latest that are over, oldest first.
    @ivar under_way: those that are not over.
    @ivar wake_secs: for a model the seconds that its wakes have taken lately.
    @ivar sleep_secs: for a model the seconds that its sleep hooks have taken lately.
    @ivar listeners: each is called with the model that has stepped, or the
        switch that has begun or ended.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._steps: dict[str, deque[tuple[float, Phase, Needs]]] = {}
        self.switches: deque[SwitchRecord] = deque(maxlen=MOST_SWITCHES)
        self.under_way: list[SwitchRecord] = []
        # Those whose wake is over: the target's next step says how it went.
        self._waking: dict[str, SwitchRecord] = {}
        self._last: dict[str, SwitchRecord] = {}
        self.wake_secs: dict[str, MovingAverage] = {}
        self.sleep_secs: dict[str, MovingAverage] = {}
        self.listeners: list[Callable[[Model | SwitchRecord], None]] = []

    def steps(self, model: str) -> Iterable[tuple[float, Phase, Needs]]:
        """When the model came to which phase, and what it holds in that, oldest first."""
        return self._steps.get(model, ())

    def last_switch(self, model: str) -> SwitchRecord | None:
        """The last switch to the model that is over."""
        return self._last.get(model)

    def averages(self) -> Mapping[str, tuple[float | None, float | None]]:
        """For each model that has been moved: seconds of a wake, and of a sleep hook."""
        names = {**self.wake_secs, **self.sleep_secs}
        return {
            name: (_value(self.wake_secs.get(name)), _value(self.sleep_secs.get(name)))
            for name in names
        }

    # ------------------------------------------------------------- told by the switcher

    def forget(self, model: str) -> None:
        """The model is no more: its steps are forgotten, switches to it are not."""
        self._steps.pop(model, None)

    def stepped(self, model: Model) -> None:
        """The model has come to another phase."""
        name, phase, now = model.name, model.phase, model.since
        steps = self._steps.get(name)
        if steps is None:
            steps = self._steps[name] = deque(maxlen=MOST_STEPS)
        before = steps[-1] if steps else None
        steps.append((now, phase, {} if phase is Phase.ASLEEP else model.needs))
        if before is not None:
            since, was, _ = before
            if was is Phase.WAKING and phase is Phase.AWAKE:
                _note(self.wake_secs, name, now - since)
            elif was is Phase.SLEEPING and phase is Phase.ASLEEP:
                _note(self.sleep_secs, name, now - since)
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

    def switch_began(self, switch: ToldSwitch, reason: Why | None) -> None:
        """A switch has begun."""
        record = SwitchRecord(
            switch.number,
            switch.target.name,
            switch.place,
            [model.name for model in switch.victims],
            self._seconds(),
            reason,
        )
        self.under_way.append(record)
        self._tell(record)

    def _record(self, switch: ToldSwitch) -> SwitchRecord:
        return next(each for each in self.under_way if each.number == switch.number)

    def switch_rebound(self, switch: ToldSwitch) -> None:
        """The switch leads to another target now, or has other victims make room."""
        record = self._record(switch)
        record.target = switch.target.name
        record.place = switch.place
        record.victims = [model.name for model in switch.victims]
        self._tell(record)

    def switch_ended(self, switch: ToldSwitch) -> None:
        """The switch has let go of its models, which take their next step now."""
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
            listener(news)


def _note(averages: dict[str, MovingAverage], name: str, secs: float) -> None:
    average = averages.get(name)
    if average is None:
        average = averages[name] = MovingAverage(_WEIGHT)
    average.add(secs)


def _value(average: MovingAverage | None) -> float | None:
    return None if average is None else average.value
