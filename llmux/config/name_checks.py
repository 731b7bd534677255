"""
This module checks the aliases and variants of models, and the changes that they make to
requests' bodies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llmux.config.error import Path, shown
from llmux.config.name_values import VariantConfig
from llmux.config.values import ModelConfig

__all__ = ["Fault", "faults_of_changes", "faults_of_names"]

Fault = tuple[Path, str, str]
"""A fault is the path of a key, what is wrong with the key's value, and what to do about it."""


def faults_of_names(models: Mapping[str, ModelConfig]) -> Iterator[Fault]:
    """
    Yield what is wrong with aliases and variants: each name must stand for one model or variant
    only.
    """
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
    """
    Yield what is wrong with C{strip}, C{defaults} and C{set}: none of them may hold the key
    C{model}, for which there is C{backend_model}.
    """
    for key in "strip", "defaults", "set":
        if "model" in getattr(model, key):
            yield (
                (*path, key),
                "it holds the key model",
                "remove it; backend_model says what the backend is told",
            )
