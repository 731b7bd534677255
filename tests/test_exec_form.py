"""These tests check which commands of servers replace their shell."""

from __future__ import annotations

import subprocess

import pytest

from llmux.hooks.serving.exec_form import with_exec


@pytest.mark.parametrize(
    ("script", "form"),
    [
        ("llama-server -m x --port $LLMUX_PORT", "exec llama-server -m x --port $LLMUX_PORT"),
        ("  ./serve.sh\n", "exec ./serve.sh"),
        ("A=1 B=/x,y ./serve", "A=1 B=/x,y exec ./serve"),
        ("serve \\\n  --port 1", "exec serve    --port 1"),
        ('"$HOME/bin/x y" "c&d"', 'exec "$HOME/bin/x y" "c&d"'),
        ("serve >log", "exec serve >log"),
    ],
)
def test_one_simple_command_gets_exec(script: str, form: str) -> None:
    assert with_exec(script) == form


@pytest.mark.parametrize(
    "script",
    [
        "a && b",
        "a; b",
        "a\nb",
        "a &",
        "a | b",
        "a#b; c",
        "cd x",
        "exec a",
        "export A=1",
        "ulimit -n 9",
        "if a; then b; fi",
        "(a)",
        "{ a; }",
        "a $(b; c)",
        "a <<E\nb\nE",
        "a 'b",
        'A="b c" a',
        "A=1",
        "# a",
        "",
        "time a",
    ],
)
def test_anything_else_stays_as_it_is(script: str) -> None:
    assert with_exec(script) == script


def test_the_shell_understands_what_comes_out() -> None:
    for script in ("A=1 printenv A", "  echo 1", "\"echo\" '1'"):
        said = subprocess.run(
            ["/bin/sh", "-c", "--", with_exec(script)], capture_output=True, text=True
        )
        assert said.stdout == "1\n", script
