"""
These tests check what a configuration says of names and bodies, and how mistakes in it are
reported.
"""

from __future__ import annotations

import pytest

from llmux.command.checking.check import describe
from llmux.config import ConfigError, parse_config
from llmux.config.name_values import ModelMetadata, VariantConfig

HEAD = """
models:
  b: {port: 2, wake: w, sleep: s, alive: a, aliases: [x]}
  a:
    port: 1
    wake: w
    sleep: s
    alive: a
"""


def fault(lines: str) -> str:
    text = HEAD + "".join(f"    {line}\n" for line in lines.split("\n"))
    with pytest.raises(ConfigError) as raised:
        parse_config(text.encode(), "c.yaml")
    return str(raised.value)


def test_every_key_of_names_is_read() -> None:
    config = parse_config(
        (
            HEAD
            + """
    aliases: [gpt-4o-mini, "y:1"]
    backend_model: Qwen/Qwen3-30B
    strip: [top_k]
    defaults: {max_tokens: 4096, stop: null}
    set: {temperature: 0.7, chat_template_kwargs: {thinking: [true]}}
    variants:
      "a:high": {set: {reasoning_effort: high}, strip: [x], defaults: {n: 1}, backend_model: h}
      "a:plain": {}
    listed: false
    metadata: {context: 32768, in: [text, image], tools: true, description: "…"}
"""
        ).encode(),
        "c.yaml",
    )
    a = config.models["a"]
    assert (a.aliases, a.backend_model) == (("gpt-4o-mini", "y:1"), "Qwen/Qwen3-30B")
    assert (a.strip, a.defaults) == (("top_k",), {"max_tokens": 4096, "stop": None})
    assert a.set == {"temperature": 0.7, "chat_template_kwargs": {"thinking": [True]}}
    assert a.variants == {
        "a:high": VariantConfig(
            set={"reasoning_effort": "high"}, strip=("x",), defaults={"n": 1}, backend_model="h"
        ),
        "a:plain": VariantConfig(),
    }
    assert not a.listed
    assert a.metadata == ModelMetadata(
        context=32768, inputs=("text", "image"), tools=True, description="…"
    )
    assert config.names() == {
        "a": "a",
        "b": "b",
        "x": "b",
        "gpt-4o-mini": "a",
        "y:1": "a",
        "a:high": "a",
        "a:plain": "a",
    }


def test_a_model_has_no_further_names_by_default() -> None:
    b = parse_config(HEAD.encode(), "c.yaml").models["a"]
    assert (b.aliases, b.backend_model, b.strip, b.defaults, b.set) == ((), None, (), {}, {})
    assert (b.variants, b.listed, b.metadata) == ({}, True, ModelMetadata())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "aliases: [b]",
            'models.a.aliases[0]: "b" is the name of a model; remove it here, or give one of '
            "the two another name",
        ),
        (
            "aliases: [q, a]",
            'aliases[1]: "a" is the model\'s own name; remove it here',
        ),
        (
            "aliases: [q, x]",
            'models.a.aliases[1]: "x" is an alias of "b" already; remove one of the two',
        ),
        ("aliases: [q, q]", '"q" is an alias of "a" already; remove one of the two'),
        (
            "variants: {x: {}}",
            'models.a.variants.x: "x" is an alias of "b" already; remove one of the two',
        ),
        ("variants: {b: {}}", 'models.a.variants.b: "b" is the name of a model;'),
        ("aliases: q", 'the string "q" is not a list of names; give one, as in [gpt-4o-mini]'),
        ('aliases: [" "]', "models.a.aliases[0]: a name is empty; give the name that"),
        ('aliases: ["a\\nb"]', "models.a.aliases[0]: the name holds a control character"),
        ("aliases: [1]", "what is at [0] is not a string"),
        ("backend_model: 7", "models.a.backend_model: 7 is not a name; "),
        (
            "strip: top_k",
            '"top_k" is not a list of a JSON body\'s keys; give one, as',
        ),
        (
            "set: [t]",
            "a list is not a mapping of a JSON body's keys to values; give one, as",
        ),
        (
            "set: {model: q}",
            "models.a.set: it holds the key model; remove it; backend_model says what the "
            "backend is told",
        ),
        ("strip: [model]", "models.a.strip: it holds the key model"),
        ("variants: {v: {defaults: {model: q}}}", "models.a.variants.v.defaults: it holds"),
        ("variants: [v]", "models.a.variants: a list is not a mapping of names to variants"),
        ("variants: {v: high}", 'models.a.variants.v: "high" is not a mapping; give one with'),
        (
            "variants: {v: {sets: {}}}",
            "a.variants.v.sets: unknown key; did you mean set?",
        ),
        (
            "metadata: {contxt: 1}",
            "a.metadata.contxt: unknown key; did you mean context?",
        ),
        ("metadata: {context: 0}", "models.a.metadata.context: 0 is not a number of tokens;"),
        ("metadata: {in: text}", "models.a.metadata.in: "),
        (
            "metadata: 5",
            "a.metadata: 5 is not a mapping; give one with some of context,",
        ),
        ("listed: 1", "models.a.listed: 1 is not true or false"),
    ],
)
def test_what_is_wrong_is_told_with_its_key_and_a_remedy(lines: str, said: str) -> None:
    message = fault(lines)
    assert said in message
    assert "\n" not in message


def test_check_tells_further_names() -> None:
    text = HEAD + "    aliases: [q, r]\n    variants: {'a:v': {}}\n    backend_model: org/A\n"
    lines = list(describe(parse_config(text.encode(), "c.yaml")))
    assert "  called  q, r, a:v as well" in lines
    assert "  told    its backend as org/A" in lines
    assert "  called  x as well" in lines
