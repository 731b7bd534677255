"""
The checks of models' further names, and of what these change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llmux.config.error import Path, shown
from llmux.config.naming import VariantConfig
from llmux.config.values import ModelConfig

__all__ = ["Fault", "faults_of_changes", "faults_of_names"]

Fault = tuple[Path, str, str]
"""Which key is at fault, what is wrong with it, and what to do about that."""


def faults_of_names(models: Mapping[str, ModelConfig]) -> Iterator[Fault]:
    """Yield what is wrong with aliases and variants: each name must stand for one thing."""
    taken = dict.fromkeys(models, "the name of a model")
    for name, model in models.items():
        path: Path = ("models", name)
        further: list[tuple[Path, str, str]] = [
            ((*path, "aliases", at), alias, "an alias")
            for at, alias in enumerate(model.aliases)
        ]
        further += [((*path, "variants", text), text, "a variant") for text in model.variants]
        for place, text, kind in further:
            if not text.strip():
                yield place, "a name is empty", "give the name that requests use"
            elif not text.isprintable():
                yield place, "the name holds a control character", "remove it"
            elif text == name:
                yield place, f"{shown(text)} is the model's own name", "remove it here"
            elif text in models:
                yield (
                    place,
                    f"{shown(text)} is the name of a model",
                    "remove it here, or give one of the two another name",
                )
            elif text in taken:
                yield place, f"{shown(text)} is {taken[text]} already", "remove one of the two"
            taken[text] = f"{kind} of {shown(name)}"


def faults_of_changes(path: Path, model: ModelConfig | VariantConfig) -> Iterator[Fault]:
    """Yield what is wrong with the changes of a body: the C{model} has a key of its own."""
    for key in "strip", "defaults", "set":
        if "model" in getattr(model, key):
            yield (
                (*path, key),
                "it holds the key model",
                "remove it; backend_model says what the backend is told",
            )
