"""
The seam between the commands of an operator and the part that carries them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

__all__ = ["CommandError", "IControl", "Pause", "Pin"]


class CommandError(Exception):
    """
    A command is refused, or has failed.  The message is a sentence for the one
    who gave the command, and says what to do instead.

    @ivar status: the HTTP status: 409 for a conflict, 503 while llmux stops,
        500 where a hook has failed.
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


@dataclass(frozen=True, slots=True)
class Pin:
    """
    A model that is nobody's victim.

    @ivar model: the model's name.
    @ivar until: when the pin ends, on the switcher's clock; None if somebody
        has to end it.
    @ivar refuses: requests for models that would need its room are refused,
        instead of waiting.
    """

    model: str
    until: float | None = None
    refuses: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """
    A time in which no switch begins.

    @ivar until: when the pause ends, on the switcher's clock; None if somebody
        has to end it.
    @ivar refuses: requests that would have to wait are refused.
    @ivar sleeps: all models are put to sleep for it.
    @ivar by: who asked for the pause: a key's name, C{cookie} or C{socket}.
    """

    until: float | None = None
    refuses: bool = False
    sleeps: bool = False
    by: str = "socket"


class IControl(Interface):
    """
    Whoever carries out commands.

    All names of models that come in are configured ones, and llmux does not stop
    when a method is called.  Each method returns a Deferred that fires with None
    when the command is done, and fails with L{CommandError} when it is refused,
    when it fails, or when a later command supersedes it.  The Deferreds must not
    be cancelled: a client that leaves does not take its command back.
    """

    pins: Sequence[Pin] = Attribute("The models that are pinned now.")
    pause: Pause | None = Attribute("The pause that lasts now; None if none does.")

    def wake(model: str, by: str) -> Deferred[None]:
        """
        Let C{model} get its turn as the policy sees fit, as if a request waited for
        it.  Done as soon as that is noted, or the model is awake already.

        @param by: who gives the command; so in all methods.
        """

    def switch(model: str, abort: bool, by: str) -> Deferred[None]:
        """
        Wake C{model} now, whatever the policy thinks.  Done when the model is awake.

        @param abort: what is in flight to its victims is cut short.
        """

    def sleep(
        models: Sequence[str] | None, abort: bool, force: bool, by: str
    ) -> Deferred[None]:
        """
        Put these models to sleep.  Done when they sleep.

        @param models: None for all that are awake.
        @param abort: what is in flight is cut short, and who waits gets 503.
        @param force: a model whose state is uncertain counts as asleep.
        """

    def pin(model: str, secs: float | None, refuse: bool, by: str) -> Deferred[None]:
        """
        Switch to C{model} and make it nobody's victim.  Done when the model is awake.

        @param secs: for how long; None until L{unpin}.
        @param refuse: requests for models that need its room are refused.
        """

    def unpin(model: str | None, by: str) -> Deferred[None]:
        """
        End the pin of C{model}, or all pins.
        """

    def pause_switching(
        secs: float | None, sleep: bool, refuse: bool, by: str
    ) -> Deferred[None]:
        """
        Begin no switch until L{resume}, or for C{secs} seconds.  Done when nothing
        is awake any more if C{sleep}, else at once.
        """

    def resume(by: str) -> Deferred[None]:
        """End the pause."""
