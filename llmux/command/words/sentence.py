"""
This module says in sentences what a status means.

The page uses the same words (C{page.html}, C{sentence}); a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llmux.command.words.durations import in_words, in_words_range, seconds_between
from llmux.command.words.styles import Styled

__all__ = [
    "Status",
    "clock_time",
    "model_facts",
    "model_sentence",
    "reason_sentence",
    "status_sentences",
]

Status = Mapping[str, Any]
"""This is a status as the daemon sends it, or the part of a status that is about one model."""

_MOST_NAMED = 4
"""
At most this many models get a sentence each; of the others, one sentence gives the number.
"""


def clock_time(moment: str) -> str:
    """Return the local time of day of a time that the daemon has written."""
    from datetime import datetime

    return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S")


def _until(moment: str | None) -> str:
    return f" until {clock_time(moment)}" if moment else ""


def _age(status: Status, since: str | None) -> str:
    return in_words(seconds_between(since, status["now"])) if since else "some time"


def _in_flight(count: int) -> str:
    return f", {count} in flight" if count else ", nothing in flight"


def status_sentences(status: Status) -> Iterator[list[Styled]]:
    """
    Yield the sentences that say what goes on; the most important comes first.

    @param status: the daemon's reply to C{GET /llmux/status}.
    """
    yield from _what_is_unusual(status)
    models: Sequence[Status] = status["models"]
    shown = [m for m in models if m["state"] in _STATES]
    for model in shown[:_MOST_NAMED]:
        yield model_sentence(status, model)
    if len(shown) > _MOST_NAMED:
        yield [Styled(f"Not asleep besides: {len(shown) - _MOST_NAMED} more.", "dim")]
    if not shown:
        unknown = [m for m in models if m["state"] == "unknown"]
        if unknown:
            yield [Styled("llmux is finding out which models are awake.", "busy")]
        else:
            yield [Styled("No model is awake.", "dim")]
    waiting = [m for m in models if m["waiters"] and m["state"] != "waking"]
    waiting.sort(key=_turn_order)
    for model in waiting[:_MOST_NAMED]:
        yield _waiting(status, model)
    if len(waiting) > _MOST_NAMED:
        others = sum(m["waiters"] for m in waiting[_MOST_NAMED:])
        yield [Styled(f"{others} more in all wait for other models.")]


def _turn_order(model: Status) -> tuple[float, float]:
    turn = model.get("turn") or {}
    return (turn.get("position") or 10**9, -(model.get("oldest_wait_secs") or 0.0))


def _what_is_unusual(status: Status) -> Iterator[list[Styled]]:
    reload = status.get("reload")
    if reload and not reload.get("ok", True):
        yield [
            Styled("The last reload failed", "bad"),
            Styled(f": {reload.get('error')}. llmux goes on with the configuration of before."),
        ]
    if status.get("mode") == "paused":
        paused = status.get("paused") or {}
        others = "are refused" if paused.get("refuse") else "wait"
        yield [
            Styled(f"Paused{_until(paused.get('until'))}", "warn"),
            Styled(f": no switch begins, and requests for models that sleep {others}."),
        ]
    for model in status["models"]:
        backoff = model.get("backoff")
        if backoff:
            reason = str(backoff.get("reason") or "a failure").rstrip(".")
            yield [
                Styled(model["name"], "bad"),
                Styled(f" is left alone{_until(backoff.get('until'))} after "),
                Styled(f"{_tries(backoff.get('tries'))}: {reason}."),
            ]
    for pin in status.get("pins", ()):
        name, until = (pin, None) if isinstance(pin, str) else (pin["model"], pin.get("until"))
        refuse = not isinstance(pin, str) and pin.get("others") == "refuse"
        others = "; requests for others are refused" if refuse else ""
        yield [
            Styled(name, "strong"),
            Styled(f" is pinned{_until(until)}", "warn"),
            Styled(f": nothing takes its room{others}."),
        ]


def _tries(count: int | None) -> str:
    return "a failed try" if count in (None, 1) else f"{count} failed tries"


_STATES: Mapping[str, tuple[str, str]] = {
    "awake": ("good", "has been awake for {age}{in_flight}"),
    "draining": ("busy", "has been draining for {age}{room}{in_flight}"),
    "sleeping": ("busy", "has been going to sleep for {age}{room}"),
    "waking": ("busy", "has been waking for {age}{expected}"),
    "checking": ("warn", "has been asked for {age} whether it is alive{in_flight}"),
    "uncertain": ("bad", "may be awake: llmux has been trying for {age} to put it to sleep"),
}
"""Each state that gets a sentence has a style, and the words that follow the model's name."""


