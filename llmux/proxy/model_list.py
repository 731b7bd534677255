"""
This module has the list of models, as OpenAI's API has it, with what other servers add and
clients read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from twisted.web.server import Request

from llmux.config import ModelConfig
from llmux.config.name_values import ModelMetadata
from llmux.proxy.read_only import ReadOnly
from llmux.proxy.refusals import RefusalLog, model_not_found
from llmux.switching.facts.model import Model
from llmux.switching.facts.phases import Phase

__all__ = ["ModelList", "listed_names"]

_LOADED = "loaded"
_LOADING = "loading"
_UNLOADED = "unloaded"
_STATUS = {
    Phase.WAKING: _LOADING,
    Phase.AWAKE: _LOADED,
    Phase.DRAINING: _LOADED,
    Phase.CHECKING: _LOADED,
}
"""
Clients are told this status of a model in one of these phases; in all other phases the model is
unloaded.
"""


def listed_names(models: Mapping[str, ModelConfig]) -> list[str]:
    """Return the names that clients are told: those of models and of their variants."""
    return sorted(
        name for own, model in models.items() if model.listed for name in (own, *model.variants)
    )


class ModelList(ReadOnly):
    """
    This Resource is the list of models, as OpenAI's API has it.  Below it each model has a path
    of its own, which is its name, with the slashes in it.  A model that is not listed, and an
    alias, have such a path as well.
    """

    # The answer depends on the rest of the path.
    route_is_stable = False

    def __init__(
        self,
        refusals: RefusalLog,
        models: Mapping[str, ModelConfig],
        switching: Callable[[], Mapping[str, Model]],
    ) -> None:
        """@param switching: a function that returns the switcher's models."""
        super().__init__(refusals)
        self._switching = switching
        self.reconfigure(models)

    def reconfigure(self, models: Mapping[str, ModelConfig]) -> None:
        """List these models from now on."""
        self._listed = listed_names(models)
        # For each name, the part of its entry that does not change, and the model's own name.
        self._entries: dict[str, tuple[dict[str, Any], str]] = {}
        for own, model in models.items():
            for name in (own, *model.aliases, *model.variants):
                entry = {"id": name, "object": "model", "created": 0, "owned_by": "llmux"}
                self._entries[name] = entry | _told(model), own
            if model.aliases:
                self._entries[own][0]["aliases"] = list(model.aliases)

    def read(self, request: Request) -> None:
        """See L{ReadOnly.read}."""
        name = b"/".join(request.postpath or ()).decode("utf-8", "replace")
        document: dict[str, Any]
        if not name:
            document = {"object": "list", "data": [self._entry(name) for name in self._listed]}
        elif name in self._entries:
            document = self._entry(name)
        else:
            self._refusals.answer(request, model_not_found(name))
            return
        self.write(request, b"application/json", json.dumps(document).encode())

    def _entry(self, name: str) -> dict[str, Any]:
        entry, own = self._entries[name]
        model = self._switching()[own]
        value = _STATUS.get(model.phase, _UNLOADED)
        failed = value == _UNLOADED and model.wake_backoff.until > 0
        return entry | {"status": {"value": value, "failed": failed}}


def _told(model: ModelConfig) -> dict[str, Any]:
    """Return what a configuration says of a model, under the keys that clients know."""
    told: dict[str, Any] = {}
    metadata = model.metadata
    if metadata.description is not None:
        told["description"] = metadata.description
    if metadata.context is not None:
        # The first key is vLLM's, which Continue and Cline read; the second llama.cpp's, which
        # pi and Hermes read; the third OpenRouter's.
        told["max_model_len"] = metadata.context
        told["meta"] = {"n_ctx": metadata.context}
        told["context_length"] = metadata.context
    return told | _abilities(metadata)


def _abilities(metadata: ModelMetadata) -> dict[str, Any]:
    """Return what a model takes and can do, in the form of OpenRouter's API."""
    told: dict[str, Any] = {}
    if metadata.inputs:
        told["architecture"] = {"input_modalities": list(metadata.inputs)}
    if metadata.tools is not None:
        told["supported_parameters"] = ["tools", "tool_choice"] if metadata.tools else []
    return told
