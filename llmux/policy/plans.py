"""
This module makes plans: where a model could wake, and which models would make room there.  The
words are those of L{llmux.policy.cost_aware}.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import exp, inf

from msgspec import Struct

from llmux.interfaces import Amount, Needs, Phase, SwitchView, Why
from llmux.policy.knowledge import ModelKnowledge
from llmux.policy.outlook import Outlook
from llmux.policy.parameters import LATENESS, LEAST_RETURNING, LOOK_AGAIN, SOONER, TICK

__all__ = ["Obstacle", "Plan", "Planner"]


class Plan(Struct, frozen=True):
    """
    A plan is a way to wake a model.

    @ivar place: the number of the place.
    @ivar needs: what the model needs in that place.
    @ivar victims: the models that make room.
    @ivar loss: what it costs if they do, in weighted seconds.
    """

    model: str
    place: int
    needs: Needs
    victims: tuple[str, ...] = ()
    loss: float = 0.0


class Obstacle(Struct, frozen=True):
    """
    An obstacle prevents a model from waking until a time that is known.

    @ivar until: the time at which it may be out of the way.
    """

    until: float
    why: Why


FreeRoom = Mapping[str, Amount]


class Planner:
    """
    A planner finds plans at the time of one question.

    @ivar free: how much of each resource can be used without a victim.
    """

    def __init__(self, outlook: Outlook, capacity: Needs) -> None:
        """@param capacity: the capacity of each resource."""
        self._outlook = outlook
        self._view = view = outlook.view
        self._capacity = capacity
        self._kept: dict[str, frozenset[str]] = {}
        self.free: FreeRoom = {name: view.free(name) for name in capacity}
        taken = {victim for switch in view.switches for victim in switch.victims}
        self._awake = [
            model
            for model in view.holders()
            if view.phase(model) is Phase.AWAKE
            and model not in taken
            and view.may_sleep_from(model) < inf
        ]

    def plan(
        self, model: str, switch: SwitchView | None = None, *, idle_only: bool = False
    ) -> tuple[Plan | None, Obstacle | None]:
        """
        Find the best plan for a model.

        Free room is better than any victim; of several places with free room, the one that
        leaves the least room is the best.  If no place has free room, the place with the least
        loss is the best.

        @param switch: a switch that drains, whose room and victims can be used.
        @param idle_only: whether only models without requests in flight may be victims.
        @return: the plan; or None and the obstacle, if there is one that ends at a known time.
        """
        view = self._view
        room = self.free if switch is None else self._room_without(switch)
        own: Sequence[str] = () if switch is None else switch.victims
        places = view.places(model)
        shortages = []
        best: tuple[float, Plan] | None = None
        for number, needs in enumerate(places):
            short = {
                name: amount - room.get(name, 0)
                for name, amount in needs.items()
                if amount and amount > room.get(name, 0)
            }
            if short:
                shortages.append((number, needs, short))
                continue
            left = sum(
                float(room[name] - amount) / float(self._capacity[name])
                for name, amount in needs.items()
                if amount
            )
            if best is None or left < best[0]:
                best = left, Plan(model, number, needs)
        if best is not None:
            return best[1], None
        times: dict[str, tuple[float, Why | None]] = dict.fromkeys(own, (-inf, None))
        for name in self._awake:
            times[name] = self._leaveable_from(name, model)
        if idle_only:
            times = {name: time for name, time in times.items() if not view.in_flight(name)}
        obstacle: Obstacle | None = None
        for number, needs, short in shortages:
            found = self._victims(model, short, times)
            if isinstance(found, Obstacle):
                if obstacle is None or found.until < obstacle.until:
                    obstacle = found
            elif found is not None and (best is None or found[0] < best[0]):
                best = found[0], Plan(model, number, needs, found[1], found[0])
        return (best[1], None) if best is not None else (None, obstacle)

    def _room_without(self, switch: SwitchView) -> FreeRoom:
        """Return what is free if a switch claims nothing."""
        view = self._view
        room = dict(self.free)
        for name, amount in view.places(switch.target)[switch.place].items():
            given = sum(view.held(victim).get(name, 0) for victim in switch.victims)
            room[name] = room.get(name, 0) + max(0, amount - given)
        return room

    # ------------------------------------------------------- when to leave whom

    def _leaveable_from(self, model: str, target: str) -> tuple[float, Why | None]:
        """
        Return the time from which an awake model may be left for C{target}, and the reason why
        not before.
        """
        view = self._view
        earliest = view.may_sleep_from(model)
        if earliest > self._outlook.now:
            # The switcher has no tolerance here, so the time must really have passed.
            return earliest + 2 * TICK, Why("min_active", model, {"until_at": earliest})
        if view.in_flight(model):
            return self._quantum_ends(model, target)
        return self._lingers_until(model, target)

    def _quantum_ends(self, model: str, target: str) -> tuple[float, Why | None]:
        outlook, settings = self._outlook, self._outlook.settings
        there, back = outlook.cost(model, target), outlook.cost(target, model)
        woke_at = self._view.awake_since(model)
        ends = min(
            woke_at + settings.quantum * (there + back) / 2,
            max(outlook.starves_at(target), woke_at + settings.floor * there),
        )
        return ends, Why("quantum", model, {"until_at": ends})

    def _lingers_until(self, model: str, target: str) -> tuple[float, Why | None]:
        """
        Return until when a model that has nothing to do is kept awake.  Lingering pays if the
        model's clients tend to come back in time, and if the wait that lingering causes to all
        who wait is less than the wait that it saves.

        The next request is expected after the upper quartile of the gaps so far. (With the
        median in its place, agents' requests waited as long, and requests in light traffic
        waited longer.)
        """
        outlook = self._outlook
        known = outlook.models[model]
        gap, since = known.gaps.upper, known.gaps.idle_since
        if gap is None or since is None:
            return -inf, None
        absence = outlook.absence(model, target, 0.0)
        delay = outlook.weighted_waiters(target) * (gap + known.service.mean)
        if delay >= outlook.settings.linger * (absence - gap):
            return -inf, None
        there_and_back = outlook.cost(model, target) + outlook.cost(target, model)
        ends = since + 1.25 * gap + min(LATENESS, there_and_back / 10)
        # Whether the model lingers or not, its next request shows whether lingering would have
        # paid.
        known.gaps.awaited(ends + TICK)
        if not self._come_back(known, ends - since):
            return -inf, None
        until = min(ends, outlook.starves_at(target))
        returning = known.gaps.returning
        return until, Why(
            "lingers", model, {"until_at": until, "gap_secs": gap, "returning": returning}
        )

    def _come_back(self, model: ModelKnowledge, window: float) -> bool:
        """
        Tell whether the model's clients tend to come back in time when others wait.

        Requests that come independently of replies are sometimes in time by chance.  Waiting
        for these saves nothing, because the next of them would come during the next absence.
        Only requests in time beyond this number count.

        @param window: the seconds from a reply within which a request is in time.
        """
        by_chance = 1 - exp(-window * model.answers_per_second(self._outlook.now))
        return model.gaps.returning > by_chance + LEAST_RETURNING * (1 - by_chance)

    # ------------------------------------------------------------ whom to leave

    def _victims(
        self,
        model: str,
        short: Mapping[str, Amount],
        times: Mapping[str, tuple[float, Why | None]],
    ) -> tuple[float, tuple[str, ...]] | Obstacle | None:
        """
        Choose the victims: either the cheapest model that suffices alone, or several, beginning
        with those that lose least for what they give; whichever loses less.

        @param short: how much is missing of each resource of which there is too little.
        @param times: for each model that may make room, from when it may, and the reason why
            not before.
        @return: the loss and the victims; or an obstacle; or None.
        """
        view, soon = self._view, self._outlook.now + TICK
        able = [name for name in times if any(view.held(name).get(r, 0) for r in short)]
        ready = [name for name in able if times[name][0] <= soon]
        if not self._suffice(ready, short):
            later = [name for name in able if soon < times[name][0] < inf]
            if later and self._suffice(ready + later, short):
                until, why = min((times[name] for name in later), key=lambda time: time[0])
                return Obstacle(until, why or Why("no_room", model))
            return None
        losses = {name: self._loss(name) for name in ready}
        sets: list[tuple[str, ...]] = [
            (name,) for name in ready if self._suffice((name,), short)
        ]
        several = self._several(ready, short, losses)
        if len(several) > 1:
            sets.append(several)

        def loss(names: tuple[str, ...]) -> float:
            return sum(losses[name] for name in names) + self._wait_for(model, names)

        best = min(sets, key=loss)
        return loss(best), best

    def _wait_for(self, model: str, victims: Iterable[str]) -> float:
        """Return what a drain costs the waiters of a model, in weighted seconds."""
        outlook = self._outlook
        waiting = outlook.models[model].weight * self._view.waiting(model)
        return waiting * outlook.drain_in_full(victims)

    def sooner(self, switch: SwitchView) -> tuple[Plan | None, float]:
        """
        Find other victims for a switch that drains, which cost less, mostly since they drain
        in less time.

        @return: the plan; and the next time at which there may be another plan.
        """
        view, now = self._view, self._outlook.now
        places = view.places(switch.target)
        times = [
            self._leaveable_from(name, switch.target)[0]
            for name in self._awake
            if any(_share(place, view.held(name)) for place in places)
        ]
        again = min((time for time in times if time > now + TICK), default=inf)
        if all(time > now + TICK for time in times):
            return None, again
        # Drains go on, and nothing else tells the policy that one has become shorter.
        again = min(again, now + LOOK_AGAIN)
        plan, _ = self.plan(switch.target, switch)
        if plan is None or set(plan.victims) == set(switch.victims):
            return None, again
        present = sum(map(self._loss, switch.victims))
        present += self._wait_for(switch.target, switch.victims)
        return plan if plan.loss < SOONER * present else None, again

    def _suffice(self, names: Sequence[str], short: Mapping[str, Amount]) -> bool:
        held = self._view.held
        return all(
            sum(held(name).get(resource, 0) for name in names) >= amount
            for resource, amount in short.items()
        )

    def _several(
        self, ready: Sequence[str], short: Mapping[str, Amount], losses: Mapping[str, float]
    ) -> tuple[str, ...]:
        """
        Choose models, beginning with those that lose least for what they give, and then leave
        out those that are not needed.
        """
        held = self._view.held

        def loss_per_unit(name: str) -> float:
            gives = sum(
                float(min(held(name).get(resource, 0), amount) / self._capacity[resource])
                for resource, amount in short.items()
            )
            return losses[name] / gives

        chosen: list[str] = []
        missing = dict(short)
        for name in sorted(ready, key=loss_per_unit):
            if not missing:
                break
            if any(held(name).get(resource, 0) for resource in missing):
                chosen.append(name)
                missing = {
                    resource: left
                    for resource, amount in missing.items()
                    if (left := amount - held(name).get(resource, 0)) > 0
                }
        for name in sorted(chosen, key=losses.__getitem__, reverse=True):
            others = [other for other in chosen if other != name]
            if self._suffice(others, short):
                chosen = others
        return tuple(chosen)

    def _loss(self, model: str) -> float:
        """
        Return what the model's clients lose, in weighted seconds, if the model is left now.
        """
        outlook = self._outlook
        known, knowledge = outlook.models[model], outlook.knowledge
        absence = knowledge.sleeps.of(model) + 2 * knowledge.wakes.of(model)
        if self._view.in_flight(model):
            rate = known.answers_per_second(outlook.now)
            return known.weight * absence * (1 + rate * absence / 2)
        scale = absence + known.gaps.expected(outlook.now)
        return known.weight * absence * absence / scale if scale else 0.0

    # ---------------------------------------------------------- reservations

    def is_kept_out(self, model: str, reserved: str) -> bool:
        """
        Tell whether each place of a model would need victims on resources that the model
        C{reserved} could use, so that L{is_allowed} refuses each plan.
        """
        kept = self._kept.get(reserved)
        if kept is None:
            places = self._view.places(reserved)
            kept = frozenset(r for place in places for r, amount in place.items() if amount)
            self._kept[reserved] = kept
        free = self.free
        return all(
            any(
                amount > free[resource] and resource in kept
                for resource, amount in place.items()
            )
            for place in self._view.places(model)
        )

    def is_allowed(self, plan: Plan, reserved: str) -> bool:
        """
        Tell whether a plan does not delay the model C{reserved}, which is to be next, because
        the plan uses nothing that the reserved model could use, or because both fit together.
        """
        view = self._view
        places = view.places(reserved)
        claims = [plan.needs, *map(view.held, plan.victims)]
        touched = [place for place in places if any(_share(place, claim) for claim in claims)]
        if not touched:
            return True
        if plan.victims:
            return False
        beside: list[Needs] = [plan.needs]
        outlook = self._outlook
        starving_since = outlook.starves_at(reserved)
        starves = starving_since <= outlook.now + TICK
        for name in view.holders():
            if view.may_sleep_from(name) == inf or (
                starves
                and (
                    view.phase(name) is Phase.WAKING or view.awake_since(name) >= starving_since
                )
            ):
                beside.append(view.held(name))
        if starves:
            beside += [
                view.places(switch.target)[switch.place]
                for switch in view.switches
                if switch.phase is not Phase.WAKING
            ]
        return all(
            amount + sum(needs.get(resource, 0) for needs in beside) <= self._capacity[resource]
            for place in touched
            for resource, amount in place.items()
            if amount
        )


def _share(one: Needs, other: Needs) -> bool:
    """Tell whether both need some of the same resource."""
    return any(amount and other.get(resource, 0) for resource, amount in one.items())
