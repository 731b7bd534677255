"""This module has the options of the commands that talk to a running llmux, and their help."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from llmux.command.link.verb_names import VERBS
from llmux.duration_text import parse_duration

__all__ = ["parse_verb", "verb_parser"]

_EXIT = """\
exit status:
  0  done
  1  refused, or failed: the daemon's sentence is on stderr
  2  the command line makes no sense
  3  no llmux could be reached
  4  still under way when --wait had passed
"""

_ABOUT: dict[str, str] = {
    "ps": """\
Prints a line for each model: MODEL, STATE, SINCE (how long it has been in that state),
IN-FLIGHT (requests that its backend has), WAITERS, OLDEST (the longest wait so far),
NEXT-TURN (its place among the models that are waited for, and when its turn begins, as a
range) and COST (what its last switch cost). In a terminal that is too narrow for all of that
long names are cut and columns left out; what is piped has everything.

states: asleep, waking, awake, draining (finishes what it has, takes nothing new), sleeping,
checking (asked whether it is alive), uncertain (may be awake, and is to sleep),
unknown (llmux has just started).""",
    "status": """\
Says in sentences what goes on, and why the policy has decided so; or, with a MODEL, what can
be said of that one.

examples:
  llmux status                      what goes on?
  llmux status llama -q && ...      go on only if llama is awake
  llmux status --watch              a line whenever something changes""",
    "wake": """\
Asks for a model as a request would: it gets its turn when the policy sees fit, nothing is cut
short, and the command is in the queue like a waiter. Use switch for "now".

examples:
  llmux wake llama                  ask, and do not wait
  llmux wake llama --wait           return once it is awake
  llmux wake llama --wait=90s       exit with status 4 if it is not awake by then""",
    "switch": """\
Switches to a model now, whatever the policy would do: models in its way drain (what they have
in flight finishes, within drain_timeout_secs), sleep, and the model wakes. While another model
wakes, the command is accepted, and its switch begins when that has ended. Returns once the
model is awake; who interrupts the command does not take it back.""",
    "sleep": """\
Puts a model to sleep, once what it has in flight has finished, and returns then. It is woken
again by the next request for it; to keep the GPU to yourself use pause --sleep. Refused while
requests wait for the model.""",
    "pin": """\
Switches to a model and keeps it there: nothing takes its room, not even a request that has
waited for max_wait_secs, and no idle sleep. Requests for models that need its room wait, or
are refused. A pin outlives a restart of llmux.

examples:
  llmux pin llama --for 2h
  llmux pin llama --others refuse   others get 503 model_pinned at once""",
    "unpin": "Ends the pin of a model, or of all models.",
    "pause": """\
Begins no switch any more; what is awake serves on. With --sleep everything drains and sleeps:
the GPU is yours, for a game or a training run. Requests for models that sleep wait until
resume, or are refused. A pause outlives a restart of llmux.

examples:
  llmux pause --sleep --for 2h      the GPU for two hours
  llmux pause --refuse              503 paused, in place of a wait""",
    "resume": "Ends a pause.",
    "reload": """\
Reads the configuration anew, checks all of it, and takes it over without losing a request; if
anything is wrong, nothing changes. Prints what has changed and when that takes effect.""",
    "requests": """\
Prints the requests in flight, those that wait, and those that ended lately. There are no
bodies and no prompts in it.""",
    "logs": """\
Prints what the scripts of a model, and the servers that they leave behind, have written
lately; without MODEL, of all models.""",
    "events": """\
Prints what happens as it happens: model, switch, queue, decision, request, command, reload and
log. With --json one object a line, with the kind of the event as its "event".

example:
  llmux events --only model,switch --json | jq .""",
    "cancel": "Ends a request, in flight or waiting. Its ID is in llmux requests.",
    "open": """\
Prints the address of the page, with a token that can be used once within 60 seconds, and opens
it in a browser where there is one. The browser may then look and command for 12 hours.""",
    "top": """\
Shows what goes on, and goes on showing it: the sentence, a lane of the last minutes for each
resource, models and waiters. Not in a terminal it prints one frame.

