"""These tests check what llmux keeps on disk from one start to the next."""

from __future__ import annotations

import json
import os
import pwd
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from llmux.config import Config, ConfigError, ModelConfig
from llmux.hooks.persistence.state import (
    StateDirectory,
    WakeNote,
    end_group,
    prepare_state,
    state_path,
)
from llmux.hooks.runner import HookRunner
from llmux.interfaces import HookKind, IWakeNotes

from .daemon import Daemon, ask, backend, connect, free_port, wait_until
from .hook_log import HookLog

NAMES = [
    "a",
    "A",
    "..",
    ".",
    ".wake",
    "org/model",
    "../../etc",
    "%2E",
    "ä b",
    "x" * 300,
    "x" * 301,
]


def config(directory: Path, state_dir: str | None = None) -> Config:
    a = ModelConfig(port=1, wake="true", sleep="true", alive="true")
    return Config(
        models={"a": a}, directory=str(directory), file="dir/c.yaml", state_dir=state_dir
    )


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


class TestPath:
    def test_the_configuration_names_it(self, tmp_path: Path) -> None:
        c = config(tmp_path, state_dir="state")
        assert state_path(c, {"STATE_DIRECTORY": "/s"}) == str(tmp_path / "state")
        c = config(tmp_path, state_dir="/var/lib/x")
        assert state_path(c, {}) == "/var/lib/x"

    def test_a_tilde_is_the_home_of_the_user(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", "/home/u")
        assert state_path(config(tmp_path, state_dir="~/x"), {}) == "/home/u/x"
        assert state_path(config(tmp_path), {}).startswith("/home/u/.local/state/llmux/")

    def test_systemd_names_it_first_among_several(self, tmp_path: Path) -> None:
        environ = {"STATE_DIRECTORY": "/var/lib/llmux:/var/lib/more", "XDG_STATE_HOME": "/x"}
        assert state_path(config(tmp_path), environ) == "/var/lib/llmux"

    def test_each_configuration_file_has_a_directory_of_its_own(self, tmp_path: Path) -> None:
        environ = {"XDG_STATE_HOME": "/x"}
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "one")
        one, two, link = (
            state_path(config(tmp_path / name), environ) for name in ("one", "two", "link")
        )
        assert one == link != two
        assert os.path.dirname(one) == "/x/llmux"

    def test_a_relative_state_home_is_ignored(self, tmp_path: Path) -> None:
        assert os.path.isabs(state_path(config(tmp_path), {"XDG_STATE_HOME": "x"}))


class TestDirectories:
    def test_each_model_has_a_state_directory_that_is_private(self, tmp_path: Path) -> None:
        """
        Each model has another directory, inside the state directory, whatever the model's name
        is.
        """
        state = StateDirectory(str(tmp_path / "new" / "state"))
        paths = [state.model_directory(name) for name in NAMES]
        assert len(set(paths)) == len(NAMES)
        for path in paths:
            assert os.path.dirname(path) == str(tmp_path / "new" / "state" / "models")
            assert os.path.basename(path) not in (".", "..")
            assert mode(path) == 0o700
        assert mode(tmp_path / "new" / "state") == 0o700
        assert [state.model_directory(name) for name in NAMES] == paths

    def test_a_state_directory_that_was_removed_is_made_again(self, tmp_path: Path) -> None:
        state = StateDirectory(str(tmp_path / "state"))
        os.rmdir(state.model_directory("a"))
        assert os.path.isdir(state.model_directory("a"))

    def test_a_link_in_place_of_a_models_directory_is_refused(self, tmp_path: Path) -> None:
        state = StateDirectory(str(tmp_path / "state"))
        path = state.model_directory("a")
        os.rmdir(path)
        os.symlink(tmp_path, path)
        with pytest.raises(OSError, match="not a directory of llmux's own"):
            state.model_directory("a")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_what_belongs_to_another_user_is_refused(self, tmp_path: Path) -> None:
        state = StateDirectory(str(tmp_path / "state"))
        path = state.model_directory("a")
        os.chown(path, 12345, 12345)
        with pytest.raises(PermissionError, match="another user"):
            state.model_directory("a")
        os.chown(state.path, 12345, 12345)
        with pytest.raises(PermissionError, match="another user"):
            state.create()
        (tmp_path / "link").symlink_to(tmp_path)
        os.chown(tmp_path / "link", 12345, 12345, follow_symlinks=False)
        with pytest.raises(OSError, match="link of another user"):
            StateDirectory(str(tmp_path / "link")).create()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_a_state_directory_is_made_for_the_user_that_the_daemon_will_be(
        self, tmp_path: Path
    ) -> None:
        state = StateDirectory(str(tmp_path / "state"))
        with pytest.raises(PermissionError, match="its user may not write to it"):
            # pytest's directories cannot be read by other users.
            state.create((12345, 54321))
        found = os.stat(state.path)
        assert (found.st_uid, found.st_gid, mode(state.path)) == (12345, 54321, 0o700)
        assert (os.geteuid(), os.getegid()) == (0, 0)
        with pytest.raises(PermissionError, match="another user"):
            state.create()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    def test_no_home_is_made_for_a_user_who_has_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("XDG_STATE_HOME")
        nobody = pwd.struct_passwd(
            ("u", "x", 12345, 54321, "", str(tmp_path / "home"), "/bin/false")
        )
        monkeypatch.setattr(pwd, "getpwuid", lambda user: nobody)
        with pytest.raises(ConfigError, match="cannot be used: no such file or directory"):
            prepare_state(config(tmp_path), (12345, 54321))
        assert not (tmp_path / "home").exists()

    def test_what_everybody_may_write_to_is_refused(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        with pytest.raises(PermissionError, match="every user may write"):
            StateDirectory(str(tmp_path)).create()

    def test_our_own_link_may_lead_to_it(self, tmp_path: Path) -> None:
        """systemd makes such a link where a service has DynamicUser."""
        (tmp_path / "private").mkdir()
        (tmp_path / "state").symlink_to(tmp_path / "private")
        StateDirectory(str(tmp_path / "state")).model_directory("a")
        assert (tmp_path / "private" / "models" / "a").is_dir()

    def test_a_daemon_without_one_says_so_in_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError) as raised:
            prepare_state(config(tmp_path, state_dir="file/state"))
        assert str(raised.value) == (
            f"dir/c.yaml: state_dir: {tmp_path}/file/state cannot be used: not a directory; "
            "name a directory that llmux may make, or that belongs to its user"
        )
        with pytest.raises(ConfigError, match="it is not a directory"):
            prepare_state(config(tmp_path, state_dir="file"))
        prepared = prepare_state(config(tmp_path, state_dir="state"))
        assert prepared.state_dir == str(tmp_path / "state")
        assert mode(tmp_path / "state") == 0o700


