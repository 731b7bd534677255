"""These tests run C{llmux top} in a terminal of its own."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmux.command.full_screen.held_lanes import SeenHistory, lane_lines, moment
from llmux.command.full_screen.top_frame import frame_lines
from llmux.command.full_screen.top_keys import GivenCommand, TopKeys
from llmux.command.words.styles import plain
from llmux.command.words.text_table import columns_of
from llmux.socket_path import socket_path
from tests.daemon import run, wait_until
from tests.fake_daemon import FakeDaemon, ago, fake_daemon, model, two_models
from tests.pseudo_terminal import PseudoTerminal, pseudo_terminal


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path where the daemon's socket is looked for."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = socket_path(tmp_path / "config.yaml", None)
    path.parent.mkdir(mode=0o700)
    return path


@pytest.fixture
def daemon(place: Path) -> Iterator[FakeDaemon]:
    with fake_daemon() as daemon:
        daemon.history = {
            "schema": 1,
            "models": {
                "llama": [
                    [ago(240), "waking", {"gpu0": 22}],
                    [ago(220), "awake", {"gpu0": 22}],
                ],
                "mistral": [
                    [ago(1700), "awake", {"gpu0": 22}],
                    [ago(300), "draining", {"gpu0": 22}],
                    [ago(240), "asleep", None],
                ],
            },
            "switches": [],
        }
        daemon.listen_at(place)
        yield daemon


@pytest.fixture
def terminal(tmp_path: Path, daemon: FakeDaemon) -> Iterator[PseudoTerminal]:
    with pseudo_terminal(["top"], tmp_path) as terminal:
        terminal.wait_for("llama has been awake for 4 min, 3 in flight.")
        yield terminal


class TestTerminal:
    def test_shows_sentences_lanes_models_and_keys(self, terminal: PseudoTerminal) -> None:
        lines = terminal.lines()
        assert "mistral is next, in 9 to 58 s: 2 wait, the oldest for 61 s." in lines
        # How many columns each part takes depends on how long the test has run; and a screen
        # may be read while it is being drawn.
        lane = re.compile(r" {2,9} mistral */{1,7}\.{1,5} ?llama *")
        wait_until(lambda: any(map(lane.fullmatch, terminal.lines())), "the lane")
        lines = terminal.lines()
        heads = next(i for i, line in enumerate(lines) if line.startswith("MODEL"))
        assert lines[heads + 1].split()[:2] == ["llama", "awake"]
        assert lines[heads + 2].split()[:2] == ["mistral", "asleep"]
        assert lines[-1] == "wake switch Sleep pin Pause resume quit"

    def test_a_wake_is_shown(self, terminal: PseudoTerminal, daemon: FakeDaemon) -> None:
        daemon.change("mistral", state="waking", since=ago(0))
        terminal.wait_for("mistral has been waking for")

    @pytest.mark.parametrize(
        ("keys", "verb", "body"),
        [
            ("js", "switch", {"model": "mistral"}),
            ("\x1b[Bw", "wake", {"model": "mistral"}),
            ("jkS", "sleep", {"model": "llama"}),
            ("p", "pin", {"model": "llama", "for": 3600}),
            ("P", "pause", {}),
            ("r", "resume", {}),
        ],
    )
    def test_a_key_asks_and_y_commands(
        self,
        terminal: PseudoTerminal,
        daemon: FakeDaemon,
        keys: str,
        verb: str,
        body: dict[str, Any],
    ) -> None:
        terminal.type(keys)
        terminal.wait_for("y/n")
        terminal.type("n")
        wait_until(lambda: "y/n" not in terminal.text(), "the question to go")
        assert daemon.told == []
        terminal.type(keys[-1])
        terminal.wait_for("y/n")
        terminal.type("y")
        terminal.wait_for(": done")
        assert daemon.told == [(verb, body)]

    def test_what_a_command_will_do_is_said_before(self, terminal: PseudoTerminal) -> None:
        terminal.type("js")
        terminal.wait_for(
            "switch mistral? llama makes room: 3 in flight finish first (about 6 s), then "
            "about 21 s for the switch. y/n"
        )

    def test_a_refusal_is_the_daemons_sentence(
        self, terminal: PseudoTerminal, daemon: FakeDaemon
    ) -> None:
        daemon.does["sleep"] = lambda body: (409, {"error": {"message": "2 wait for it"}})
        terminal.type("S")
        terminal.wait_for("y/n")
        terminal.type("y")
        terminal.wait_for("sleep llama: 2 wait for it")

    def test_the_daemons_loss_is_said_and_so_is_its_return(
        self, terminal: PseudoTerminal, daemon: FakeDaemon, place: Path
    ) -> None:
        daemon.stop()
        terminal.wait_for("Not connected since ")
        terminal.wait_for("Is it running? tried ")
        daemon.listen_at(place)
        wait_until(lambda: "Not connected" not in terminal.text(), "the daemon to be back")

    def test_another_size_is_heeded_at_once(self, terminal: PseudoTerminal) -> None:
        terminal.resize(40, 24)
        terminal.wait_for("mistral is next, in 9 to 58 s: 2 wait, the oldest for 61 s.")
        wait_until(lambda: "OLDEST" in terminal.text(), "the table")
        assert terminal.lines()[-1] == "wake switch Sleep pin Pause resume quit"
        terminal.resize(200, 50)
        terminal.wait_for("IN-FLIGHT")
        assert "mistral is next" in terminal.text()

    def test_q_gives_the_terminal_back(self, terminal: PseudoTerminal) -> None:
        terminal.type("q")
        assert terminal.wait() == 0
        terminal.wait_until_given_back()

    @pytest.mark.parametrize(
        ("number", "status"),
        [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)],
    )
    def test_a_signal_gives_the_terminal_back(
        self, terminal: PseudoTerminal, number: signal.Signals, status: int
    ) -> None:
        terminal.process.send_signal(number)
        assert terminal.wait() == status
        terminal.wait_until_given_back()

    def test_a_terminal_that_is_gone_ends_it(self, terminal: PseudoTerminal) -> None:
        terminal.hang_up()
        assert terminal.wait() in (1, 129)

    def test_an_error_gives_the_terminal_back(
        self, terminal: PseudoTerminal, daemon: FakeDaemon
    ) -> None:
        daemon.denied = "a key is needed"
        assert terminal.wait() == 1
        terminal.wait_until_given_back()
        assert b"llmux top: a key is needed" in terminal.written

    def test_while_it_is_stopped_the_terminal_is_the_shells(
        self, terminal: PseudoTerminal, daemon: FakeDaemon
    ) -> None:
        terminal.process.send_signal(signal.SIGTSTP)
        _, how = os.waitpid(terminal.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(how)
        terminal.wait_until_given_back()
        daemon.change("mistral", state="waking", since=ago(0))
        terminal.process.send_signal(signal.SIGCONT)
        terminal.wait_for("mistral has been waking for")
        assert terminal.is_taken()

    def test_no_colour_is_shown_where_none_is_wanted(
        self, tmp_path: Path, daemon: FakeDaemon
    ) -> None:
        with pseudo_terminal(["top"], tmp_path, NO_COLOR="1") as terminal:
            terminal.wait_for("=llama=")
            assert re.findall(rb"\x1b\[[0-9;]*3\dm|\x1b\[[0-9;]*4\dm", terminal.written) == []


def test_top_prints_one_frame_without_a_terminal(tmp_path: Path, daemon: FakeDaemon) -> None:
    said = run("top", cwd=tmp_path)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("llmux 0.2.0")
    assert "\x1b" not in said.stdout
    assert "llama has been awake for 4 min, 3 in flight." in said.stdout
    assert "mistral  asleep" in said.stdout
    assert run("top", "--json", cwd=tmp_path).stdout.startswith('{"schema": 1')


def test_without_a_daemon_nothing_is_taken_over(tmp_path: Path, place: Path) -> None:
    with pseudo_terminal(["top"], tmp_path) as terminal:
        assert terminal.wait() == 3
        terminal.wait_for("is it running?")
        assert b"\x1b[?1049h" not in terminal.written


def _many() -> dict[str, Any]:
    return two_models(
        models=[
            model("a-name-that-is-much-too-long-for-a-narrow-terminal-" + "x" * 60, waiters=1),
            model("模型", state="awake", place={"gpu0": 20}, in_flight=1),
            *(model(f"m{i}") for i in range(60)),
        ],
        mode="paused",
        reload={"at": ago(1), "ok": False, "error": "x" * 300},
    )


@pytest.mark.parametrize("width", [1, 20, 40, 80, 200])
@pytest.mark.parametrize("height", [1, 5, 24, 60, None])
@pytest.mark.parametrize("status", [two_models(), _many()], ids=["two", "many"])
def test_a_frame_fits_the_terminal(
    width: int, height: int | None, status: dict[str, Any]
) -> None:
    history = SeenHistory()
    history.note(status)
    lines = frame_lines(
        status,
        history,
        width=width,
        height=height,
        colour=True,
        selected="m40",
        lost="Not connected since 12:00:00. Is it running?",
    )
    assert max(columns_of(plain(line)) for line in lines) <= width
    if height is not None:
        assert len(lines) == height
    if width >= 40 and height == 24 and len(status["models"]) > 2:
        assert any(plain(line).startswith("m40 ") for line in lines)


END = moment("2026-11-24T05:31:00Z")


def before(seconds: float) -> str:
    """Return the time that is so many seconds before the lane's right end."""
    return datetime.fromtimestamp(END - seconds, UTC).isoformat()


