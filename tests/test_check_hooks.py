"""
These tests check what C{llmux check} tells of hooks: without running them, and by running them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from socket import create_server

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from llmux.command.checking.rehearsal import rehearse, report
from llmux.command.checking.script_check import script_problems
from llmux.command.main import main
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook
from tests.daemon import free_port, run


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """Make a directory with scripts that are right and scripts that are not."""
    for name, text, mode in [
        ("good", "#!/bin/sh\necho good\n", 0o755),
        ("idle", "#!/bin/sh\n", 0o644),
        ("torn", "#!/bin/sh\nif true; then\n", 0o755),
        ("other", "#!/no/such/shell\n", 0o755),
        ("dos", "#!/bin/sh\r\necho\r\n", 0o755),
        ("part.sh", "helps() { true; }\n", 0o644),
    ]:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
    return tmp_path


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("true", None),
        ("./good", None),
        ("./good one two >log 2>&1 &", None),
        (". ./part.sh; helps", None),
        ("sh ./part.sh", None),
        ("sh -e ./part.sh", None),
        ("A=./b ./good", None),
        ('"$HOME"/x; ~/y; ./*z', None),
        ("curl -o ./gone http://x/./y", None),
        ("cd elsewhere && ./gone", None),
        ("# ./gone", None),
        ("test -e /no/where || true", None),
        ("/bin/true", None),
        ("if ./good; then ./gone; fi", "./gone does not exist"),
        ("./gone", "./gone does not exist"),
        ("./gone 2>&1", "./gone does not exist"),
        ("exec ./gone", "./gone does not exist"),
        ("true && ./gone; ./gone", "./gone does not exist"),
        ("one\n./gone", "./gone does not exist"),
        (". ./gone", "./gone does not exist"),
        ("sh ./gone", "./gone does not exist"),
        ("/no/such/program x", "/no/such/program does not exist"),
        (".", None),
        ("./idle", "./idle may not be executed: chmod \\+x it"),
        (".//", ".// is a directory"),
        ("./torn", r"./torn: .*3: Syntax error: .*"),
        (". ./torn", r"./torn: .*Syntax error: .*"),
        ("./other", "./other is to be run by /no/such/shell, which does not exist"),
        ("./dos", r"./dos is to be run by /bin/sh\\r, which does not exist"),
        ("if true", "the shell does not understand it: .*Syntax error: .*"),
        ("echo 'a", "the shell does not understand it: .*Syntax error: .*"),
    ],
)
def test_what_can_be_told_without_running_a_script(
    scripts: Path, script: str, expected: str | None
) -> None:
    found = list(script_problems(script, str(scripts)))
    if expected is None:
        assert found == []
    else:
        assert len(found) == 1
        assert re.fullmatch(expected.replace("./", r"\./"), found[0]), found


def configure(directory: Path, **hooks: str) -> str:
    keys = {"wake": "true", "sleep": "true", "alive": "true"} | hooks
    lines = [f"port: {free_port()}", "state_dir: state", "models:"]
    for name, port in ("a", 8001), ("b", 8002):
        lines += [f"  {name}:", f"    port: {port}"]
        lines += [f"    {hook}: '{script}'" for hook, script in keys.items()]
    path = directory / "c.yaml"
    path.write_text("\n".join(lines))
    return str(path)


class TestDoubts:
    def test_a_hook_that_does_not_exist_is_told_and_stops_no_check(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = configure(tmp_path, wake="./gone")
        assert main(["check", "-c", file]) == 0
        out, err = capsys.readouterr()
        assert "is sound: 2 models" in out
        assert err.splitlines() == [
            f"{file}: models.a.wake: ./gone does not exist",
            f"{file}: models.b.wake: ./gone does not exist",
        ]

    def test_with_strict_they_are_failures(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["check", "--strict", "-c", configure(tmp_path, wake="./gone")]) == 1
        assert main(["check", "--strict", "-c", configure(tmp_path)]) == 0

    def test_models_that_share_a_port_are_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = configure(tmp_path)
        text = Path(file).read_text().replace("8002", "8001")
        Path(file).write_text(text)
        assert main(["check", "-c", file]) == 0
        assert capsys.readouterr().err == (
            f"{file}: models a, b share 127.0.0.1:8001; the alive of each must say no while "
            "another one is awake\n"
        )


@implementer(IRunningHook)
class Ran:
    """This is a hook that has exited."""

    def __init__(self, status: int | None) -> None:
        reason = "time limit of 9 s" if status is None else f"exit status {status}"
        self.exited: Deferred[HookResult] = succeed(
            HookResult(status, status is None, 0.25, reason, "last words\n" if status else "")
        )

    def kill(self) -> None:
        raise NotImplementedError


@implementer(IHookRunner)
class Scripted:
    """This runner's hooks have exit statuses that are known beforehand."""

    def __init__(self, *statuses: int | None) -> None:
        self.started: list[str] = []
        self._statuses: Iterator[int | None] = iter(statuses)

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        self.started.append(hook.value)
        return Ran(next(self._statuses))


