"""
These tests check the commands that talk to a running llmux, with a daemon that remembers them.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmux.command.link.verb_names import VERBS
from llmux.command.main import main
from llmux.socket_path import socket_path
from tests.daemon import LLMUX, PATIENCE, environment, run, wait_until
from tests.fake_daemon import FakeDaemon, ago, fake_daemon, model, two_models

from .commands import Commands, daemon_of_the_file, llmux_here

daemon, llmux = daemon_of_the_file, llmux_here


class TestWhichDaemon:
    def test_the_configuration_file_names_its_socket(
        self, tmp_path: Path, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        with fake_daemon(two_models(models=[model("other")])) as other:
            other.listen_at(tmp_path / "mine.sock")
            llmux.file.write_text("admin:\n  socket: mine.sock\nmodels: {}\n")
            assert "other" in llmux("ps").out
        llmux.file.write_text("models: {}\n")
        assert "mistral" in llmux("ps").out

    def test_the_configuration_may_stand_before_the_command(
        self, llmux: Commands, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["-c", str(llmux.file), "ps"]) == 0
        assert main([f"--config={llmux.file}", "ps"]) == 0
        assert main(["-v", "-c", str(llmux.file), "ps"]) == 0
        assert capsys.readouterr().out.count("mistral") == 3

    def test_a_password_in_a_url_is_not_said(self, llmux: Commands, daemon: FakeDaemon) -> None:
        port = daemon.listen()
        daemon.stop()
        said = llmux("ps", where=("--url", f"http://me:secret@127.0.0.1:{port}"))
        assert f"tried http://127.0.0.1:{port} (" in said.err

    def test_a_key_is_sent_to_a_url_and_not_to_the_socket(
        self, llmux: Commands, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LLMUX_KEY", "sk-0123456789abcdef")
        port = daemon.listen()
        for url in f"http://127.0.0.1:{port}", f"127.0.0.1:{port}/llmux/":
            assert llmux("ps", where=("--url", url)).status == 0
            assert daemon.headers[-1]["Authorization"] == "Bearer sk-0123456789abcdef"
        llmux("ps")
        assert "Authorization" not in daemon.headers[-1]

    def test_nobody_there_says_what_was_tried(
        self, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        daemon.stop()
        llmux.file.write_text("models: {}\n")
        said = llmux("ps")
        assert said.status == 3
        assert said.out == ""
        assert said.err.startswith("llmux ps: is it running? tried ")
        assert str(socket_path(llmux.file, None)) in said.err
        assert said.err.endswith("/run/llmux/llmux.sock (no such file or directory)\n")
        assert said.err.count("\n") == 1

    def test_a_configuration_that_is_not_there_is_told(
        self, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        daemon.stop()
        said = llmux("ps", where=("-c", "nowhere.yaml"))
        assert said.status == 3
        remedy = "there is no nowhere.yaml: name the configuration of llmux with -c FILE"
        assert said.err.endswith(f"; {remedy}\n")

    def test_a_url_where_nobody_listens_is_told(
        self, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        port = daemon.listen()
        daemon.stop()
        said = llmux("ps", where=("--url", f"http://127.0.0.1:{port}"))
        assert (said.status, said.out) == (3, "")
        assert f"tried http://127.0.0.1:{port} (connection refused)" in said.err

    @pytest.mark.parametrize(
        "url", ["ftp://x", "http://", "http://x:99999", "x:port", "http://[::1"]
    )
    def test_a_url_that_is_none_is_told_with_status_2(self, llmux: Commands, url: str) -> None:
        said = llmux("ps", where=("--url", url))
        assert said.status == 2
        assert f"{url!r} is no URL: give one as in http://127.0.0.1:3000" in said.err

    def test_a_server_that_is_no_llmux_is_told(
        self, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        daemon.does["resume"] = lambda body: (500, "not a document of ours")
        said = llmux("resume")
        assert said.status == 1
        assert "answered 500" in said.err and "is it llmux?" in said.err

    def test_two_ways_to_say_which_are_one_too_many(self, llmux: Commands) -> None:
        said = llmux("ps", "--url", "http://x")
        assert said.status == 2
        assert "give one" in said.err

    def test_a_file_that_is_being_changed_stops_no_command(
        self, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        llmux.file.write_text("admin: {socket: x\n")
        assert llmux("ps").status == 0
        daemon.stop()
        said = llmux("ps")
        assert said.status == 3
        assert "is it running?" in said.err and "is not YAML" in said.err


class TestPs:
    def test_each_model_has_a_line(self, llmux: Commands) -> None:
        said = llmux("ps")
        assert said.out.splitlines() == [
            "MODEL    STATE   SINCE  IN-FLIGHT  WAITERS  OLDEST  NEXT-TURN        COST",
            "llama    awake   4 min          3        0       -  -                20 s",
            "mistral  asleep  4 min          0        2    61 s  1. in 9 to 58 s     -",
        ]
        assert "\x1b" not in said.out

    def test_json_is_what_the_daemon_said(self, llmux: Commands, daemon: FakeDaemon) -> None:
        assert llmux("ps", "--json").json.items() >= {"schema": 1, "generation": 1}.items()

    def test_a_name_cannot_command_the_terminal(
        self, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        daemon.status["models"] = [model("evil\x1b]0;x\x07")]
        assert "evil\\x1b]0;x\\x07" in llmux("ps").out


class TestStatus:
    def test_the_status_is_told_in_sentences(self, llmux: Commands) -> None:
        assert llmux("status").out.splitlines() == [
            "llama has been awake for 4 min, 3 in flight.",
            "mistral is next, in 9 to 58 s: 2 wait, the oldest for 61 s.",
            "cost_aware: llama woke 4 s ago; left alone for 10 s more",
        ]

    def test_the_status_of_one_model_has_its_facts(
        self, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        lines = llmux("status", "llama").out.splitlines()
        assert lines[0] == "llama has been awake for 4 min, 3 in flight."
        assert "812 answered, 3 failed." in lines
        assert daemon.asked[-1] == "/llmux/status?model=llama"

    def test_a_model_that_there_is_not_is_told(self, llmux: Commands) -> None:
        said = llmux("status", "a b&c")
        assert (said.status, said.err) == (1, "llmux status: there is no model a b&c\n")

    def test_quiet_says_by_its_status_whether_the_model_is_awake(self, llmux: Commands) -> None:
        for name, status in ("llama", 0), ("mistral", 1):
            said = llmux("status", name, "-q")
            assert (said.status, said.out, said.err) == (status, "", "")
        assert llmux("status", "-q").status == 2

    def test_watch_prints_a_line_when_something_changes(
        self, tmp_path: Path, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        with subprocess.Popen(
            [*LLMUX, "status", "--watch", "-c", str(llmux.file)],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as watching:
            assert watching.stdout is not None
            assert [watching.stdout.readline() for _ in range(4)][1].startswith("  llama has")
            daemon.change("llama", state="draining", since=ago(0))
            watching.stdout.readline()
            assert watching.stdout.readline().startswith("  llama has been draining for ")
            watching.send_signal(signal.SIGINT)
            assert watching.wait(PATIENCE) == 130


class TestCommands:
    @pytest.mark.parametrize(
        ("words", "verb", "body"),
        [
            ("wake m", "wake", {"model": "m"}),
            ("switch m --abort", "switch", {"model": "m", "abort": True}),
            ("sleep m --force", "sleep", {"model": "m", "force": True}),
            ("sleep --all", "sleep", {"all": True}),
            (
                "pin m --for 2h --others refuse",
                "pin",
                {"model": "m", "for": 7200.0, "others": "refuse"},
            ),
            ("unpin", "unpin", {}),
            ("unpin m", "unpin", {"model": "m"}),
            (
                "pause --sleep --for 30m --refuse",
                "pause",
                {"sleep": True, "for": 1800.0, "refuse": True},
            ),
            ("pause", "pause", {}),
            ("resume", "resume", {}),
            ("cancel r-17", "cancel", {"request": "r-17"}),
            (
                "reload --dry-run --restart-changed",
                "reload",
                {"dry_run": True, "restart_changed": True},
            ),
        ],
    )
    def test_a_command_is_told_by_its_long_options(
        self, llmux: Commands, daemon: FakeDaemon, words: str, verb: str, body: dict[str, Any]
    ) -> None:
        assert llmux(*words.split()).status == 0
        assert daemon.told == [(verb, body)]

    def test_the_resulting_status_is_said(self, llmux: Commands, daemon: FakeDaemon) -> None:
        daemon.does["pause"] = lambda body: daemon.status.update(
            mode="paused", paused={"until": None, "refuse": True, "by": "socket"}
        )
        assert llmux("pause").out.splitlines()[0] == (
            "Paused: no switch begins, and requests for models that sleep are refused."
        )
        assert llmux("pause", "--json").json["mode"] == "paused"

    def test_a_refusal_is_the_daemons_sentence(
        self, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        error = {"error": {"message": "2 wait for it: pause, or --abort", "code": "conflict"}}
        daemon.does["sleep"] = lambda body: (409, error)
        said = llmux("sleep", "m")
        assert (said.status, said.out) == (1, "")
        assert said.err == "llmux sleep: 2 wait for it: pause, or --abort\n"
        assert llmux("sleep", "m", "--json").json == error

    @pytest.mark.parametrize(
        "words",
        ["wake", "sleep", "sleep m --all", "pin m --for ever", "ps x", "pin m --others x"],
    )
    def test_what_makes_no_sense_is_told_nobody(
        self, llmux: Commands, daemon: FakeDaemon, words: str
    ) -> None:
        said = llmux(*words.split())
        assert (said.status, daemon.told) == (2, [])
        assert "usage: llmux " in said.err

    def test_a_time_that_stands_where_the_model_may(
        self, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        said = llmux("wake", "m", "--wait", "5m")
        assert (said.status, daemon.told) == (2, [])
        assert said.err.endswith(
            "unrecognized arguments: 5m; a time stands after --wait=, as in --wait=90s\n"
        )

    def test_wait_ends_when_the_model_is_awake(
        self, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        asked = len(daemon.asked)

        def wake(body: dict[str, Any]) -> None:
            daemon.entry("mistral")["state"] = "waking"

        daemon.does["wake"] = wake
        process = subprocess.Popen(
            [*LLMUX, "wake", "mistral", "--wait", "-c", str(llmux.file)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            wait_until(lambda: len(daemon.asked) > asked + 2, "the status to be asked for")
            assert process.poll() is None
            daemon.entry("mistral")["state"] = "awake"
            assert process.communicate(timeout=PATIENCE)[0].count("mistral") > 0
            assert process.returncode == 0
        finally:
            process.kill()

    def test_wait_has_an_end(self, llmux: Commands, daemon: FakeDaemon) -> None:
        said = llmux("wake", "mistral", "--wait=0.3")
        assert said.status == 4
        assert said.err.startswith("llmux wake: still under way after 0.3 s")

    def test_wait_ends_with_a_failure(self, llmux: Commands, daemon: FakeDaemon) -> None:
        backoff = {"until": ago(-2), "tries": 1, "reason": "wake exited with status 3"}
        daemon.does["wake"] = lambda body: daemon.entry("mistral").update(backoff=backoff)
        said = llmux("wake", "mistral", "--wait")
        assert (said.status, said.err) == (
            1,
            "llmux wake: mistral: wake exited with status 3\n",
        )

    def test_a_daemon_that_answers_at_the_end_only(
        self, llmux: Commands, daemon: FakeDaemon
    ) -> None:
        import threading

        let_go = threading.Event()

        def switch(body: dict[str, Any]) -> None:
            let_go.wait(PATIENCE)

        daemon.does["switch"] = switch
        try:
            assert llmux("switch", "mistral", "--wait=0.3").status == 4
        finally:
            let_go.set()

    def test_reload_prints_the_difference(self, llmux: Commands, daemon: FakeDaemon) -> None:
        changes = ["+ qwen", "~ mistral.wake: at its next wake"]
        daemon.does["reload"] = lambda body: (200, daemon.now() | {"changes": changes})
        assert llmux("reload").out.splitlines() == changes
        daemon.does["reload"] = lambda body: (200, daemon.now() | {"changes": []})
        assert llmux("reload").out == "nothing changed\n"

    def test_open_prints_the_address(self, llmux: Commands, daemon: FakeDaemon) -> None:
        url = "http://127.0.0.1:3000/llmux/?token=abc"
        daemon.does["open"] = lambda body: (200, {"schema": 1, "url": url})
        assert llmux("open").out == url + "\n"


@pytest.mark.parametrize("verb", VERBS)
def test_each_command_has_a_page_of_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: llmux {verb} [")
    assert VERBS[verb] in text
    for part in "--json", "--url", "LLMUX_KEY", "exit status:", "not reachable":
        assert part.replace("not reachable", "no llmux could be reached") in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_help_of_llmux_names_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert [verb for verb in VERBS if f"\n    {verb} " not in text] == []


def test_a_command_imports_nothing_of_twisted(tmp_path: Path, daemon: FakeDaemon) -> None:
    (tmp_path / "config.yaml").write_text("admin: {}\nmodels: {}\n")
    ask_python = (
        "import sys; there = set(sys.modules); "
        "from llmux.command.main import main; main(['ps']); "
        "print(sorted(m for m in set(sys.modules) - there if m.partition('.')[0] in "
        "('twisted', 'zope', 'msgspec', 'asyncio')))"
    )
    ended = run("-c", ask_python, cwd=tmp_path, command=(sys.executable,))
    assert ended.stderr == ""
    assert ended.stdout.splitlines()[-1] == "[]"
