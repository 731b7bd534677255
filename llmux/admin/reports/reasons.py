"""
This module puts the reason of a decision into words.

A policy gives a code and figures.  They are put into words only when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llmux.admin.reports.moments import Moments
from llmux.scheduling import Decision, Rebind, Reopen, Stay, Switch, Why

__all__ = ["in_words", "reason_in_words", "verb_of"]

_WORDS: Mapping[str, str] = {
    "quantum": "{model} woke a short while ago and is left alone{until}",
    "pays_to_stay": "staying pays: what a switch costs outweighs what is gained by it{until}",
    "lingers": "{model} has just run out of requests, and the next may come soon{until}",
    "starves": "{model} has waited for as long as anybody may",
    "no_room": "there is no room for {model} before another model may sleep",
    "min_active": "{model} has not been awake for min_active_secs{until}",
    "pinned": "{model} is pinned",
    "paused": "switching is paused",
    "backoff": "{model} has failed and is tried again later{until}",
    "parallel_wakes": "as many models wake as may at a time",
    "oldest": "the request that has waited longest is for {model}",
    "index": "what waits for {model} gains most for each second that its turn takes",
    "idle_room": "there is room for {model} now that nobody has to drain for",
    "drains_sooner": "others make room for {model} at less cost by now, as they drain sooner",
    "starves_by": "{model} is next at the latest when it has waited for as long as anybody may",
    "lately": "as long as such waits took lately",
    "wakes": "{model} wakes",
    "sleeps": "the models that make room go to sleep",
}


def verb_of(decision: Decision) -> str:
    """Return the word for what a decision does: C{stay}, C{switch}, C{rebind} or C{reopen}."""
    words = {Stay: "stay", Switch: "switch", Rebind: "rebind", Reopen: "reopen"}
    return words[type(decision)]


def in_words(decision: Decision, moments: Moments) -> str:
    """Return a sentence, without a full stop, that says what was decided and why."""
    why = decision.why
    reason = "" if why is None else _reason(why, _until_of(decision), moments.of_day)
    what = ""
    if isinstance(decision, Switch | Rebind):
        victims = ", ".join(decision.victims)
        what = f"{decision.target} is to wake" + (f", {victims} to sleep" if victims else "")
    elif isinstance(decision, Reopen):
        what = "the switch is called off"
    return ": ".join(part for part in (what, reason) if part) or "nothing needs to change"


def reason_in_words(why: Why, moments: Moments) -> str:
    """Return the words for a reason, without what was decided."""
    return _reason(why, None, moments.of_day)


def _until_of(decision: Decision) -> float | None:
    return decision.ask_again_at if isinstance(decision, Stay) else None


def _reason(why: Why, until: float | None, of_day: Callable[[float], str]) -> str:
    words = _WORDS.get(why.code)
    model = why.model or "the model"
    if words is None:
        words = why.code.replace("_", " ") + (" ({model})" if why.model else "") + "{until}"
    text = words.replace("{model}", model)
    until = why.figures.get("until_at", until)
    return text.replace("{until}", "" if until is None else f", until {of_day(until)}") + (
        _figures(why.figures, of_day)
    )


def _figures(figures: Mapping[str, float], of_day: Callable[[float], str]) -> str:
    shown = []
    for name, value in figures.items():
        if name == "until_at":
            continue
        if name.endswith("_at"):
            shown.append(f"{name[:-3].replace('_', ' ')} {of_day(value)}")
        elif name.endswith("_secs"):
            shown.append(f"{name[:-5].replace('_', ' ')} {value:.3g} s")
        else:
            shown.append(f"{name.replace('_', ' ')} {value:.3g}")
    return f" ({', '.join(shown)})" if shown else ""
