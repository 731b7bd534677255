"""
This module says what a command will do, before the command is given.

The page uses the same words (C{page.html}, C{FOREWARNING}); a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmux.command.words.durations import in_words, in_words_range
from llmux.command.words.sentence import Status

__all__ = ["forewarning"]


def forewarning(status: Status, verb: str, model: Status | None = None) -> str:
    """
    Say what a command will do.

    @param status: the daemon's reply to C{GET /llmux/status}.
    @param verb: C{wake}, C{switch}, C{sleep}, C{pin}, C{unpin}, C{pause} or C{resume}.
    @param model: the status's entry of the model that the command is for.
    """
    if verb == "pause":
        return _pause(status)
    if verb == "resume":
        return "Switches begin again, for who has waited longest first as the policy has it."
    assert model is not None
    name = model["name"]
    if verb == "wake":
        secs = (model.get("turn") or {}).get("secs")
        when = f", in {in_words_range(secs)} as things are" if secs else ""
        return (
            f"{name} is asked for as by a request: it gets its turn when the policy sees fit"
            f"{when}. Nothing is cut short."
        )
    if verb == "switch":
        return _switch(status, model)
    if verb == "sleep":
        return _sleep(model)
    if verb == "pin":
        return f"{_switch(status, model)} Then nothing takes its room, whoever waits."
    return f"Others may take the room of {name} again."


def _about(secs: float | None) -> str:
    return "" if secs is None else f" (about {in_words(secs)})"


def _finish(model: Status) -> str:
    if not model["in_flight"]:
        return ""
    drain = _about((model.get("last_switch") or {}).get("drain_secs"))
    return f"{model['in_flight']} in flight finish first{drain}, then "


def _wait(count: int) -> str:
    return f"{count} {'waits' if count == 1 else 'wait'}"


def _serving(status: Status) -> Sequence[Status]:
    return [m for m in status["models"] if m["state"] in ("awake", "draining", "checking")]


def _switch(status: Status, model: Status) -> str:
    name = model["name"]
    if model["state"] in ("awake", "draining"):
        return f"{name} is awake already; it stays."
    others = [m for m in _serving(status) if m["name"] != name]
    if not others:
        return f"Nothing is in its way; it wakes{_about(model.get('wake_secs'))}."
    if len(others) > 1:
        named = ", ".join(f"{m['name']} ({m['in_flight']} in flight)" for m in others)
        return (
            f"Of {named}, those in its way make room: what they have in flight finishes first, "
            f"then they sleep and {name} wakes{_about(model.get('wake_secs'))}."
        )
    cost = (others[0].get("cost_secs") or {}).get(name)
    switch = "the switch begins" if cost is None else f"about {in_words(cost)} for the switch"
    return f"{others[0]['name']} makes room: {_finish(others[0])}{switch}."


def _sleep(model: Status) -> str:
    name = model["name"]
    if model["state"] == "uncertain":
        text = f"You say that you have freed what {name} held: it counts as asleep."
    else:
        sleeps = f"{_finish(model)}{name} sleeps{_about(model.get('sleep_secs'))}."
        text = f"{sleeps} The next request for it wakes it again."
    if model["waiters"]:
        text += f" {_wait(model['waiters'])} for it: llmux will refuse."
    return text


def _pause(status: Status) -> str:
    count = sum(m["waiters"] for m in status["models"])
    meanwhile = f" {_wait(count)} meanwhile." if count else ""
    return f"No switch begins until you resume; what is awake serves on.{meanwhile}"
