"""
This module has the values of a model's configuration that say how the bodies of its requests
change, and what clients are told of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

__all__ = ["BodyKeys", "BodyMembers", "ModelMetadata", "OptionalName", "VariantConfig"]

_BodyKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        title="a key of a JSON body",
        description="give one of 1 to 256 characters",
    ),
]
BodyKeys = Annotated[
    tuple[_BodyKey, ...],
    Meta(title="a list of a JSON body's keys", description="give one, as in [top_k, min_p]"),
]
BodyMembers = Annotated[
    Mapping[_BodyKey, Any],
    Meta(
        title="a mapping of a JSON body's keys to values",
        description="give one, as in {max_tokens: 4096}",
    ),
]
OptionalName = Annotated[
    Annotated[str, Meta(min_length=1)] | None,
    Meta(title="a name", description="give one, in quotes, or leave it out"),
]


class VariantConfig(Struct, frozen=True, kw_only=True):
    """
    A variant is another name of a model, with changes of its own to the bodies of requests.

    @ivar backend_model: what the backend is told as C{model}; if None, what the model's own
        C{backend_model} says.
    @ivar strip: keys that are removed from a JSON body, after all that the model changes.
    @ivar defaults: members that a JSON body gets where the client gives none; they replace the
        model's defaults for the same keys.
    @ivar set: members that a JSON body gets whatever the client gives, after all other changes.
    """

    backend_model: OptionalName = None
    strip: BodyKeys = ()
    defaults: BodyMembers = {}
    set: BodyMembers = {}


class ModelMetadata(Struct, frozen=True, kw_only=True):
    """
    This metadata is what clients are told of a model in C{/v1/models}.

    @ivar context: the size of the model's context, in tokens.
    @ivar inputs: what the model takes: text, image, audio and so on.
    @ivar tools: whether the model can call tools.
    @ivar description: a text about the model, for people.
    """

    context: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(title="a number of tokens", description="give a whole number, 1 or more"),
    ] = None
    inputs: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(title="a list of kinds of input", description="give one, as in [text, image]"),
    ] = msgspec.field(name="in", default=())
    tools: Annotated[
        bool | None,
        Meta(title="true or false", description="give one of them, without quotes"),
    ] = None
    description: Annotated[
        str | None,
        Meta(title="a description", description="give a text, in quotes"),
    ] = None