async def cycle(*statuses: int | None) -> tuple[list[str], list[tuple[str, str, bool]]]:
    clock = Clock()
    hooks = Scripted(*statuses)
    done = Deferred.fromCoroutine(rehearse(clock, hooks, "a", 5.0, True))
    while not done.called:
        clock.advance(0.25)
    steps = await done
    return hooks.started, [(step.step, step.outcome, step.ok) for step in steps]


class TestRehearsal:
    @pytest_twisted.ensureDeferred
    async def test_alive_has_three_answers(self) -> None:
        for status, expected, ok in [
            (0, "yes", True),
            (1, "no (exit status 1: last words)", True),
            (75, "unknown (exit status 75: last words)", False),
            (None, "unknown (time limit of 9 s)", False),
        ]:
            (step,) = await rehearse(Clock(), Scripted(status), "a", 5.0, False)
            assert (step.outcome, step.ok) == (expected, ok)

    @pytest_twisted.ensureDeferred
    async def test_a_cycle_ends_asleep(self) -> None:
        started, steps = await cycle(0, 0, 1, 1, 0, 0)
        assert started == ["sleep", "wake", "alive", "alive", "alive", "sleep"]
        assert steps == [
            ("sleep", "done", True),
            ("wake", "done", True),
            ("alive", "yes", True),
            ("sleep", "done", True),
        ]

    @pytest_twisted.ensureDeferred
    async def test_a_model_that_does_not_get_ready_is_put_to_sleep(self) -> None:
        _, steps = await cycle(0, 0, *[1] * 21, 0)
        assert steps[2:] == [
            ("alive", "no (exit status 1: last words), for 5 s", False),
            ("sleep", "done", True),
        ]

    @pytest_twisted.ensureDeferred
    async def test_a_wake_that_fails_is_cleaned_up(self) -> None:
        started, steps = await cycle(0, 3, 0)
        assert started == ["sleep", "wake", "sleep"]
        assert steps[1] == ("wake", "exit status 3: last words", False)

    @pytest_twisted.ensureDeferred
    async def test_nothing_is_woken_if_sleep_fails(self) -> None:
        started, steps = await cycle(4)
        assert started == ["sleep"]
        assert steps == [("sleep", "exit status 4: last words", False)]

    @pytest_twisted.ensureDeferred
    async def test_the_report_is_a_table(self) -> None:
        steps = await rehearse(Clock(), Scripted(0), "a model", 5.0, False)
        assert list(report(steps)) == [
            "model    hook   seconds  outcome",
            "a model  alive    0.250  yes",
        ]


class TestCommand:
    def test_the_alive_hook_of_each_model_runs(self, tmp_path: Path) -> None:
        file = configure(tmp_path, alive='test "$LLMUX_MODEL" = a && test -d "$LLMUX_STATE"')
        ended = run("check", "-c", file, "--hooks", cwd=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
        lines = [re.sub(r" +([\d.]+ +)?", " ", line) for line in ended.stdout.splitlines()]
        assert lines[1:] == ["a alive yes", "b alive no (exit status 1)"]

    def test_a_cycle_runs_the_hooks_of_one_model_alone(self, tmp_path: Path) -> None:
        hooks = {
            "wake": 'touch "$LLMUX_MODEL"; echo waking >&2',
            "alive": 'test -e "$LLMUX_MODEL"',
            "sleep": 'rm -f "$LLMUX_MODEL"',
        }
        file = configure(tmp_path, **hooks)
        ended = run("check", "-c", file, "--hooks", "--cycle", "--model=b", cwd=tmp_path)
        assert ended.returncode == 0
        steps = [line.split()[1] for line in ended.stdout.splitlines()[1:]]
        assert steps == ["sleep", "wake", "alive", "sleep"]
        assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()

    def test_a_hook_that_fails_gives_status_1(self, tmp_path: Path) -> None:
        file = configure(tmp_path, wake="echo no memory >&2; exit 3")
        ended = run("check", "-c", file, "--hooks", "--cycle", cwd=tmp_path)
        assert ended.returncode == 1
        assert "exit status 3: no memory" in ended.stdout

    def test_no_cycle_is_run_while_something_listens(self, tmp_path: Path) -> None:
        file = configure(tmp_path)
        port = int(Path(file).read_text().split()[1])
        with closing(create_server(("127.0.0.1", port))):
            ended = run("check", "-c", file, "--hooks", "--cycle", cwd=tmp_path)
        assert ended.returncode == 1
        assert f"something listens on {port} already: is it llmux?" in ended.stderr
