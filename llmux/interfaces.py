"""
This module has the interfaces that other packages implement, and the values that they pass.

The author of a policy or of a hook runner needs nothing else.  The module does no I/O, reads no
clock and logs nothing.  Times are seconds on the clock of the switcher (an L{IReactorTime}):
only the differences between them have a meaning.
"""

from __future__ import annotations

import os

from msgspec import Struct
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from llmux.events import (
    Arrived,
    Completed,
    Failed,
    Forwarded,
    HookKind,
    Left,
    LeftReason,
    Observer,
    PolicyEvent,
    Slept,
    Woke,
)
from llmux.scheduling import (
    ONE_SLOT,
    Amount,
    Decision,
    Estimate,
    Forecast,
    IForecaster,
    ILearningPolicy,
    IScheduleView,
    ISwitchPolicy,
    ISwitchPolicyFactory,
    Needs,
    Phase,
    PolicyContext,
    Rebind,
    Reopen,
    Stay,
    Switch,
    SwitchView,
    WaitingRequest,
    Why,
)

__all__ = [
    "ONE_SLOT",
    "Amount",
    "Arrived",
    "Completed",
    "Decision",
    "Estimate",
    "Failed",
    "Forecast",
    "Forwarded",
    "HookKind",
    "HookResult",
    "IForecaster",
    "IHookRunner",
    "ILearningPolicy",
    "IPlaceNotes",
    "IRunningHook",
    "IScheduleView",
    "ISwitchPolicy",
    "ISwitchPolicyFactory",
    "IWakeNotes",
    "Left",
    "LeftReason",
    "Needs",
    "Observer",
    "Phase",
    "PolicyContext",
    "PolicyEvent",
    "Rebind",
    "Reopen",
    "Slept",
    "Stay",
    "Switch",
    "SwitchView",
    "WaitingRequest",
    "Why",
    "Woke",
]


_NO_ANSWER = frozenset({os.EX_TEMPFAIL, 126, 127})
"""
With these exit statuses an C{alive} hook says neither yes nor no: EX_TEMPFAIL (75) means "I
cannot tell just now"; with 126 and 127 a shell says that a command cannot be executed, or was
not found.
"""

_LAST_WORDS = 200


class HookResult(Struct, frozen=True):
    """
    A L{HookResult} says how a hook has ended.

    An C{alive} hook has three answers.  I{Yes} is L{ok}; I{no} is L{says_no};
    everything else is I{unknown}, which never counts as asleep and never as
    dead: exit status 75, 126 or 127, a signal, the time limit, or a script
    that could not be started.

    @ivar exit_code: the shell's exit status; None when the shell did not exit
        by itself (a signal, a time limit, or it could not be started).
    @ivar timed_out: whether the hook was killed because its time limit had passed.
    @ivar duration: seconds from the hook's start to its exit.
    @ivar reason: the result in a few words that may be sent to a client: "exit status 3", "exit
        status 127 (command not found)", "time limit of 5 s", "killed by signal 9", "could not
        be started".  Never any of the hook's own output.
    @ivar stderr: the last 4 KiB of what the hook wrote to stderr, for the log.
    """

    exit_code: int | None
    timed_out: bool
    duration: float
    reason: str
    stderr: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether the hook exited with status 0."""
        return self.exit_code == 0

    @property
    def says_no(self) -> bool:
        """Tell whether the C{alive} hook ran to its end, and its answer is no."""
        return not (self.exit_code is None or self.ok or self.exit_code in _NO_ANSWER)

    @property
    def last_words(self) -> str:
        """
        Return the last line of stderr that is not blank, at most 200 characters of it; "" if
        there is none.  The line is for the log, which escapes what is not printable, and must
        never be sent to a client.
        """
        return self.stderr.rstrip().rpartition("\n")[2].strip()[:_LAST_WORDS]


class IRunningHook(Interface):
    """An L{IRunningHook} is one run of a hook."""

    exited: Deferred[HookResult] = Attribute(
        """A Deferred that fires with a L{HookResult} when the shell has exited; never fails."""
    )

    def kill() -> None:
        """
        End the hook: send TERM to its process group, and KILL if the group still exists a few
        seconds later.  L{exited} fires when the whole group has gone.  For a hook that has
        exited, a call does nothing.
        """


class IHookRunner(Interface):
    """A hook runner runs the scripts of models."""

    def start(model: str, hook: HookKind) -> IRunningHook:
        """
        Start a hook under its time limit.

        This method never raises and never blocks.  If a hook cannot be started, its
        C{exited} fires with C{exit_code} None.
        """


class IPlaceNotes(Interface):
    """
    An L{IHookRunner} may provide this interface as well: it tells the hooks of a model in which
    place the model is, and keeps that from one llmux to the next.
    """

    def place_of(model: str) -> int | None:
        """
        Return the place that was chosen last for the model, by this llmux or by the one before,
        if the model has woken there and has not been put to sleep since.

        @return: the place's number, from 0; None if that is not known.
        """

    def choose_place(model: str, place: int) -> None:
        """Tell the hooks of the model this place from now on."""


class IWakeNotes(Interface):
    """
    An L{IHookRunner} may provide this interface as well: it knows the wakes that an earlier
    llmux had begun when it was killed.
    """

    interrupted: frozenset[str] = Attribute(
        """
        The models of which a former llmux began a wake and did not see its
        end.  Such a model may be loading, with its resources taken, and its
        C{alive} says no meanwhile: that no does not mean asleep.  It ends
        when the model's C{sleep} hook has succeeded, or C{alive} says yes.
        Constant.
        """
    )

    def end_interrupted() -> Deferred[None]:
        """
        End the wake hooks of these models that still run: send TERM to their process groups,
        and KILL to those that still exist a few seconds later.

        This method must be called before any hook is started.  A second call does no harm.

        @return: a Deferred that fires when all have gone, or have been sent KILL, and never
            fails.
        """
