"""
This module has the commands that talk to a running llmux: what each asks, and what it prints.

A command is one exchange with the daemon, or one stream; the daemon decides.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from llmux.command.link.daemon_link import (
    CommandRefused,
    DaemonLink,
    NotReachable,
    link_of_config,
)
from llmux.command.link.verb_options import parse_verb
from llmux.command.words.durations import in_words
from llmux.command.words.styles import Styled, paint, wants_colour

__all__ = ["DONE", "FAILED", "UNREACHABLE", "USAGE", "WAITING", "run_verb"]

DONE, FAILED, USAGE, UNREACHABLE, WAITING = range(5)
"""A command ends with one of these exit statuses."""

_POLL_SECS = 0.2


def run_verb(verb: str, words: Sequence[str]) -> int:
    """
    Run a command to its end.

    @param words: those after the command's name.
    @return: the exit status.
    """
    options = parse_verb(verb, words)
    try:
        link = _link(options)
    except ValueError as e:
        print(f"llmux {verb}: {e}", file=sys.stderr)
        return USAGE
    try:
        return _RUN.get(verb, _command)(verb, link, options)
    except NotReachable as e:
        print(f"llmux {verb}: {e}", file=sys.stderr)
        return UNREACHABLE
    except TimeoutError:
        print(f"llmux {verb}: {link.shown} has not answered in time", file=sys.stderr)
        return UNREACHABLE
    except CommandRefused as e:
        if options.json and e.document is not None:
            print(json.dumps(e.document))
        print(f"llmux {verb}: {e}", file=sys.stderr)
        return FAILED


def _link(options: Namespace) -> DaemonLink:
    if options.url is not None:
        return DaemonLink(url=options.url, key=os.environ.get("LLMUX_KEY"))
    return link_of_config(options.config or "config.yaml")


def _say(
    lines: Iterator[list[Styled]] | Sequence[list[Styled]], colour: bool | None = None
) -> None:
    colour = wants_colour() if colour is None else colour
    for line in lines:
        print(paint(line, colour))


def _print_json(document: Any) -> None:
    print(json.dumps(document, ensure_ascii=not _is_utf8()), flush=True)


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _status_path(model: str | None = None) -> str:
    return "/llmux/status" + (f"?model={quote(model, safe='')}" if model is not None else "")


# ------------------------------------------------------------------ what is asked


def _ps(verb: str, link: DaemonLink, options: Namespace) -> int:
    status = link.ask("GET", _status_path())
    if options.json:
        _print_json(status)
    else:
        from llmux.command.words.models_table import models_table
        from llmux.command.words.text_table import terminal_width

        _say(models_table(status, terminal_width()))
    return DONE


def _status(verb: str, link: DaemonLink, options: Namespace) -> int:
    if options.watch:
        return _watch(link, options)
    status = link.ask("GET", _status_path(options.model))
    if options.quiet:
        return DONE if _one(status, options.model)["state"] == "awake" else FAILED
    if options.json:
        _print_json(status)
    else:
        _say(_sentences(status, options.model))
    return DONE


def _one(status: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    for entry in status["models"]:
        if entry["name"] == model or model in entry.get("aliases", ()):
            found: Mapping[str, Any] = entry
            return found
    raise CommandRefused(f"there is no model {model}", 404)


def _sentences(status: Mapping[str, Any], model: str | None = None) -> Iterator[list[Styled]]:
    from llmux.command.words.sentence import model_facts, reason_sentence, status_sentences

    if model is not None:
        yield from model_facts(status, _one(status, model))
        return
    yield from status_sentences(status)
    reason = reason_sentence(status)
    if reason is not None:
        yield reason


def _watch(link: DaemonLink, options: Namespace) -> int:
    """
    Print the status each time that it changes; ages, which change by themselves, do not count.
    """
    before: object = None
    while True:
        status = link.ask("GET", _status_path(options.model))
        # Ages change by themselves; a new line for each second would tell nothing.
        now = [
            [m["name"], m["state"], m["in_flight"], m["waiters"], m.get("backoff")]
            for m in status["models"]
        ] + [status.get("mode"), status.get("pins"), status.get("reload")]
        if now != before:
            before = now
            if options.json:
                _print_json(status)
            else:
                from llmux.command.words.sentence import clock_time

                _say([[Styled(clock_time(status["now"]), "dim")]])
                _say([Styled("  "), *line] for line in _sentences(status, options.model))
                sys.stdout.flush()
        time.sleep(_POLL_SECS * 2)


# ------------------------------------------------------------------ what is told


_KEYS = ("model", "all", "abort", "force", "others", "sleep", "refuse", "request")


def _body(options: Namespace) -> dict[str, Any]:
    """
    Return the JSON of a command: its options by their long names, as far as they were given.
    """
    given = vars(options)
    body = {key: given[key] for key in _KEYS if given.get(key) not in (None, False)}
    if given.get("for_") is not None:
        body["for"] = given["for_"]
    for key in "dry_run", "restart_changed":
        if given.get(key):
            body[key] = True
    return body


def _command(verb: str, link: DaemonLink, options: Namespace) -> int:
    wanted = _WANTED.get(verb)
    if verb == "pause" and options.sleep:
        wanted = "asleep"
    if wanted is None or options.wait is None:
        status = link.ask("POST", f"/llmux/{verb}", _body(options), timeout=None)
    else:
        answered = _to_the_end(verb, wanted, link, options)
        if answered is None:
            print(
                f"llmux {verb}: still under way after {in_words(options.wait)}; "
                "see llmux status",
                file=sys.stderr,
            )
            return WAITING
        status = answered
    if options.json:
        _print_json(status)
    else:
        _say(_sentences(status))
    return DONE


_WANTED = {"wake": "awake", "switch": "awake", "pin": "awake", "sleep": "asleep"}


def _to_the_end(verb: str, wanted: str, link: DaemonLink, options: Namespace) -> Any:
    """
    Return the status when it is as the command wanted; None if C{--wait} has passed before
    that.
    """
    from llmux.command.link.outcome import is_done, moment_of

    until = time.monotonic() + options.wait
    model = getattr(options, "model", None)
    before = moment_of(link.ask("GET", _status_path()))
    try:
        status = link.ask("POST", f"/llmux/{verb}", _body(options), timeout=options.wait)
    except TimeoutError:
        return None
    while not is_done(wanted, model, before, status):
        if time.monotonic() >= until:
            return None
        time.sleep(_POLL_SECS)
        status = link.ask("GET", _status_path())
    return status


def _reload(verb: str, link: DaemonLink, options: Namespace) -> int:
    answer = link.ask("POST", "/llmux/reload", _body(options), timeout=None)
    if options.json:
        _print_json(answer)
        return DONE
    changes = answer.get("changes") or ["nothing changed"]
    styles = {"+": "good", "-": "warn", "~": "busy"}
    _say([[Styled(str(change), styles.get(str(change)[:1], ""))] for change in changes])
    return DONE


def _open(verb: str, link: DaemonLink, options: Namespace) -> int:
    answer = link.ask("POST", "/llmux/open", {})
    if options.json:
        _print_json(answer)
        return DONE
    print(answer["url"], flush=True)
    has_screen = (
        sys.platform == "darwin"
        or os.environ.get("DISPLAY")
        or os.environ.get("WAYLAND_DISPLAY")
    )
    if sys.stdout.isatty() and has_screen and not options.no_browser:
        import webbrowser

        webbrowser.open(answer["url"])
    return DONE


# ---------------------------------------------------------------------- streams


def _requests(verb: str, link: DaemonLink, options: Namespace) -> int:
    answer = link.ask("GET", "/llmux/requests")
    if options.json:
        _print_json(answer)
    else:
        from llmux.command.words.event_lines import requests_table
        from llmux.command.words.text_table import terminal_width

        _say(requests_table(answer["requests"], options.lines, terminal_width()))
    if not options.follow:
        return DONE
    sys.stdout.flush()
    options.only = "request"
    return _events(verb, link, options)


def _events(verb: str, link: DaemonLink, options: Namespace) -> int:
    from llmux.command.words.event_lines import event_lines

    query = "?" + urlencode({"only": options.only}) if options.only else ""
    colour = wants_colour()
    for event in link.events(f"/llmux/events{query}"):
        if event is None or (event.kind == "status" and verb == "requests"):
            continue
        if options.json:
            # The first event is the whole status, whatever kinds were asked for.
            _print_json({"event": event.kind} | event.data)
        else:
            _say(event_lines(event.kind, event.data), colour)
            sys.stdout.flush()
    return DONE


def _logs(verb: str, link: DaemonLink, options: Namespace) -> int:
    query: dict[str, Any] = {"tail": options.lines}
    if options.model is not None:
        query["model"] = options.model
    if options.follow:
        query["follow"] = "true"
    from llmux.config.error import printable

    for line in link.lines(f"/llmux/log?{urlencode(query)}"):
        if options.json:
            _print_json({"schema": 1, "line": line})
        else:
            print(printable(line.replace("\t", "    ")), flush=options.follow)
    if options.follow:
        raise NotReachable(f"{link.shown} has ended the stream")
    return DONE


def _top(verb: str, link: DaemonLink, options: Namespace) -> int:
    if options.json:
        return _ps(verb, link, options)
    from llmux.command.full_screen.top import run_top

    return run_top(link)


_RUN: Mapping[str, Callable[[str, DaemonLink, Namespace], int]] = {
    "ps": _ps,
    "status": _status,
    "reload": _reload,
    "open": _open,
    "requests": _requests,
    "events": _events,
    "logs": _logs,
    "top": _top,
}
"""A verb that is not in this mapping is run by L{_command}."""
