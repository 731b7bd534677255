"""
This module runs the hooks of several configurations at a time, while models change from one
configuration to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from zope.interface import implementer

from llmux.hooks.assembly import AssembledHooks
from llmux.interfaces import HookKind, IHookRunner, IPlaceNotes, IRunningHook, IWakeNotes

__all__ = ["HookGenerations"]

_BEGINS_ANEW = frozenset({HookKind.PREPARE, HookKind.WAKE})


@implementer(IHookRunner, IWakeNotes, IPlaceNotes)
class HookGenerations:
    """
    This hook runner runs each model's hooks by the configuration with which the model was woken
    last, and wakes models by the latest configuration.

    @param changed_over: a function that is called with a model's name when a later
        configuration takes effect for that model.
    """

    def __init__(
        self,
        first: AssembledHooks,
        models: Iterable[str],
        changed_over: Callable[[str], None],
    ) -> None:
        self._latest = first
        # The first of all generations knows what an earlier llmux has left behind.
        self._notes = first.notes
        self._of = dict.fromkeys(models, first)
        self._changed_over = changed_over

    def renew(self, latest: AssembledHooks, asleep: Iterable[str]) -> None:
        """
        Use these hooks, of a later configuration, from each model's next wake on.

        @param asleep: the models for which these hooks are used at once.
        """
        before, self._latest = self._latest, latest
        for model in asleep:
            self._change_over(model)
        self._close_if_unused(before)

    def forget(self, model: str) -> None:
        """Forget a model that does not exist any more."""
        before = self._of.pop(model, None)
        if before is not None:
            self._close_if_unused(before)

    def close(self) -> None:
        """Close all generations, because no hook will be started any more."""
        for assembled in {
            id(each): each for each in (self._latest, *self._of.values())
        }.values():
            assembled.close()

    def _change_over(self, model: str) -> AssembledHooks:
        before = self._of.get(model)
        if before is not self._latest:
            self._of[model] = self._latest
            self._changed_over(model)
            if before is not None:
                self._close_if_unused(before)
        return self._latest

    def _close_if_unused(self, assembled: AssembledHooks) -> None:
        if assembled is not self._latest and assembled not in self._of.values():
            assembled.close()

    def _hooks_of(self, model: str) -> AssembledHooks:
        found = self._of.get(model)
        return self._change_over(model) if found is None else found

    # IHookRunner

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        """See L{IHookRunner.start}."""
        begins = hook in _BEGINS_ANEW
        assembled = self._change_over(model) if begins else self._hooks_of(model)
        running: IRunningHook = assembled.hooks.start(model, hook)
        return running

    # IPlaceNotes

    def place_of(self, model: str) -> int | None:
        """See L{IPlaceNotes.place_of}."""
        places = self._hooks_of(model).places
        return None if places is None else places.place_of(model)

    def choose_place(self, model: str, place: int) -> None:
        """See L{IPlaceNotes.choose_place}."""
        places = self._change_over(model).places
        if places is not None:
            places.choose_place(model, place)

    # IWakeNotes

    @property
    def interrupted(self) -> frozenset[str]:
        """See L{IWakeNotes}."""
        return self._notes.interrupted

    def end_interrupted(self) -> Deferred[None]:
        """See L{IWakeNotes.end_interrupted}."""
        return self._notes.end_interrupted()