@pytest.fixture
def sleeper() -> Iterator[int]:
    """Run a process that leads a group."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process.pid
    process.kill()
    process.wait()


class TestNotes:
    def test_a_note_of_a_living_llmux_is_no_interrupted_wake(
        self, tmp_path: Path, sleeper: int
    ) -> None:
        state = StateDirectory(str(tmp_path / "state"))
        state.model_directory("a")
        state.note_wake("a", sleeper)
        assert state.interrupted_wakes(["a", "b"]) == {}

    def test_a_note_of_a_dead_llmux_is_found_until_it_is_removed(
        self, tmp_path: Path, sleeper: int
    ) -> None:
        state = StateDirectory(str(tmp_path / "state"))
        left_by_the_dead(state, "a", sleeper)
        (note,) = state.interrupted_wakes(["a", "b"]).values()
        assert note.group == sleeper
        assert not note.hook_is_gone
        state.forget_wake("a")
        state.forget_wake("a")
        assert state.interrupted_wakes(["a"]) == {}

    def test_a_process_of_another_start_time_or_boot_is_not_the_hook(
        self, tmp_path: Path, sleeper: int
    ) -> None:
        state = StateDirectory(str(tmp_path / "state"))
        left_by_the_dead(state, "a", sleeper)
        note = state.interrupted_wakes(["a"])["a"]
        assert not note.hook_is_gone
        assert note.group_started is not None
        replace = msgspec.structs.replace
        assert replace(note, group_started=note.group_started + 1).hook_is_gone
        assert replace(note, group_started=None).hook_is_gone
        assert replace(note, boot="another").hook_is_gone
        assert replace(note, boot="another", llmux=os.getpid()).llmux_is_gone

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"{",
            b'{"group": "x"}',
            b"\xff" * 9000,
            b'{"boot": "\xff"}',
            b'{"more": ' + b"[" * 4000,
        ],
    )
    def test_a_note_that_cannot_be_read_is_an_interrupted_wake(
        self, tmp_path: Path, text: bytes
    ) -> None:
        """
        A note that cannot be read was cut short with its writer: no process is signalled for
        it.
        """
        state = StateDirectory(str(tmp_path / "state"))
        Path(state.model_directory("a"), ".wake").write_bytes(text)
        note = state.interrupted_wakes(["a"])["a"]
        assert note.hook_is_gone

    def test_a_note_that_cannot_be_written_is_logged_once(self, tmp_path: Path) -> None:
        state = StateDirectory(str(tmp_path / "state"))
        os.mkdir(os.path.join(state.model_directory("a"), ".wake"))
        with HookLog("llmux.hooks.persistence.state") as log:
            state.note_wake("a", 1)
            state.note_wake("a", 1)
        (event,) = log.outcomes()
        assert (event["event"], event["error"]) == ("wake_not_noted", "is a directory")


def left_by_the_dead(state: StateDirectory, model: str, group: int) -> None:
    """Leave the note of an llmux that has been killed."""
    state.model_directory(model)
    state.note_wake(model, group)
    path = Path(state.path, "models", model, ".wake")
    note = msgspec.json.decode(path.read_bytes(), type=WakeNote)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(note, llmux_started=1)))


class Groups:
    """This object has process groups made of numbers; C{stubborn} groups ignore TERM."""

    def __init__(self, stubborn: bool) -> None:
        self.sent: list[tuple[int, int]] = []
        self.gone = False
        self._stubborn = stubborn

    def signal(self, group: int, number: int) -> None:
        if self.gone:
            raise ProcessLookupError
        if number:
            self.sent.append((group, number))
        if number == signal.SIGKILL or (number == signal.SIGTERM and not self._stubborn):
            self.gone = True


class TestEnding:
    @pytest.mark.parametrize(
        ("stubborn", "signals", "seconds"),
        [(False, [signal.SIGTERM], 0.05), (True, [signal.SIGTERM, signal.SIGKILL], 5.0)],
    )
    def test_the_group_gets_term_and_after_a_grace_kill(
        self, tmp_path: Path, sleeper: int, stubborn: bool, signals: list[int], seconds: float
    ) -> None:
        state = StateDirectory(str(tmp_path / "state"))
        left_by_the_dead(state, "a", sleeper)
        note = state.interrupted_wakes(["a"])["a"]
        clock = Clock()
        groups = Groups(stubborn)
        over = Deferred.fromCoroutine(end_group(note, clock, 5.0, groups.signal))
        while not over.called:
            clock.advance(0.05)
        assert groups.sent == [(sleeper, number) for number in signals]
        assert clock.seconds() == pytest.approx(seconds, abs=0.06)

    def test_a_group_whose_leader_is_gone_gets_no_signal(self, tmp_path: Path) -> None:
        process = subprocess.Popen(["true"], start_new_session=True)
        state = StateDirectory(str(tmp_path / "state"))
        left_by_the_dead(state, "a", process.pid)
        process.wait()
        note = state.interrupted_wakes(["a"])["a"]
        groups = Groups(stubborn=True)
        assert Deferred.fromCoroutine(end_group(note, Clock(), 5.0, groups.signal)).called
        assert groups.sent == []


def content(state: StateDirectory, file: str) -> str:
    return Path(state.model_directory("a"), file).read_text()


def is_noted(state: StateDirectory) -> bool:
    note = Path(state.model_directory("a"), ".wake")
    return note.exists() and not note.read_bytes().isspace()


def ended_by(child: int) -> int:
    """Return the signal that ended a child of this process which has exited."""
    return os.waitpid(child, os.WNOHANG)[1]


def runner(
    state: StateDirectory, wake: str = "true", sleep: str = "true", alive: str = "true"
) -> HookRunner:
    from twisted.internet import reactor

    model = ModelConfig(port=1, wake=wake, sleep=sleep, alive=alive)
    models = {"a": model, "b": model}
    return HookRunner(reactor, models, ".", state=state, grace=0.2)  # type: ignore[arg-type]


class TestRunner:
    @pytest_twisted.ensureDeferred
    async def test_scripts_find_the_directory_of_their_model(self, tmp_path: Path) -> None:
        state = StateDirectory(str(tmp_path / "state"))
        hooks = runner(state, wake='echo 17 >"$LLMUX_STATE/job"')
        assert (await hooks.start("a", HookKind.WAKE).exited).ok
        assert content(state, "job") == "17\n"

    @pytest_twisted.ensureDeferred
    async def test_a_rehearsal_leaves_and_heeds_no_note(
        self, tmp_path: Path, sleeper: int
    ) -> None:
        """
        A rehearsal is C{llmux check --hooks}: the notes are those of the llmux that serves.
        """
        from twisted.internet import reactor

        state = StateDirectory(str(tmp_path / "state"))
        left_by_the_dead(state, "a", sleeper)
        models = {
            "a": ModelConfig(
                port=1, wake='echo 1 >"$LLMUX_STATE/job"', sleep="true", alive="true"
            )
        }
        hooks = HookRunner(reactor, models, ".", state=state, notes=False)  # type: ignore[arg-type]
        assert hooks.interrupted == frozenset()
        for kind in (HookKind.WAKE, HookKind.ALIVE, HookKind.SLEEP):
            assert (await hooks.start("a", kind).exited).ok
        assert content(state, "job") == "1\n"
        assert runner(state).interrupted == {"a"}

    @pytest_twisted.ensureDeferred
    async def test_without_its_directory_a_hook_is_not_started(self, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("")
        with HookLog():
            result = (
                await runner(StateDirectory(str(tmp_path / "state")))
                .start("a", HookKind.ALIVE)
                .exited
            )
        assert result.reason == "could not be started"
        assert not result.ok and not result.says_no

    @pytest_twisted.ensureDeferred
    async def test_a_wake_is_noted_until_alive_says_yes(self, tmp_path: Path) -> None:
        """The end of the wake hook says nothing: the model may be loading."""
        state = StateDirectory(str(tmp_path / "state"))
        hooks = runner(state, alive="test -e yes")
        run = hooks.start("a", HookKind.WAKE)
        assert is_noted(state)
        assert (await run.exited).ok
        assert (await hooks.start("a", HookKind.ALIVE).exited).says_no
        assert is_noted(state)
        hooks = runner(state)
        assert hooks.interrupted == frozenset()
        await hooks.start("a", HookKind.WAKE).exited
        await hooks.start("b", HookKind.ALIVE).exited
        assert is_noted(state)
        await hooks.start("a", HookKind.ALIVE).exited
        assert not is_noted(state)

    @pytest_twisted.ensureDeferred
    async def test_a_sleep_that_succeeds_removes_the_note(self, tmp_path: Path) -> None:
        state = StateDirectory(str(tmp_path / "state"))
        with HookLog():
            for sleep, left in (("exit 1", True), ("true", False)):
                hooks = runner(state, wake="exit 1", sleep=sleep)
                await hooks.start("a", HookKind.WAKE).exited
                await hooks.start("a", HookKind.SLEEP).exited
                assert is_noted(state) == left

    @pytest_twisted.ensureDeferred
    async def test_an_interrupted_wake_is_ended_before_the_first_hook(
        self, tmp_path: Path, sleeper: int
    ) -> None:
        """
        The wake's model stays interrupted for this llmux; the next llmux knows how it ended.
        """
        state = StateDirectory(str(tmp_path / "state"))
        left_by_the_dead(state, "a", sleeper)
        hooks = runner(state)
        assert verifyObject(IWakeNotes, hooks)
        assert hooks.interrupted == {"a"}
        with HookLog() as log:
            await hooks.end_interrupted()
        assert ended_by(sleeper) in (signal.SIGTERM, signal.SIGKILL)
        assert [e["event"] for e in log.outcomes()] == ["wake_interrupted"]
        await hooks.end_interrupted()
        await hooks.start("a", HookKind.SLEEP).exited
        assert hooks.interrupted == {"a"}
        assert runner(state).interrupted == frozenset()


def test_a_wake_whose_llmux_was_killed_is_ended_by_the_next_one(tmp_path: Path) -> None:
    """
    The next llmux ends a wake script that nobody watches, since C{alive} says no and would let
    another model be woken beside it.
    """
    with backend() as behind:
        port = free_port()
        a = {
            "port": behind.port,
            "wake": "echo $$ >pid; sleep 1000; touch awake.a",
            "sleep": "rm -f awake.a; touch slept",
            "alive": "test -e awake.a",
        }
        b = a | {"wake": "test -e slept && touch awake.b", "alive": "test -e awake.b"}
        (tmp_path / "config.json").write_text(
            json.dumps({"port": port, "models": {"a": a, "b": b}, "state_dir": "state"})
        )
        with Daemon(["-c", "config.json"], tmp_path) as first, closing(connect(port)) as client:
            client.request("POST", "/v1/completions", json.dumps({"model": "a"}))
            wait_until(lambda: text_of(tmp_path / "pid"), "the wake hook")
            group = f'"group":{text_of(tmp_path / "pid").strip()},'
            note = tmp_path / "state/models/a/.wake"
            # The hook may run for a moment before llmux has noted its group.
            wait_until(lambda: group in text_of(note), "the note")
            first.process.kill()
        shell = int(text_of(tmp_path / "pid"))
        os.kill(shell, 0)
        with Daemon(["-c", "config.json"], tmp_path) as second:
            assert "its wake hook still runs" in second.wait_for("wake_interrupted")
            with closing(connect(port)) as client:
                assert ask(client, "b")[0] == 200
            assert (tmp_path / "slept").exists()
            wait_until(lambda: is_gone(shell), "the end of the wake hook")
            assert not (tmp_path / "awake.a").exists()


def text_of(file: Path) -> str:
    """Return the text of a file; empty if there is none."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_gone(pid: int) -> bool:
    """Tell whether the process has exited, even if nobody reaps it."""
    return text_of(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] in ([], ["Z"])
