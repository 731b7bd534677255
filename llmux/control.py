"""
This module has the interface between the commands of an operator and the part that carries them
out.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

__all__ = ["LONGEST_COMMAND", "CommandError", "IControl", "Pause", "Pin"]

LONGEST_COMMAND = 64 * 1024
"""The body of a command may have this many bytes; a usual one has some dozens."""


class CommandError(Exception):
    """
    A command was refused, or has failed.  The error's message is a sentence for whoever gave
    the command, and says what to do instead.

    @ivar status: the HTTP status: 409 for a conflict, 503 while llmux stops, 500 if a hook has
        failed.
    @ivar code: a word for programs: C{superseded}, C{requests_wait}, ...
    @ivar param: the key of the command that is at fault, if one is.
    """

    def __init__(
        self, message: str, status: int = 409, code: str = "conflict", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class Pin(Struct, frozen=True):
    """
    A pin keeps a model awake: the model is never a victim.

    @ivar model: the model's name.
    @ivar until: when the pin ends, in seconds on the switcher's clock; None if a command has to
        end it.
    @ivar refuses: whether requests for models that need the pinned model's room are refused,
        and do not wait.
    """

    model: str
    until: float | None = None
    refuses: bool = False


class Pause(Struct, frozen=True):
    """
    A pause is a time in which no switch begins.

    @ivar until: when the pause ends, in seconds on the switcher's clock; None if a command has
        to end it.
    @ivar refuses: whether requests that would have to wait are refused.
    @ivar sleeps: whether all models are put to sleep for the pause.
    @ivar by: who asked for the pause: C{cookie} or C{socket}.
    """

    until: float | None = None
    refuses: bool = False
    sleeps: bool = False
    by: str = "socket"


class IControl(Interface):
    """
    An L{IControl} carries out commands.

    All names of models that are passed are configured names, and no method is called while
    llmux is stopping.  Each method returns a Deferred that fires with None when the command is
    done, and fails with L{CommandError} when it is refused, when it fails, or when a later
    command supersedes it.  The Deferreds must not be cancelled: a client that leaves does not
    take its command back.
    """

    pins: Sequence[Pin] = Attribute("The models that are pinned now.")
    pause: Pause | None = Attribute("The pause that lasts now; None if none does.")

    def wake(model: str, by: str) -> Deferred[None]:
        """
        Let C{model} get its turn as the policy sees fit, as if a request waited for it.  The
        command is done as soon as that is noted, or if the model is awake already.

        @param by: who gives the command; this parameter is the same in all methods.
        """

    def switch(model: str, abort: bool, by: str) -> Deferred[None]:
        """
        Wake C{model} now, whatever the policy would decide.  The command is done when the model
        is awake.

        @param abort: whether requests in flight to the switch's victims are aborted.
        """

    def sleep(
        models: Sequence[str] | None, abort: bool, force: bool, by: str
    ) -> Deferred[None]:
        """
        Put these models to sleep.  The command is done when they sleep.

        @param models: None for all that are awake.
        @param abort: whether requests in flight are aborted, and requests that wait get 503.
        @param force: whether a model that is uncertain counts as asleep.
        """

    def pin(model: str, secs: float | None, refuse: bool, by: str) -> Deferred[None]:
        """
        Switch to C{model}, and never make it a victim.  The command is done when the model is
        awake.

        @param secs: how many seconds the pin lasts; None for until L{unpin}.
        @param refuse: whether requests for models that need the pinned model's room are
            refused.
        """

    def unpin(model: str | None, by: str) -> Deferred[None]:
        """
        End the pin of C{model}, or all pins.
        """

    def pause_switching(
        secs: float | None, sleep: bool, refuse: bool, by: str
    ) -> Deferred[None]:
        """
        Begin no switch until L{resume}, or for C{secs} seconds.  If C{sleep}, the command is
        done when no model is awake any more, else at once.
        """

    def resume(by: str) -> Deferred[None]:
        """End the pause."""
