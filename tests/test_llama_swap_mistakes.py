"""
These tests check mistakes in a configuration of llama-swap: there is an error of one line, or
what is left is sound.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmux.config import parse_config
from llmux.drafting.draft import DraftError
from llmux.drafting.llama_swap import draft_of_llama_swap

from .llama_swap_files import EVERY_KEY, FILES

pytestmark = pytest.mark.own_cpu("the test converts hundreds of files between two polls")

DOCUMENTS = [yaml.safe_load(text) for text in (*FILES.values(), *[EVERY_KEY] * 10)]

MISTAKES: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 10**30, "", " ", "x", "none", "/", "http://h:0"),
    *("${PORT}", "${PID}", "${env.X}", "${env.MISSING}", "${MODEL_ID}", "a\nb", "\t", "'", "&"),
    *("é\u2028", "(a|b)&c", "+standard", [], [1], [None], ["x", "${MODEL_ID}"], ["a b", ""]),
    *({}, {"a": None}, {"1": [{}]}, {"members": 1}, {"sets": {"a": "("}}),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values within a value."""
    if path:
        yield path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from places(inner, (*path, key))


def with_mistakes(chance: random.Random) -> Any:
    document = copy.deepcopy(chance.choice(DOCUMENTS))
    for _ in range(chance.randint(1, 3)):
        found = list(places(document))
        if found:
            *before, last = chance.choice(found)
            target = document
            for key in before:
                target = target[key]
            target[last] = copy.deepcopy(chance.choice(MISTAKES))
    return document


@pytest.mark.parametrize("seed", range(3))
def test_any_mistake_is_an_error_of_one_line_or_is_left_out(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    made = 0
    for _ in range(100):
        text = yaml.safe_dump(with_mistakes(chance), allow_unicode=True)
        (tmp_path / "swap.yaml").write_text(text)
        try:
            draft = draft_of_llama_swap(str(tmp_path / "swap.yaml"), {"X": "v w"})
        except DraftError as e:
            assert str(e).isprintable()
            continue
        except Exception as e:
            pytest.fail(f"{e!r} of\n{text}")
        parse_config(draft.text().encode(), "config.yaml")
        made += 1
    assert made > 20
