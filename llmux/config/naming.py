"""
The values of a model's configuration that say how its requests' bodies change, and what
clients are told of it.
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
    The configuration of another name of a model, with changes of its own.

    @ivar backend_model: what the backend is told as C{model}; None: as for the model.
    @ivar strip: keys of a JSON body that go, after all that the model changes.
    @ivar defaults: members of a JSON body where the client gives none, in place of the
        model's defaults for the same keys.
    @ivar set: members of a JSON body, whatever the client gives, after all others.
    """

    backend_model: OptionalName = None
    strip: BodyKeys = ()
    defaults: BodyMembers = {}
    set: BodyMembers = {}


class ModelMetadata(Struct, frozen=True, kw_only=True):
    """
    What clients are told of a model in C{/v1/models}.

    @ivar context: how many tokens its context has.
    @ivar inputs: what it takes: text, image, audio and so on.
    @ivar tools: it can call tools.
    @ivar description: for people.
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
