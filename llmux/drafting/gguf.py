"""
This module drafts a configuration in which C{llama-server} serves each GGUF file of a
directory.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmux.config.error import printable
from llmux.drafting.draft import Draft, DraftError, ModelDraft, flow, size_in_words
from llmux.drafting.gguf_header import NotGguf, read_header
from llmux.drafting.gpus import Gpu

__all__ = ["draft_of_directory", "resources_of"]

_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANTIZATION = re.compile(
    r"[-._](?:ud[-_])?(?:i?q\d\w*|tq\d\w*|mxfp\d\w*|nvfp\d\w*|b?f16|f32|fp16|fp32)$",
    re.IGNORECASE,
)
_PROJECTOR = re.compile(r"[-._]?mmproj[-._]?", re.IGNORECASE)
_PRECISIONS = ("f16", "bf16", "f32", "q8_0")
"""
If there are several projectors, the first in this order is taken, and any of these before
others.
"""

_RANK = 4
"""llama.cpp gives this number to the pooling of a model that ranks documents."""


@dataclass
class _ModelFile:
    """
    A L{_ModelFile} is one model of the directory.

    @ivar path: the model's file, or the first of its parts.
    @ivar size: the size of all parts and of the projector, in bytes.
    @ivar stem: the file's name without what tells parts apart.
    """

    path: Path
    size: int
    stem: str
    header: dict[str, Any] = field(default_factory=dict)
    projector: Path | None = None

    @property
    def plain(self) -> str:
        """Return the model's name without its quantization."""
        return _plain(_QUANTIZATION.sub("", self.stem))


def draft_of_directory(directory: str, base: str | None, gpus: list[Gpu]) -> Draft:
    """
    Return a draft with a model for each GGUF file under a directory.

    @param base: the directory of the configuration; files under it get relative names.  None
        for absolute names.
    @raise DraftError: there is no such file, or no such directory.
    """
    if not os.path.isdir(directory):
        raise DraftError(
            f"{printable(directory)} is not a directory; name one that holds GGUF files"
        )
    left_out: list[str] = []
    found = _models(Path(directory), left_out)
    if not found:
        reasons = "".join(f"\n  {sentence}" for sentence in left_out)
        raise DraftError(
            f"{printable(directory)} holds no GGUF file that is a model; "
            f"name another directory{reasons}"
        )
    names = _names(found)
    models = [_model(names[at], model, base, gpus) for at, model in enumerate(found)]
    remarks = [
        f"The models of {os.path.abspath(directory)}, served by llama.cpp's llama-server.",
        "Each line is a command for the shell: options of llama-server (context size, GPU "
        "layers, chat template) go behind it. llmux gives LLMUX_PORT, starts the command "
        "when a request names the model, and stops it when another model needs the room.",
    ]
    keys, suggestions = resources_of(gpus)
    draft = Draft(models, remarks, keys, suggestions, left_out=left_out)
    if shutil.which("llama-server") is None:
        draft.hints.append("llama-server is not on the PATH: write its whole path in each line")
    return draft


def resources_of(gpus: list[Gpu]) -> tuple[dict[str, Any], list[str]]:
    """Return C{resources} for the GPUs of a machine, and the comment that explains them."""
    if not gpus:
        return {}, [
            "One model is awake at a time. For several at once, say what there is, in any unit",
            "(here GiB), and what each model needs:",
            "resources: {gpu0: 24}",
        ]
    named = ", ".join(f"{gpu.name} ({gpu.gib} GiB)" for gpu in gpus)
    return {"resources": {_resource(gpu, gpus): gpu.gib for gpu in gpus}}, [
        f"GiB of memory: {named}.",
        "A model without needs has all of it for itself; with needs, models that fit together",
        "are awake together.",
    ]


def _resource(gpu: Gpu, gpus: list[Gpu]) -> Any:
    # If there are several GPUs, their resources are numbers, so that LLMUX_RESOURCES can serve
    # as CUDA_VISIBLE_DEVICES.
    return gpu.index if len(gpus) > 1 else gpu.resource


def _model(name: str, found: _ModelFile, base: str | None, gpus: list[Gpu]) -> ModelDraft:
    words = [
        "llama-server",
        "--port",
        "$LLMUX_PORT",
        "-m",
        shlex.quote(_shown(found.path, base)),
    ]
    if found.projector is not None:
        words += ["--mmproj", shlex.quote(_shown(found.projector, base))]
    architecture = found.header.get("general.architecture", "")
    pooling = found.header.get(f"{architecture}.pooling_type")
    if pooling:
        words.append("--reranking" if pooling == _RANK else "--embeddings")
    if len(gpus) > 1:
        if len({(gpu.name, gpu.gib) for gpu in gpus}) > 1:
            # nvidia-smi numbers GPUs by their place on the bus; CUDA gives the fastest the
            # first number.
            words.insert(0, "CUDA_DEVICE_ORDER=PCI_BUS_ID")
        words.insert(0, "CUDA_VISIBLE_DEVICES=$LLMUX_RESOURCES")
    size = found.size / 2**30
    suggestions = []
    if gpus:
        guess = f"a guess: {size_in_words(found.size)} of weights, and the context"
        suggestions.append(f"needs: {flow(_needs(size, gpus))}   # {guess}")
    return ModelDraft(
        name,
        {"serve": " ".join(words)},
        remarks=[] if gpus else [f"{size_in_words(found.size)} of weights."],
        suggestions=suggestions,
    )


