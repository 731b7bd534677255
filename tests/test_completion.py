"""These tests have the shells themselves complete the command line."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmux.command.command_line import LlmuxOptions
from llmux.command.link.verb_names import VERBS
from llmux.command.main import main
from llmux.command.setup.completion_scripts import SCRIPTS
from llmux.command.setup.described_line import (
    FILE,
    MODEL,
    CommandWords,
    OptionWords,
    describe_line,
)
from tests.daemon import LLMUX

LINE = describe_line(LlmuxOptions())
COMMANDS = {command.name: command for command in LINE.commands}

CONFIG = """
models:
  "qwen3:8b": {port: 8001, wake: w, sleep: s}
  "qwen3:14b": {port: 8002, wake: w, sleep: s}
  "two words": {port: 8003, wake: w, sleep: s}
"""


@pytest.fixture
def shell_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    Make a directory with a configuration, and put a C{llmux} on the PATH that prints its
    arguments.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    llmux = programs / "llmux"
    llmux.write_text(
        "#!/bin/sh\n"
        f'[ "$1 $2" = "completion models" ] && exec {" ".join(LLMUX)} "$@"\n'
        "printf 'words:'; printf '<%s>' \"$@\"; echo\n"
    )
    llmux.chmod(0o755)
    here = tmp_path / "here"
    (here / "conf.d").mkdir(parents=True)
    (here / "config.yaml").write_text(CONFIG)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(here)
    for shell, script in SCRIPTS.items():
        (tmp_path / f"llmux.{shell}").write_text(script(LINE))
    return here


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"there is no {shell}")


class TestDescription:
    def test_every_command_is_in_it(self) -> None:
        assert set(COMMANDS) == {name for name, *_ in LlmuxOptions.subCommands}
        assert set(VERBS) <= set(COMMANDS)
        assert all(command.about for command in LINE.commands)
        assert all(option.about for c in (LINE, *LINE.commands) for option in c.options)

    def test_options_of_a_twisted_parser_are_described(self) -> None:
        options = {option.names[0]: option for option in COMMANDS["check"].options}
        assert options["--config"] == OptionWords(
            ("--config", "-c"),
            "The configuration, YAML or JSON by its extension.",
            takes_value=True,
            needs_value=True,
            values=FILE,
        )
        assert not options["--strict"].takes_value
        (form,) = (o for o in LINE.options if "--log-format" in o.names)
        assert form.values == ("json", "text")

    def test_options_of_an_argparse_parser_are_described(self) -> None:
        options = {option.names[0]: option for option in COMMANDS["init"].options}
        assert options["--from"].values == ("gguf", "llama-swap", "ollama")
        assert COMMANDS["init"].arguments == FILE
        assert COMMANDS["wake"].arguments == MODEL
        wait = next(o for o in COMMANDS["wake"].options if "--wait" in o.names)
        assert (wait.takes_value, wait.needs_value) == (True, False)

    @pytest.mark.parametrize("shell", sorted(SCRIPTS))
    def test_the_command_prints_the_script(
        self, shell: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["completion", shell]) == 0
        assert capsys.readouterr().out == SCRIPTS[shell](LINE)

    @pytest.mark.parametrize("shell", sorted(SCRIPTS))
    def test_text_that_means_something_to_a_shell_is_only_text(
        self, shell: str, tmp_path: Path
    ) -> None:
        if shutil.which(shell) is None:
            pytest.skip(f"there is no {shell}")
        about = r"""it's [a]: $(touch made) `touch made` "b" \n %s"""
        option = OptionWords(("--odd", "-o"), about, True, True, ("x", "y"))
        line = CommandWords(
            "", "", (option,), None, (CommandWords("do", about, (option,), MODEL),)
        )
        path = tmp_path / "script"
        path.write_text(SCRIPTS[shell](line))
        ended = subprocess.run(
            [
                shell,
                "-c",
                f". {path} || exit 9" if shell != "zsh" else f"compdef() {{}}; . {path}",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert not (tmp_path / "made").exists()


@contextmanager
def typed_into(*command: str) -> Iterator[int]:
    """Run a shell in a terminal of its own; what is written to the terminal is as if typed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(PS1="READY ", TERM="dumb", INPUTRC="/dev/null", COLUMNS="200")
        os.execvp(command[0], command)
    try:
        yield terminal
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def read_until(terminal: int, wanted: str, limit: float = 30) -> str:
    """Return what has been shown, up to the end of what is wanted."""
    shown = ""
    deadline = time.monotonic() + limit
    while wanted not in shown:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([terminal], [], [], max(left, 0))
        if not ready:
            pytest.fail(f"{wanted!r} is not shown, but {shown!r}")
        shown += os.read(terminal, 65536).decode("utf-8", "replace")
    return shown


LINES = [
    ("llmux sche\t\r", "words:<schema>"),
    ("llmux check --str\t\r", "words:<check><--strict>"),
    ("llmux -c conf\t.yaml\r", "words:<-c><conf.yaml>"),
    ("llmux init --from lla\t\r", "words:<init><--from><llama-swap>"),
    ("llmux completion fi\t\r", "words:<completion><fish>"),
    ("llmux --log-format js\t\r", "words:<--log-format><json>"),
    ("llmux wake qwen3:1\t\r", "words:<wake><qwen3:14b>"),
    ("llmux -c config.yaml wake qwen3:8\t\r", "words:<-c><config.yaml><wake><qwen3:8b>"),
    ("llmux wake tw\t\r", "words:<wake><two words>"),
]


@needs("bash")
@pytest.mark.parametrize(("typed", "words"), LINES)
def test_bash_completes(shell_directory: Path, typed: str, words: str) -> None:
    with typed_into("bash", "--norc", "--noprofile", "-i") as terminal:
        read_until(terminal, "READY ")
        os.write(terminal, b". ../llmux.bash; echo SOUR''CED\r")
        read_until(terminal, "SOURCED")
        os.write(terminal, typed.encode())
        read_until(terminal, words)


@needs("zsh")
@pytest.mark.parametrize(("typed", "words"), LINES)
def test_zsh_completes(shell_directory: Path, typed: str, words: str) -> None:
    with typed_into("zsh", "-f", "-i") as terminal:
        os.write(terminal, b"autoload -U compinit; compinit -u -D; . ../llmux.zsh\r")
        os.write(terminal, b"echo SOUR''CED\r")
        read_until(terminal, "SOURCED")
        os.write(terminal, typed.encode())
        read_until(terminal, words)


@needs("fish")
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("llmux sche", {"schema"}),
        ("llmux check --str", {"--strict"}),
        ("llmux init --from ", {"gguf", "llama-swap", "ollama"}),
        ("llmux wake qwen3:1", {"qwen3:14b"}),
        ("llmux -c con", {"conf.d/", "config.yaml"}),
    ],
)
def test_fish_completes(shell_directory: Path, typed: str, words: set[str]) -> None:
    ended = subprocess.run(
        ["fish", "--no-config", "-c", f"source ../llmux.fish; complete -C '{typed}'"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert {line.partition("\t")[0] for line in ended.stdout.splitlines()} == words


def complete_in_bash(line: str) -> list[str]:
    """Ask bash's own function which words may stand at the end of a line."""
    ended = subprocess.run(
        [
            "bash",
            "-c",
            ". ../llmux.bash; compopt() { :; }; COMP_LINE=$1 COMP_POINT=${#1}; _llmux; "
            'printf "%s\\n" "${COMPREPLY[@]}"',
            "bash",
            line,
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return ended.stdout.split("\n")[:-1]


@needs("bash")
def test_every_command_and_every_option_is_completed(shell_directory: Path) -> None:
    assert complete_in_bash("llmux ") == list(COMMANDS)
    for command in COMMANDS.values():
        offered = complete_in_bash(f"llmux {command.name} --")
        long = [name for option in command.options for name in option.names]
        assert offered == [name for name in long if name.startswith("--")]


@needs("bash")
def test_a_value_is_not_taken_for_a_command(shell_directory: Path) -> None:
    assert complete_in_bash("llmux -c check --log-format ") == ["json", "text"]
    assert complete_in_bash("llmux -c check sch") == ["schema"]
    assert complete_in_bash("llmux --config=conf") == ["conf.d", "config.yaml"]
    assert complete_in_bash("llmux -c none.yaml wake ") == [""]
    assert complete_in_bash("llmux -p ") == [""]


@pytest.mark.parametrize("text", ["models: [", "models: [a]", "[]", "models: {a: {port: no}}"])
def test_models_of_a_configuration_that_is_not_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    main(["completion", "models", str(tmp_path / "c.yaml")])
    out, err = capsys.readouterr()
    assert out.split() == (["a"] if "{a:" in text else [])
    assert err == ""
