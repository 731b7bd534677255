"""
This module has the names by which requests call models: the models' own names, their aliases,
their variants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmux.config import ModelConfig
from llmux.proxy.naming.body_plan import BodyPlan, EditStep, body_plan

__all__ = ["CalledModel", "Names", "names_of"]


@dataclass(frozen=True, slots=True)
class CalledModel:
    """
    A L{CalledModel} is what a name stands for.

    @ivar model: the model's own name.
    @ivar plan: what this name changes in a body; None for nothing.
    """

    model: str
    plan: BodyPlan | None


Names = Mapping[str, CalledModel]
"""L{Names} are all names that requests may give, and what each stands for."""


def names_of(models: Mapping[str, ModelConfig]) -> Names:
    """Return what the names of these models stand for."""
    names: dict[str, CalledModel] = {}
    for name, model in models.items():
        own = EditStep(model.strip, model.defaults, model.set)
        called = CalledModel(name, body_plan([own], model.backend_model))
        names[name] = called
        for alias in model.aliases:
            names[alias] = called
        for variant_name, variant in model.variants.items():
            # A variant's default replaces the model's.
            base = EditStep(model.strip, {**model.defaults, **variant.defaults}, model.set)
            further = EditStep(variant.strip, variant.defaults, variant.set)
            told = variant.backend_model or model.backend_model
            names[variant_name] = CalledModel(name, body_plan([base, further], told))
    return names
