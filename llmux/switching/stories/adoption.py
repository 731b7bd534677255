"""
This module has the story of llmux' start, which finds out which models are awake, and adopts
those that fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from twisted.internet.defer import Deferred

from llmux.interfaces import IPlaceNotes, IWakeNotes, Phase, Woke
from llmux.switching.facts.model import Model
from llmux.switching.facts.phases import Event
from llmux.switching.stories.sequences import Answer, answer_of
from llmux.switching.stories.story import Stage, Story, log

__all__ = ["Adoption"]


class Adoption(Story):
    """
    An adoption finds out which models are awake: at llmux' start, and for models that are
    configured later.

    Models that say yes go on serving, if they fit together.  If they do not, all models that
    hold something of an overdrawn resource are put to sleep, except those that must always be
    awake.  A model that gives no answer twice is put to sleep as well.  No model serves while a
    resource that it needs is overdrawn.

    @param models: the models of which nothing is known.
    @param known: a function that is called when all models have answered.
    @param notes: the notes of wakes that were interrupted by the end of the llmux before this
        one; for these models a no of C{alive} does not mean asleep.
    @param places: the notes of the places in which models were woken; a model whose place is
        not known holds the sum of all its places until it has slept.
    """

    def __init__(
        self,
        stage: Stage,
        models: Iterable[Model],
        notes: IWakeNotes | None,
        places: IPlaceNotes | None,
        known: Callable[[], None],
    ) -> None:
        super().__init__(stage, models)
        self._notes = notes
        self._places = places
        self._interrupted: frozenset[str] = frozenset()
        self._known = known
        self._room: Deferred[None] | None = None

    async def run(self) -> None:
        """See L{Story.run}."""
        stage = self.stage
        if self._notes is not None:
            self._interrupted = self._notes.interrupted
            if self._interrupted:
                await self._notes.end_interrupted()
        answers = await self._answers()
        if stage.stopping:
            self._finish()
            return
        awake, unsure = self._sort_by_answer(answers)
        for model in list(self.models):
            if model not in awake and model not in unsure:
                model.step(Event.FOUND_ASLEEP, self.now())
                self.let_go(model)
                stage.capacity.release(model.name)
                stage.errands.slept(model)
        if unsure:
            log.warn(
                "not sure to be asleep, so put to sleep: {models}",
                event="strays_found",
                models=", ".join(model.name for model in unsure),
            )
        for model in unsure:
            self.let_go(model)
            model.step(Event.FOUND_UNSURE, self.now())
            stage.clean_up(model)
        self._known()
        total = stage.capacity.total
        while awake and not stage.stopping:
            fitting = [m for m in awake if not stage.capacity.overdrawn(m.needs)]
            # After another configuration there may never be room for a model that waits.
            is_less = stage.capacity.total != total
            hopeless = [m for m in awake if m not in fitting and (is_less or m.leaving)]
            awake = [m for m in awake if m not in fitting and m not in hopeless]
            with stage.holding_questions():
                for model in (*fitting, *hopeless):
                    self.let_go(model)
                if not awake:
                    self.end()
                for model in fitting:
                    self._adopt(model)
                for model in hopeless:
                    model.step(Event.FOUND_UNSURE, self.now())
                    stage.clean_up(model)
            stage.consider()
            if awake:
                await self._more_room()
        if stage.stopping:
            self._finish()

    async def _answers(self) -> dict[str, Answer]:
        """
        Return the answer of each model; a model that gives no answer is asked a second time.
        """
        names = [model.name for model in self.models]
        answers = {
            name: answer_of(result) for name, result in await self.sequence.ask_all(names)
        }
        silent = [
            name
            for name, answer in answers.items()
            if answer is Answer.UNKNOWN and name not in self._interrupted
        ]
        if silent and not self.stage.stopping:
            for name, result in await self.sequence.ask_all(silent):
                answers[name] = answer_of(result)
        return answers

    def _sort_by_answer(self, answers: Mapping[str, Answer]) -> tuple[list[Model], list[Model]]:
        """
        Return the models that are to go on serving, and those that are to be put to sleep.

        After an interrupted wake no answer counts as a no, because the model may still be
        loading.
        """
        awake, unsure = [], []
        for model in self.models:
            answer = answers[model.name]
            if model.name in self._interrupted and answer is not Answer.YES:
                model.wake_began = self.now()
                unsure.append(model)
            elif answer is Answer.YES:
                model.said_yes = True
                awake.append(model)
            elif answer is Answer.UNKNOWN:
                unsure.append(model)
        for model in (*awake, *unsure):
            self._find_place(model)
        capacity = self.stage.capacity
        total = capacity.total
        # A model of another adoption that has not answered yet may turn out to be asleep.
        others = [
            name
            for name in capacity.holders()
            if name not in answers
            and (
                self.stage.models[name].phase is not Phase.UNKNOWN
                or self.stage.models[name].said_yes
            )
        ]
        held = {
            name: sum(model.needs.get(name, 0) for model in awake)
            + sum(capacity.held(other).get(name, 0) for other in others)
            for name in total
        }
        overdrawn = {name for name, amount in held.items() if amount > total[name]}
        surplus = [
            model
            for model in awake
            if not model.settings.always
            and any(amount and name in overdrawn for name, amount in model.needs.items())
        ]
        order = {model.name: place for place, model in enumerate(self.models)}
        return (
            [model for model in awake if model not in surplus],
            sorted([*surplus, *unsure], key=lambda model: order[model.name]),
        )

    def _find_place(self, model: Model) -> None:
        """
        Enter into the ledger what the model, which may be awake, needs in its place, if that is
        known.
        """
        if len(model.settings.places) == 1:
            model.place = 0
            return
        if self._places is not None:
            model.place = self._places.place_of(model.name)
        if model.place is not None:
            capacity = self.stage.capacity
            capacity.release(model.name)
            capacity.hold(model.name, model.needs)

    def _adopt(self, model: Model) -> None:
        now = self.now()
        log.info("{model} is awake already", event="model_adopted", model=model.name)
        model.step(Event.FOUND_AWAKE, now)
        model.woke_at = now
        model.answered = False
        self.stage.tell(Woke(now, model.name, model.place, (), None))
        self.stage.serve(model)

    async def _more_room(self) -> None:
        self._room = Deferred()
        await self._room

    def room_changed(self) -> None:
        """Continue, because something has been released."""
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def _finish(self) -> None:
        self.end()
        self._known()

    def stop(self) -> None:
        """See L{Story.stop}.  It does not matter any more which models are awake."""
        self.sequence.kill()
        self.room_changed()