def _needs(size: float, gpus: list[Gpu]) -> Any:
    """
    Guess what a model with weights of C{size} GiB needs: a tenth and one GiB more, on one GPU
    or spread over all.
    """
    wanted = math.ceil(size * 1.1 + 1)
    fitting = [gpu for gpu in gpus if gpu.gib >= wanted]
    places = [{_resource(gpu, gpus): wanted} for gpu in fitting]
    if len(places) == 1:
        return places[0]
    if places:
        return places
    each = math.ceil(wanted / len(gpus))
    return {_resource(gpu, gpus): min(each, gpu.gib) for gpu in gpus}


def _shown(path: Path, base: str | None) -> str:
    absolute = os.path.abspath(path)
    if base is None:
        return absolute
    relative = os.path.relpath(absolute, os.path.abspath(base))
    return absolute if relative.startswith(os.pardir) else relative


def _plain(text: str) -> str:
    """Return a text as a name that needs no quotes in a shell, a URL or a YAML file."""
    return re.sub(r"[^\w.-]+", "-", text.lower()).strip("-.") or "model"


def _names(found: list[_ModelFile]) -> list[str]:
    """Return a name for each model: as short as possible, and different from all others."""
    plain = [model.plain for model in found]
    names = [
        model.plain if plain.count(model.plain) == 1 else _plain(model.stem) for model in found
    ]
    names = [
        f"{_plain(model.path.parent.name)}/{name}" if names.count(name) > 1 else name
        for name, model in zip(names, found, strict=True)
    ]
    taken: set[str] = set()
    for at, name in enumerate(names):
        number = 2
        while names[at] in taken:
            names[at] = f"{name}-{number}"
            number += 1
        taken.add(names[at])
    return names


def _models(directory: Path, left_out: list[str]) -> list[_ModelFile]:
    """Return the models under a directory, sorted by their paths."""
    models: list[_ModelFile] = []
    for folder, _, files in sorted(os.walk(directory)):
        here: list[_ModelFile] = []
        projectors: list[Path] = []
        for path, size in _whole(Path(folder), sorted(files), left_out):
            stem = _PART.sub("", path.stem)
            try:
                header = read_header(path)
            except (OSError, NotGguf) as e:
                left_out.append(f"{path}: {getattr(e, 'strerror', None) or e}.")
                continue
            kind = header.get("general.type", "model")
            if (
                kind == "mmproj"
                or header.get("general.architecture") == "clip"
                or _PROJECTOR.search(stem)
            ):
                projectors.append(path)
            elif kind != "model" or stem.lower().endswith("imatrix"):
                left_out.append(f"{path}: of the kind {printable(str(kind))}, no model.")
            else:
                here.append(_ModelFile(path, size, stem, header))
        _give_projectors(here, projectors, left_out)
        models += here
    return models


def _whole(folder: Path, files: Iterable[str], left_out: list[str]) -> list[tuple[Path, int]]:
    """
    Return the GGUF files of a directory with their sizes in bytes; a model in several parts
    appears once.
    """
    parts: dict[tuple[str, int], dict[int, Path]] = {}
    sizes: list[tuple[Path, int]] = []
    for name in files:
        path = folder / name
        if path.suffix.lower() != ".gguf":
            continue
        if not name.isprintable() or not path.is_file():
            left_out.append(f"{path}: it cannot be read.")
        elif match := _PART.search(path.stem):
            whole = path.stem[: match.start()], int(match[2])
            parts.setdefault(whole, {})[int(match[1])] = path
        else:
            sizes.append((path, path.stat().st_size))
    for (stem, count), found in parts.items():
        missing = [str(at) for at in range(1, count + 1) if at not in found]
        if missing:
            left_out.append(
                f"{folder / stem}: of {count} parts {', '.join(missing[:5])} are missing."
            )
        else:
            sizes.append((found[1], sum(part.stat().st_size for part in found.values())))
    return sorted(sizes)


def _give_projectors(
    models: list[_ModelFile], projectors: list[Path], left_out: list[str]
) -> None:
    """
    Give each projector to the models of the same directory whose names match the projector's.
    """
    for model in models:
        fitting = [path for path in projectors if _fits(path, model)]
        if fitting:
            model.projector = min(fitting, key=_precision)
            model.size += model.projector.stat().st_size
    for path in projectors:
        if not any(_fits(path, model) for model in models):
            left_out.append(f"{path}: no model beside it has its name.")


def _fits(projector: Path, model: _ModelFile) -> bool:
    name = _QUANTIZATION.sub("", _PROJECTOR.sub("-", projector.stem).lower()).strip("-._")
    name = _QUANTIZATION.sub("", f"-{name}").strip("-._")
    return name in ("", "model") or model.plain.startswith(name) or name.startswith(model.plain)


def _precision(path: Path) -> tuple[int, str]:
    stem = path.stem.lower()
    found = [at for at, word in enumerate(_PRECISIONS) if re.search(rf"\b{word}\b", stem)]
    return (found[0] if found else len(_PRECISIONS), stem)