def model_sentence(status: Status, model: Status) -> list[Styled]:
    """Return the sentence that says what one model does."""
    style, words = _STATES.get(model["state"], ("", "has been {state} for {age}"))
    text = words.format(
        state=model["state"],
        age=_age(status, model.get("since")),
        in_flight=_in_flight(model["in_flight"]),
        room=_room(status, model["name"]),
        expected=_expected(status, model),
    )
    return [Styled(model["name"], style or "strong"), Styled(f" {text}.")]


def _switches(status: Status) -> Iterable[Status]:
    switches: Iterable[Status] = status.get("switches", ())
    return switches


def _room(status: Status, name: str) -> str:
    for switch in _switches(status):
        if name in switch["victims"]:
            return f" to make room for {switch['target']}"
    return ""


def _expected(status: Status, model: Status) -> str:
    count = model["waiters"]
    waiters = f", {count} {'waits' if count == 1 else 'wait'} for it" if count else ""
    for switch in _switches(status):
        if switch["target"] == model["name"] and switch.get("expected_secs"):
            whole = in_words_range(switch["expected_secs"])
            return f" ({whole} are usual for the whole switch){waiters}"
    if model.get("wake_secs"):
        return f" ({in_words(model['wake_secs'])} are usual){waiters}"
    return waiters


def _waiting(status: Status, model: Status) -> list[Styled]:
    turn = model.get("turn") or {}
    position, secs = turn.get("position"), turn.get("secs")
    when = f", in {in_words_range(secs)}" if secs else ""
    count = model["waiters"]
    oldest = model.get("oldest_wait_secs")
    if count == 1:
        wait = f"1 waits, for {in_words(oldest)}" if oldest is not None else "1 waits"
    else:
        wait = f"{count} wait"
        wait += f", the oldest for {in_words(oldest)}" if oldest is not None else ""
    name = Styled(model["name"], "strong")
    if position == 1 or any(s["target"] == model["name"] for s in _switches(status)):
        return [name, Styled(f" is next{when}: {wait}.")]
    if position:
        return [name, Styled(f" has turn {position}{when}: {wait}.")]
    if secs:
        return [name, Styled(f" has its turn in {in_words_range(secs)}: {wait}.")]
    return [Styled("For "), name, Styled(f" {wait}.")]


def reason_sentence(status: Status) -> list[Styled] | None:
    """Return the policy's last decision in words; None if it has none."""
    policy = status.get("policy") or {}
    decision = policy.get("decision")
    if not decision:
        return None
    text = str(decision.get("text") or decision.get("why") or decision.get("do") or "")
    return [Styled(f"{policy.get('name', 'policy')}: ", "dim"), Styled(text)] if text else None


def model_facts(status: Status, model: Status) -> Iterator[list[Styled]]:
    """Yield lines that say all that is known of one model."""
    yield model_sentence(status, model)
    yield from _what_is_unusual({**status, "models": [model]})
    if model["waiters"] and model["state"] != "waking":
        yield _waiting(status, model)
    because = (model.get("turn") or {}).get("because")
    if because:
        yield [Styled(f"Its turn: {because}.")]
    if model.get("backend"):
        held = ", ".join(f"{n} of {r}" for r, n in (model.get("place") or {}).items())
        yield [Styled(f"Backend {model['backend']}{f', holds {held}' if held else ''}.")]
    last = model.get("last_switch")
    if last:
        victims = f" from {', '.join(last['victims'])}" if last.get("victims") else ""
        cost = f", cost {in_words(last['cost_secs'])}" if last.get("cost_secs") else ""
        drain = f", drain {in_words(last['drain_secs'])}" if last.get("drain_secs") else ""
        how = f"{last['result']}{cost}{drain}"
        yield [Styled(f"Last switch at {clock_time(last['at'])}{victims}: {how}.")]
    if model.get("answered") is not None:
        yield [Styled(f"{model['answered']} answered, {model.get('failed', 0)} failed.")]
    if model.get("idle_sleep_at"):
        yield [Styled(f"Sleeps at {clock_time(model['idle_sleep_at'])} if nothing comes.")]
