"""
This module drafts the configuration that C{llmux init} writes without further arguments: one
model, which the user is to change.
"""

from __future__ import annotations

from pathlib import Path

from llmux.drafting.draft import Draft, ModelDraft
from llmux.drafting.gguf import resources_of
from llmux.drafting.gpus import Gpu

__all__ = ["blank_draft"]


def blank_draft(gpus: list[Gpu]) -> Draft:
    """
    Return a draft with one model in it.

    @param gpus: the GPUs of this machine, for C{resources}.
    """
    keys, suggestions = resources_of(gpus)
    model = ModelDraft(
        "my-model",
        {"serve": "llama-server --port $LLMUX_PORT -m my-model.gguf"},
        remarks=[
            "What requests call it, and the command that serves it: any server with an "
            "OpenAI-compatible API. llmux starts it when a request names the model, and asks "
            "GET /health until it says 200."
        ],
        suggestions=[
            "health: /v1/models          # another path to ask",
            "stop_secs: 10               # from SIGTERM to SIGKILL when it is to sleep",
            "idle_sleep_secs: 600        # sleep when nobody has asked for so long",
            "aliases: [gpt-4o-mini]      # more names for it",
        ],
    )
    remarks = [
        "What llmux serves. llmux check says whether it is sound; llmux runs it. The README "
        "lists every key; llmux schema knows them too.",
    ]
    closing = [
        "Or scripts, for what is no child of llmux: a container, another machine's server.",
        "another-model:",
        "  port: 8002",
        "  wake: docker start another-model",
        "  sleep: docker stop another-model",
    ]
    draft = Draft([model], remarks, {"port": 3000} | keys, suggestions, closing)
    for directory in ".", "models":
        if any(Path(directory).glob("*.gguf")):
            draft.hints.append(
                f"there are GGUF files in {directory}: llmux init --from gguf {directory} "
                "-o FILE writes a line for each"
            )
    return draft
