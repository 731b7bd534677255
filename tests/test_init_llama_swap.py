"""
These tests check C{llmux init --from llama-swap}: llmux does what a configuration says, or says
what it does not do.
"""
# ruff: noqa: E501

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmux.command.main import main
from llmux.config import Config, load_config, parse_config
from llmux.drafting.draft import Draft, ModelDraft
from llmux.drafting.llama_swap import draft_of_llama_swap

from .llama_swap_files import EVERY_KEY, FILES

ENVIRONMENT = {
    "LLMUX_TEST_HOME": "/srv",
    "LLMUX_TEST_ARGS": "--ctx-size 4096  -ngl 99",
    "LLMUX_TEST_TOKEN": "hf_$1",
}


def draft(tmp_path: Path, text: str) -> Draft:
    (tmp_path / "swap.yaml").write_text(text)
    return draft_of_llama_swap(str(tmp_path / "swap.yaml"), ENVIRONMENT)


def model(found: Draft, name: str) -> ModelDraft:
    return next(each for each in found.models if each.name == name)


def words_of(serve: str, tmp_path: Path, **environment: str) -> list[str]:
    """Run a command for the shell, and return the words that it runs, C{env} left out."""
    programs = tmp_path / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("llama-server", "docker", "whisper-server", "bash", "sd-server", "ssh"):
        path = programs / name
        path.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            "print(json.dumps([*sys.argv, os.environ.get('CUDA_VISIBLE_DEVICES')]))\n"
        )
        path.chmod(0o755)
    ended = subprocess.run(
        ["sh", "-c", serve],
        env={
            **os.environ,
            **ENVIRONMENT,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "LLMUX_PORT": "5801",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    words: list[str] = json.loads(ended.stdout)
    return [os.path.basename(words[0]), *words[1:]]


@pytest.mark.parametrize("name", [*FILES, "every key"])
def test_what_is_made_of_a_file_is_sound(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    Path("swap.yaml").write_text((FILES | {"every key": EVERY_KEY})[name])
    assert main(["init", "--from", "llama-swap", "swap.yaml"]) == 0
    said = capsys.readouterr()
    text = Path("config.yaml").read_text()
    config: Config = load_config("config.yaml")
    assert main(["check"]) == 0
    assert f"{len(config.models)} model" in said.out
    # What is left out is said in both places, and no key is.
    for line in said.err.splitlines():
        assert line.startswith("left out: ")
        assert " ".join(line.removeprefix("left out: ").split()[:3]) in text
    assert "sk-" not in text + said.err


def test_a_word_arrives_as_it_did_there(tmp_path: Path) -> None:
    def words(file: str, name: str) -> list[str]:
        serve = model(draft(tmp_path, FILES[file]), name).keys["serve"]
        return words_of(serve, tmp_path)

    assert words("one line", "tiny") == [
        "llama-server", "--port", "5801", "-m", "/models/tiny.gguf", None
    ]  # fmt: skip
    assert words("fixed ports, profiles", "coder")[1:] == [
        "--host", "127.0.0.1", "--port", "8999", "--samplers", "top_k;top_p",
        "-m", "/models/coder.gguf", "0",
    ]  # fmt: skip
    assert words("JSON in an argument", "qwen3:30b-a3b")[3:6] == [
        "--jinja", "--chat-template-kwargs", '{"enable_thinking": false}'
    ]  # fmt: skip
    assert words("whisper", "whisper")[-3:] == ["--inference-path", "", None]
    assert words("backslashes and comments", "long") == [
        "llama-server", "--port", "5801", "--ctx-size", "8192", "-m", "/models/long.gguf", None
    ]  # fmt: skip
    assert words("a shell of its own", "exl")[1:3] == [
        "-c", 'cd "$HOME/tabby" && exec python main.py --port 5801'
    ]  # fmt: skip
    assert words("the environment", "a")[1:] == [
        "--port", "5801", "-m", "/srv/models/a.gguf", "--ctx-size", "4096", "-ngl", "99", None
    ]  # fmt: skip
    assert words("macros of a model", "small")[3:5] == ["--ctx-size", "4096"]
    assert words("macros of a model", "large")[3:7] == ["--ctx-size", "16384", "--temp", "0.7"]
    assert words("anchors and merges", "two")[-2] == "2.gguf"
    assert words("another machine", "far")[:2] == ["ssh", "gpu"]


def test_secrets_of_the_environment_stay_there(tmp_path: Path) -> None:
    found = draft(tmp_path, FILES["vLLM in docker"])
    assert "hf_" not in found.text()
    assert '"HF_TOKEN=$LLMUX_TEST_TOKEN"' in found.models[0].keys["serve"]


def test_a_container_is_stopped_by_its_own_command(tmp_path: Path) -> None:
    serve = model(draft(tmp_path, FILES["docker"]), "boxed").keys["serve"]
    lines = serve.splitlines()
    assert lines[0] == "trap 'docker stop boxed' TERM"
    assert words_of("\n".join(lines[1:]), tmp_path)[:9] == [
        "docker", "run", "--name", "boxed", "--init", "--rm", "-p", "5801:8080", "-v"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "name", "keys"),
    [
        ("fixed ports, profiles", "coder", {"port": 8999, "aliases": ["code"], "wake_timeout_secs": 300}),
        ("a macro for the server", "large", {"idle_sleep_secs": 300, "strip": ["temperature", "top_p"]}),
        ("a macro for the server", "little", {"listed": False}),
        ("docker", "boxed", {"stop_secs": 30}),
        ("vLLM in docker", "Qwen/Qwen3-8B", {"stop_secs": 60, "health": "/v1/models", "wake_timeout_secs": 900}),
        ("whisper", "whisper", {"health": "/v1/audio/transcriptions/"}),
        ("no health to ask", "image", {"port": 9999}),
        ("anchors and merges", "one", {"idle_sleep_secs": 600}),
        ("anchors and merges", "two", {"idle_sleep_secs": 60}),
        ("another machine", "far", {"host": "10.0.0.7", "port": 8443}),
        (
            "variants",
            "oss",
            {
                "first_byte_timeout_secs": 60,
                "backend_model": "openai/gpt-oss",
                "aliases": ["gpt"],
                "strip": ["top_k"],
                "set": {"temperature": 1.0, "reasoning_effort": "medium"},
                "variants": {
                    "oss:high": {"set": {"reasoning_effort": "high"}},
                    "oss:low": {"set": {"reasoning_effort": "low"}},
                },
                "metadata": {
                    "context": 131072, "in": ["text"], "tools": True, "description": "thinks"
                },
            },
        ),
    ],
)  # fmt: skip
def test_what_is_said_of_a_model(
    tmp_path: Path, file: str, name: str, keys: dict[str, Any]
) -> None:
    found = dict(model(draft(tmp_path, FILES[file]), name).keys)
    del found["serve"]
    assert found == keys


@pytest.mark.parametrize(
    ("file", "together"),
    [
        ("a group that stays, a group that swaps", ["embed rerank a", "embed rerank b"]),
        ("a group of several, against the rest", ["s1 s2 s3", "large", "huge"]),
        ("two GPUs, a group for each", ["left1 right1", "left1 right2", "left2 right1", "left2 right2"]),
        ("matrix", ["gemma voice rank", "qwen voice rank", "seventy"]),
        ("routing", ["gemma paint", "qwen paint"]),
    ],
)  # fmt: skip
def test_exactly_what_was_loaded_together_fits_together(
    tmp_path: Path, file: str, together: list[str]
) -> None:
    found = draft(tmp_path, FILES[file])
    names = [each.name for each in found.models]
    sets = [set(each.split()) for each in together]
    sizes = range(2, len(names) + 1)
    for part in chain.from_iterable(combinations(names, size) for size in sizes):
        fits = all(
            sum(model(found, name).keys["needs"].get(resource, 0) for name in part) <= capacity
            for resource, capacity in found.keys["resources"].items()
        )
        assert fits == any(set(part) <= each for each in sets), part


def test_without_a_rule_one_model_is_awake_at_a_time(tmp_path: Path) -> None:
    for name in "one line", "docker", "what is wrong is left out":
        found = draft(tmp_path, FILES[name])
        assert "resources" not in found.keys
        assert all("needs" not in each.keys for each in found.models)


@pytest.mark.parametrize(
    ("file", "sentences"),
    [
        ("one line", []),
        ("fixed ports, profiles", ["logLevel: llmux -v logs more.", "profiles: a mapping has no counterpart."]),
        ("no health to ask", ["models.image.checkEndpoint: none: llmux asks GET /health; set health to a path of the server."]),
        ("the environment", ["models.a.name: the macro env.LLMUX_TEST_HOST has no value."]),
        (
            "a group of several, against the rest",
            ['groups: description of "small" has no counterpart.'],
        ),
        (
            "matrix",
            ["matrix: evict_costs: llmux measures what switches cost."],
        ),
        (
            "two GPUs, a group for each",
            [
                'groups: "gone" of "gpu-right" is no model.',
                "groups: groups that are not exclusive, or persistent, stay awake beside all others, in whichever order models are asked for.",
            ],
        ),
        (
            "another machine",
            [
                "models.far.proxy: https: backends are asked by http.",
                'models.far.proxy: the path "/base": paths are passed as they are.',
            ],
        ),
        (
            "what is wrong is left out",
            [
                'models.good.aliases: "" is no name.',
                "models.bad.cmd: the macro NOT_DEFINED is not defined.",
                "models.quote.cmd: a quote is not closed.",
                "models.none.cmd: it is missing.",
                'models.text: "llama-server" is not a model.',
                'groups: "bad" of "all" is no model.',
                "frobnicate: 1 has no counterpart.",
            ],
        ),
        (
            "keys, peers, preload",
            [
                'hooks.on_startup.preload: "gone" is no model.',
                "apiKeys: 1 key: who can connect may use every model; let llmux listen on loopback, behind a proxy that asks for keys.",
                "peers.cloud: its 2 models are elsewhere: llmux serves its own only.",
                "startPort: a free port is found for each model when it wakes.",
                "sendLoadingState: replies are passed on as they are.",
                "includeAliasesInList: an alias stands in its model's entry.",
            ],
        ),
    ],
)  # fmt: skip
def test_what_is_left_out_is_said(tmp_path: Path, file: str, sentences: list[str]) -> None:
    assert draft(tmp_path, FILES[file]).left_out == sentences


def test_an_alias_that_is_a_model_is_left_out(tmp_path: Path) -> None:
    found = draft(
        tmp_path,
        "models:\n"
        "  a: {cmd: 'x ${PORT}', aliases: [b, c]}\n"
        "  b: {cmd: 'x ${PORT}', aliases: [c]}\n",
    )
    assert model(found, "a").keys["aliases"] == ["c"]
    assert "aliases" not in model(found, "b").keys
    assert found.left_out == [
        'models.a.aliases: "b" is taken.',
        'models.b.aliases: "c" is taken.',
    ]


def test_models_to_preload_are_carried_over(tmp_path: Path) -> None:
    assert draft(tmp_path, FILES["keys, peers, preload"]).keys["preload"] == ["b"]


@pytest.mark.parametrize(
    ("groups", "preload", "kept"),
    [
        ("{}", "[a, b, c]", ["c"]),
        ("{g: {swap: false, members: [a, b]}}", "[a, b]", ["a", "b"]),
        ("{g: {swap: false, members: [a, b]}}", "[c, a, b]", ["a", "b"]),
        ("{g: {swap: false, exclusive: false, members: [a]}}", "[a, b, c]", ["a", "c"]),
    ],
)
def test_of_what_is_preloaded_that_stays_which_stayed_there(
    tmp_path: Path, groups: str, preload: str, kept: list[str]
) -> None:
    models = ", ".join(f"{name}: {{cmd: 'x ${{PORT}}'}}" for name in "abc")
    hooks = f"{{on_startup: {{preload: {preload}}}}}"
    found = draft(tmp_path, f"models: {{{models}}}\ngroups: {groups}\nhooks: {hooks}\n")
    assert found.keys["preload"] == kept
    (tmp_path / "c.yaml").write_text(found.text())
    assert load_config(str(tmp_path / "c.yaml")).preload == tuple(kept)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("models: {}", "swap.yaml has no model"),
        ("port: 3000", "swap.yaml holds no models: is it llama-swap's configuration?"),
        ("models: {a: {}}", "none of the models could be carried over: models.a.cmd: it is missing."),
        ("a: [", "swap.yaml: line 2, column 1 is not YAML"),
        (None, "swap.yaml cannot be read: no such file or directory"),
    ],
)  # fmt: skip
def test_what_is_no_such_configuration_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("swap.yaml").write_text(text)
    assert main(["init", "--from", "llama-swap", "swap.yaml"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"llmux init: {problem}")
    assert err.count("\n") == 1
    assert not Path("config.yaml").exists()


def places(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """
    Yield the paths of all keys of a document, down to where names and values are the user's.
    """
    users = (
        "macros",
        "profiles",
        "peers",
        "setParams",
        "metadata",
        "ui",
        "store",
        "performance",
        "upstream",
    )
    for key, value in document.items():
        yield (*path, key)
        if isinstance(value, dict) and key not in users:
            yield from places(value, (*path, key))


def without(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(document)
    target = changed
    for key in path[:-1]:
        target = target[key]
    del target[path[-1]]
    return changed


EVERY_PLACE = [
    path
    for path in places(yaml.safe_load(EVERY_KEY))
    # Without these keys there is nothing to carry over, or nothing that refers to them.
    if path
    not in (("models",), ("models", "main"), ("macros",), ("hooks",), ("models", "other"))
    and path[-1] not in ("cmd", "models", "members", "on_startup")
]


@pytest.mark.parametrize("path", EVERY_PLACE, ids=".".join)
def test_no_key_is_left_out_in_silence(tmp_path: Path, path: tuple[str, ...]) -> None:
    """
    Each key makes a difference to the made configuration, or to the list of what is left out.
    """
    document = yaml.safe_load(EVERY_KEY)
    # llmux need not mention a value that is llama-swap's default.
    if path == ("groups", "pair", "exclusive"):
        document["groups"]["pair"]["exclusive"] = False
    with_it = draft(tmp_path, yaml.safe_dump(document, sort_keys=False))
    without_it = draft(tmp_path, yaml.safe_dump(without(document, path), sort_keys=False))
    assert with_it.text() != without_it.text()


def test_a_server_that_may_take_long_to_end_has_that_time(tmp_path: Path) -> None:
    found = draft(tmp_path, "unloadTimeout: 400\nmodels: {m: {cmd: 'x ${PORT}'}}\n")
    assert found.models[0].keys["sleep_timeout_secs"] == 500
    parse_config(found.text().encode(), "c.yaml")


def test_macros_that_refer_to_each_other_are_no_endless_loop(tmp_path: Path) -> None:
    found = draft(
        tmp_path,
        "macros: {a: '${b}', b: '${a}', c: '${c}'}\n"
        "models:\n"
        "  m: {cmd: 'x ${PORT} ${a}', name: '${c}'}\n"
        "  n: {cmd: 'x ${PORT}', name: '${a} ${b} ${c}'}\n",
    )
    assert [each.name for each in found.models] == ["n"]
    assert found.left_out == [
        "models.m.cmd: the macro b is not defined.",
        "models.n.name: the macro b has no value.",
    ]


def test_who_may_not_read_the_one_may_not_read_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for mode in 0o600, 0o640, 0o755:
        Path("swap.yaml").write_text(FILES["one line"])
        Path("swap.yaml").chmod(mode)
        assert main(["init", "--from", "llama-swap", "swap.yaml", "-o", f"{mode}.yaml"]) == 0
        assert Path(f"{mode}.yaml").stat().st_mode & 0o777 & ~mode == 0