class TestLanes:
    def lane(self, rows: dict[str, Any], capacity: float = 24, width: int = 30) -> list[str]:
        history = SeenHistory()
        history.load({"models": rows})
        status = two_models(models=[model(name) for name in rows])
        resource = {"name": "gpu0", "capacity": capacity, "free": 0, "held": {}}
        lines = lane_lines(
            history,
            status,
            resource,
            end=END,
            secs=300,
            width=width,
            colour=False,
        )
        return [plain(line) for line in lines]

    def test_models_beside_each_other_have_rows_of_their_own(self) -> None:
        rows = {
            "embed": [[before(200), "awake", {"gpu0": 2}]],
            "llama": [[before(100), "awake", {"gpu0": 20}]],
        }
        above, below = self.lane(rows)
        assert below == " " * 10 + "=embed" + "=" * 14
        assert above == " " * 20 + "=llama" + "=" * 4

    def test_what_was_short_is_not_lost(self) -> None:
        rows = {
            "a": [
                [before(250), "awake", None],
                [before(150), "draining", None],
                [before(149), "sleeping", None],
                [before(148), "asleep", None],
            ],
            "b": [[before(148), "waking", None], [before(146), "awake", None]],
        }
        (lane,) = self.lane(rows, capacity=1)
        assert lane == " " * 5 + "=a========" + "." + "=b" + "=" * 12

    def test_other_resources_are_not_drawn_here(self) -> None:
        assert self.lane({"a": [[before(100), "awake", {"gpu1": 20}]]}) == [" " * 30]