keys: up and down (or k and j) choose a model; w wakes it, s switches to it now, S puts it to
sleep, p pins it for an hour or ends its pin; P pauses, r resumes; q quits. Each says what it
will do and is done after y.""",
}


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines, 1 or more")
    return int(text)


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """Return the parser of the words after a command's name."""
    parser = argparse.ArgumentParser(
        prog=f"llmux {verb}",
        description=f"{VERBS[verb]}\n\n{_ABOUT[verb]}",
        epilog=_EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _ADD.get(verb, lambda parser: None)(parser)
    where = parser.add_argument_group(
        "which llmux",
        "By default the one that runs by ./config.yaml, else the service. Over its socket no "
        "key is needed.",
    )
    where.add_argument(
        "-c", "--config", metavar="FILE", help="the one that runs by this configuration"
    )
    where.add_argument(
        "--url",
        metavar="URL",
        help="the one at this address, as in http://gpu.lan:3000; with the key in the "
        "environment's LLMUX_KEY",
    )
    parser.add_argument(
        "--json", action="store_true", help="print what the daemon answered, as JSON"
    )
    return parser


def _wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        metavar="SECS",
        nargs="?",
        type=_duration,
        const=math.inf,
        help="return when it is done; --wait=90s: and with status 4 if it is not by then",
    )


def _model(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    if optional:
        parser.add_argument("model", metavar="MODEL", nargs="?", help="one model")
    else:
        parser.add_argument("model", metavar="MODEL", help="the model")


def _for(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--for", dest="for_", metavar="TIME", type=_duration, help="end by itself: 90s, 15m, 2h"
    )


def _add_status(parser: argparse.ArgumentParser) -> None:
    _model(parser, optional=True)
    parser.add_argument("--watch", action="store_true", help="go on: a line for each change")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print nothing; exit 0 if MODEL is awake"
    )


def _add_wake(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _wait(parser)


def _add_switch(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument(
        "--abort", action="store_true", help="cut short what is in flight in place of draining"
    )
    _wait(parser)


def _add_sleep(parser: argparse.ArgumentParser) -> None:
    _model(parser, optional=True)
    parser.add_argument("--all", action="store_true", help="all models")
    parser.add_argument(
        "--abort",
        action="store_true",
        help="send 503 to those who wait, and cut what is in flight",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help='of a model that is uncertain: "I have freed it", it counts as asleep',
    )
    _wait(parser)


def _add_pin(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _for(parser)
    parser.add_argument(
        "--others",
        choices=("wait", "refuse"),
        help="what requests do that need its room (default: wait)",
    )
    _wait(parser)


def _add_unpin(parser: argparse.ArgumentParser) -> None:
    _model(parser, optional=True)


def _add_pause(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sleep", action="store_true", help="drain everything, then sleep")
    _for(parser)
    parser.add_argument(
        "--refuse", action="store_true", help="refuse requests that would wait for resume"
    )
    _wait(parser)


def _add_reload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would change, only")
    parser.add_argument(
        "--restart-changed",
        action="store_true",
        help="models that are awake and whose scripts have changed sleep and wake now",
    )


def _add_requests(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on as requests end")
    parser.add_argument(
        "-n", "--lines", metavar="N", type=_count, default=40, help="the last N (default: 40)"
    )


def _add_logs(parser: argparse.ArgumentParser) -> None:
    _model(parser, optional=True)
    parser.add_argument("-f", "--follow", action="store_true", help="go on as lines come")
    parser.add_argument(
        "-n", "--lines", metavar="N", type=_count, default=200, help="the last N (default: 200)"
    )


def _add_events(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="KIND,KIND", help="these kinds of events only")


def _add_cancel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("request", metavar="ID", help="the request's ID")


def _add_open(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--no-browser", action="store_true", help="print the address, open nothing"
    )


_ADD: dict[str, Any] = {
    "status": _add_status,
    "wake": _add_wake,
    "switch": _add_switch,
    "sleep": _add_sleep,
    "pin": _add_pin,
    "unpin": _add_unpin,
    "pause": _add_pause,
    "reload": _add_reload,
    "requests": _add_requests,
    "logs": _add_logs,
    "events": _add_events,
    "cancel": _add_cancel,
    "open": _add_open,
}


def parse_verb(verb: str, words: Sequence[str]) -> argparse.Namespace:
    """
    Read the words after a command's name.

    @raise SystemExit: with status 2, and the reason on stderr, if the words make no sense; with
        0 after C{--help}.
    """
    parser = verb_parser(verb)
    # If --wait has no "=", the word after it is not its value but the model.
    options, rest = parser.parse_known_args(
        ["--wait=366d" if w == "--wait" else w for w in words]
    )
    if rest:
        hint = "; a time stands after --wait=, as in --wait=90s" if "--wait" in words else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    if options.config is not None and options.url is not None:
        parser.error("-c and --url are two ways to say the same; give one")
    if verb == "status" and options.quiet and (options.model is None or options.watch):
        parser.error("-q goes with a MODEL, and not with --watch")
    if verb == "sleep" and (options.model is None) != options.all:
        parser.error("give a MODEL, or --all")
    return options
