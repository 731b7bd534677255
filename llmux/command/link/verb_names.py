"""
This module has the names of the commands that talk to a running llmux.

The module imports nothing, so that C{llmux} can tell quickly whether a command line begins with
one of these commands.
"""

__all__ = ["VERBS", "verb_of"]

VERBS = {
    "ps": "Print a line for each model.",
    "status": "Say what goes on, and why.",
    "wake": "Ask for a model; it gets its turn.",
    "switch": "Switch to a model now.",
    "sleep": "Put a model to sleep.",
    "pin": "Switch to a model and keep it there.",
    "unpin": "End a pin.",
    "pause": "Begin no switch; with --sleep, free the GPU.",
    "resume": "End a pause.",
    "reload": "Take a changed configuration over.",
    "requests": "Print the requests in flight, waiting and ended.",
    "logs": "Print what the scripts of models have written.",
    "events": "Print what happens, as it happens.",
    "cancel": "End a request.",
    "open": "Open the page in a browser.",
    "top": "Show what goes on, in the terminal.",
}
"""Each command has a sentence that says what it does."""


def verb_of(words: list[str]) -> tuple[str, list[str]] | None:
    """
    Return the command that a command line begins with, and the command's own words; None if the
    line begins with no such command.  C{-c FILE} may stand before the command.
    """
    before: list[str] = []
    if len(words) > 2 and words[0] in ("-c", "--config"):
        before, words = words[:2], words[2:]
    elif words and words[0].startswith("--config="):
        before, words = words[:1], words[1:]
    if words and words[0] in VERBS:
        return words[0], before + words[1:]
    return None