class TestKeys:
    def test_only_y_answers_a_question(self) -> None:
        status = two_models()
        keys = TopKeys()
        keys.see(status)
        for key in "n", "q", "escape", "s":
            assert keys.press("s", status) is None
            assert keys.question is not None
            assert keys.press(key, status) is None
            assert keys.question is None and not keys.is_over
        keys.press("s", status)
        assert keys.press("y", status) == GivenCommand("switch", {"model": "llama"})

    def test_a_model_that_is_pinned_is_unpinned(self) -> None:
        status = two_models(pins=[{"model": "mistral", "until": None, "others": "wait"}])
        keys = TopKeys()
        keys.see(status)
        keys.selected = "mistral"
        keys.press("p", status)
        assert keys.press("y", status) == GivenCommand("unpin", {"model": "mistral"})

    def test_what_is_uncertain_is_said_to_be_freed(self) -> None:
        status = two_models(models=[model("a", state="uncertain")])
        keys = TopKeys()
        keys.see(status)
        keys.press("S", status)
        assert keys.question is not None and "You say that you have freed" in keys.question
        assert keys.press("y", status) == GivenCommand("sleep", {"model": "a", "force": True})

    def test_the_choice_stays_with_its_model(self) -> None:
        status = two_models()
        keys = TopKeys()
        keys.see(status)
        keys.press("down", status)
        chosen = keys.selected
        keys.see(two_models(models=list(reversed(status["models"]))))
        assert keys.selected == chosen
        keys.see(two_models(models=[model("other")]))
        assert keys.selected == "other"
