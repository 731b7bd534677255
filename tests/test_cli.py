"""These tests run the C{llmux} command as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from http.client import HTTPSConnection
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest

from llmux._version import __version__
from llmux.command.main import main
from tests.daemon import (
    LLMUX,
    Backend,
    Daemon,
    ask,
    connect,
    free_port,
    run,
    wait_until,
    write_config,
)


class Asker(Thread):
    """This thread sends a request."""

    def __init__(self, port: int, model: str = "a") -> None:
        super().__init__()
        self.answer: tuple[int, bytes] | Exception | None = None
        self._port = port
        self._model = model
        self.start()

    def run(self) -> None:
        with closing(connect(self._port)) as connection:
            try:
                self.answer = ask(connection, self._model)
            except Exception as e:
                self.answer = e


class TestServing:
    def test_a_request_and_a_graceful_end(self, tmp_path: Path, behind: Backend) -> None:
        port = write_config(tmp_path, behind.port)
        with Daemon(["-c", "config.json"], tmp_path) as daemon:
            with closing(connect(port)) as connection:
                for model in "a", "b":
                    assert ask(connection, model) == (200, b'{"answer": 42}')
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
        line = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (info |warn ) \S")
        assert [text for text in daemon.lines if not line.match(text)] == []
        text = "\n".join(daemon.lines)
        assert "switch_started: switching from a to b" in text
        assert "SIGTERM: stopping" in text
        assert "factory" not in text

    def test_the_port_of_the_command_line_is_served(
        self, tmp_path: Path, behind: Backend
    ) -> None:
        port = write_config(tmp_path, behind.port, port=None)
        with (
            Daemon(["-c", "config.json", "-p", str(port)], tmp_path),
            closing(connect(port)) as connection,
        ):
            assert ask(connection)[0] == 200

    def test_port_0_is_any_free_port(self, tmp_path: Path, behind: Backend) -> None:
        write_config(tmp_path, behind.port)
        with Daemon(["-c", "config.json", "-p", "0"], tmp_path) as daemon:
            port = int(daemon.wait_for("listening").rpartition(":")[2])
            with closing(connect(port)) as connection:
                assert ask(connection)[0] == 200

    def test_a_unix_socket_is_served_and_removed(self, tmp_path: Path, behind: Backend) -> None:
        write_config(tmp_path, behind.port, port=None, listen="unix:llmux.sock")
        with Daemon(["-c", "config.json"], tmp_path) as daemon:
            with closing(connect(0)) as connection:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.connect(str(tmp_path / "llmux.sock"))
                assert ask(connection)[0] == 200
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
        assert os.listdir(tmp_path) == ["config.json"]

    def test_config_yaml_is_read_and_its_hooks_run_beside_it(
        self, tmp_path: Path, behind: Backend
    ) -> None:
        port = write_config(tmp_path, behind.port)
        text = (tmp_path / "config.json").read_text().replace('"true"', '"./hook"')
        (tmp_path / "config.yaml").write_text(text)
        (tmp_path / "config.json").unlink()
        hook = tmp_path / "hook"
        hook.write_text("#!/bin/sh\necho for $LLMUX_MODEL\n")
        hook.chmod(0o755)
        with Daemon([], tmp_path) as daemon, closing(connect(port)) as connection:
            assert ask(connection)[0] == 200
            daemon.wait_for("for a")

    def test_a_log_in_json_has_the_events_of_a_switch(
        self, tmp_path: Path, behind: Backend
    ) -> None:
        port = write_config(tmp_path, behind.port)
        with Daemon(["-c", "config.json", "--log-format", "json"], tmp_path) as daemon:
            with closing(connect(port)) as connection:
                ask(connection, "a")
                ask(connection, "b")
            daemon.signal(signal.SIGTERM)
            daemon.wait()
        events = {
            event["event"]: event for event in map(json.loads, daemon.lines) if "event" in event
        }
        assert events["switch_started"].items() >= {"from": "a", "to": "b"}.items()
        assert events["model_activated"].items() >= {"from": "a", "model": "b"}.items()
        assert events["model_activated"]["duration_secs"] > 0
        assert events["hook_completed"].items() >= {"model": "b", "hook": "wake"}.items()
        assert events["listening"]["address"] == f"http://127.0.0.1:{port}"

    def test_sigusr1_begins_a_new_request_log(self, tmp_path: Path, behind: Backend) -> None:
        port = write_config(tmp_path, behind.port, request_log="requests.jsonl")
        log = tmp_path / "requests.jsonl"

        def lines() -> list[str]:
            """Return the lines of requests; switches have lines too."""
            text = log.read_text() if log.exists() else ""
            return [line for line in text.splitlines() if '"service_s"' in line]

        with (
            Daemon(["-c", "config.json"], tmp_path) as daemon,
            closing(connect(port)) as connection,
        ):
            assert ask(connection)[0] == 200
            wait_until(lambda: len(lines()) == 1, "a line")
            log.unlink()
            daemon.signal(signal.SIGUSR1)
            wait_until(log.exists, "a new file")
            assert ask(connection, "b")[0] == 200
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
        assert [json.loads(line)["model"] for line in lines()] == ["b"]

    def test_a_listen_string_of_ssl_serves_https(self, tmp_path: Path, behind: Backend) -> None:
        arguments = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
        subprocess.run(
            ["openssl", *arguments.split(), "-keyout", "key.pem", "-out", "cert.pem"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
        port = free_port()
        listen = f"ssl:{port}:interface=127.0.0.1:privateKey=key.pem:certKey=cert.pem"
        write_config(tmp_path, behind.port, port=None, listen=listen)
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        context.check_hostname = False
        with (
            Daemon(["-c", "config.json"], tmp_path) as daemon,
            closing(HTTPSConnection("127.0.0.1", port, timeout=30, context=context)) as client,
        ):
            assert ask(client) == (200, b'{"answer": 42}')
            assert daemon.wait_for("listening").endswith(f" https://127.0.0.1:{port}")

    def test_messages_of_twisted_are_logged_if_asked_for(
        self, tmp_path: Path, behind: Backend
    ) -> None:
        write_config(tmp_path, behind.port)
        with Daemon(["-c", "config.json", "-v"], tmp_path) as daemon:
            daemon.wait_for("starting on")

    def test_the_limit_of_open_files_is_raised_and_a_low_one_is_told(
        self, tmp_path: Path, behind: Backend
    ) -> None:
        write_config(tmp_path, behind.port)
        command = (
            *("prlimit", "--nofile=500:1000", "--"),
            *(sys.executable, "-m", "llmux"),
        )
        with Daemon(["-c", "config.json"], tmp_path, command=command) as daemon:
            daemon.wait_for("few_files: only 1000 files may be open at once")
            limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
            assert re.search(r"Max open files\s+1000\s+1000\s", limits)


class TestStopping:
    def test_sigint_stops_a_daemon_that_was_started_to_ignore_it(
        self, tmp_path: Path, behind: Backend
    ) -> None:
        """
        A shell that runs C{llmux &} in a script has it ignore INT: INT stops it all the same.
        """
        write_config(tmp_path, behind.port)
        command = ("sh", "-c", 'trap "" INT; exec "$@"', "sh", *LLMUX)
        with Daemon(["-c", "config.json"], tmp_path, command=command) as daemon:
            daemon.wait_for("listening")
            daemon.signal(signal.SIGINT)
            assert daemon.wait() == 0

    def test_requests_in_flight_finish(self, tmp_path: Path, behind: Backend) -> None:
        port = write_config(tmp_path, behind.port)
        behind.holding = True
        with Daemon(["-c", "config.json"], tmp_path) as daemon:
            asker = Asker(port)
            behind.came.acquire()
            daemon.signal(signal.SIGINT)
            daemon.wait_for("SIGINT: stopping")
            wait_until(lambda: refused(port), "the end of listening")
            assert daemon.process.poll() is None
            behind.let_go.set()
            assert daemon.wait() == 0
            asker.join()
        assert asker.answer == (200, b'{"answer": 42}')

    def test_a_stop_does_not_wait_beyond_its_time_limit(
        self, tmp_path: Path, behind: Backend
    ) -> None:
        port = write_config(tmp_path, behind.port, shutdown_timeout_secs=0.2)
        behind.holding = True
        with Daemon(["-c", "config.json"], tmp_path) as daemon:
            asker = Asker(port)
            behind.came.acquire()
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
            asker.join()
        assert asker.answer != (200, b'{"answer": 42}')

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_second_signal_ends_the_daemon_at_once(
        self, tmp_path: Path, behind: Backend, number: signal.Signals
    ) -> None:
        port = write_config(tmp_path, behind.port)
        behind.holding = True
        with Daemon(["-c", "config.json"], tmp_path) as daemon:
            asker = Asker(port)
            behind.came.acquire()
            daemon.signal(signal.SIGTERM)
            daemon.wait_for("SIGTERM: stopping")
            daemon.signal(number)
            assert daemon.wait() == 128 + number
            asker.join()
        text = "\n".join(daemon.lines)
        assert f"{number.name} again: aborting" in text
        assert "Traceback" not in text
        assert "ReactorNotRunning" not in text

    def test_second_signal_ends_hooks(self, tmp_path: Path, behind: Backend) -> None:
        hooks = {
            "wake": "echo $$ > pid; echo waking; sleep 1000",
            "sleep": "true",
            "alive": "false",
        }
        port = write_config(tmp_path, behind.port, models={"a": {"port": behind.port, **hooks}})
        with Daemon(["-c", "config.json"], tmp_path) as daemon:
            asker = Asker(port)
            daemon.wait_for("waking")
            daemon.signal(signal.SIGTERM)
            daemon.wait_for("SIGTERM: stopping")
            daemon.signal(signal.SIGTERM)
            # The first signal may already have ended llmux, for a wake hook is killed at once;
            # the second signal then finds a process that is ending.
            assert daemon.wait() in (0, 128 + signal.SIGTERM, -signal.SIGTERM)
            asker.join()
        assert isinstance(asker.answer, tuple)
        assert asker.answer[0] == 503
        pid = int((tmp_path / "pid").read_text())
        assert not Path(f"/proc/{pid}").exists()

    def test_hangup_is_no_stop(self, tmp_path: Path, behind: Backend) -> None:
        port = write_config(tmp_path, behind.port)
        with Daemon(["-c", "config.json"], tmp_path) as daemon:
            daemon.signal(signal.SIGHUP)
            daemon.signal(signal.SIGUSR1)
            with closing(connect(port)) as connection:
                assert ask(connection)[0] == 200

    def test_a_terminal_that_goes_away_stops_the_daemon(
        self, tmp_path: Path, behind: Backend
    ) -> None:
        write_config(tmp_path, behind.port)
        ours, theirs = os.openpty()
        try:
            command = ("setsid", "-c", sys.executable, "-m", "llmux")
            daemon = Daemon(["-c", "config.json"], tmp_path, command=command, stdin=theirs)
            with daemon:
                os.close(theirs)
                os.close(ours)
                ours = theirs = -1
                assert daemon.wait() == 0
            assert "SIGHUP: stopping" in "\n".join(daemon.lines)
        finally:
            for descriptor in ours, theirs:
                if descriptor >= 0:
                    os.close(descriptor)


def refused(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


class TestRefusing:
    def one_line(self, *arguments: str, cwd: Path) -> str:
        ended = run(*arguments, cwd=cwd)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.count("\n") == 1
        return ended.stderr.rstrip("\n")

    def test_a_missing_configuration_is_told_in_one_line(self, tmp_path: Path) -> None:
        assert self.one_line(cwd=tmp_path) == (
            "config.yaml: it cannot be read: no such file or directory; "
            "name the configuration with -c FILE"
        )

    def test_an_unsound_configuration_is_told_in_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text("models: {a: {port: 1, wake: true}}")
        expected = (
            'c.yaml: models.a.wake: true is not a shell script; write it in quotes: "true"'
        )
        assert self.one_line("-c", "c.yaml", cwd=tmp_path) == expected
        assert self.one_line("check", "-c", "c.yaml", cwd=tmp_path) == expected

    def test_a_busy_port_is_told_in_one_line(self, tmp_path: Path) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as other:
            port = other.getsockname()[1]
            write_config(tmp_path, 1, port=port)
            assert self.one_line("-c", "config.json", cwd=tmp_path) == (
                f"config.json: port: 127.0.0.1:{port} is in use; "
                "stop what listens there, or choose another with port: or -p"
            )

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["-p", "70000"], "-p takes a port from 0 to 65535, not '70000'"),
            (["-p", "x"], "-p takes a port from 0 to 65535, not 'x'"),
            (["--log-format", "xml"], "--log-format is text or json, not 'xml'"),
            (["--no-such-option"], "option --no-such-option not recognized"),
            (["chekc"], "Unknown command: chekc; did you mean check?"),
            (["serve"], "Unknown command: serve; llmux without a command serves"),
            (["models"], "Unknown command: models"),
            (["my.yaml"], "Unknown command: my.yaml; a configuration is given with -c FILE"),
        ],
    )
    def test_a_wrong_command_line_is_told_with_status_2(
        self, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 2
        assert capsys.readouterr().err == f"llmux: {expected}\nTry llmux --help.\n"

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["check", "more"], "what is more? a configuration is given with -c FILE"),
            (["check", "--cycle"], "--cycle goes with --hooks"),
        ],
    )
    def test_a_wrong_use_of_a_command_is_told_with_status_2(
        self, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert err == f"llmux check: {expected}\nTry llmux check --help.\n"


class TestOtherCommands:
    @pytest.mark.parametrize(
        "words", ["-V", "--version", "check --version", "demo --version", "schema --version"]
    )
    def test_the_version_is_printed(
        self, words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(words.split())
        assert caught.value.code == 0
        assert capsys.readouterr().out == f"llmux {__version__}\n"

    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_the_help_names_options_and_commands(
        self, option: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main([option])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        for word in "--config=", "--port=", "--verbose", "check ", "demo ", "simulate ":
            assert word in out

    @pytest.mark.parametrize(
        "command", ["check", "completion", "demo", "init", "schema", "simulate"]
    )
    def test_each_command_has_a_help_of_its_own(
        self, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        assert capsys.readouterr().out.lower().startswith(f"usage: llmux {command} [")

    def test_the_configuration_may_stand_before_the_command(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["-c", str(tmp_path / "none.yaml"), "check"]) == 1
        assert "none.yaml: it cannot be read" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("name", "module"),
        [
            ("simulate", "llmux.simulate.compare"),
            ("init", "llmux.command.setup.init"),
            ("completion", "llmux.command.setup.completion"),
        ],
    )
    def test_a_command_gets_the_arguments_that_follow_its_name(
        self, name: str, module: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[Sequence[str]] = []

        def their_main(argv: Sequence[str], *_: object) -> int:
            given.append(argv)
            return 7

        replaced = ModuleType(module)
        replaced.__dict__["main"] = their_main
        monkeypatch.setitem(sys.modules, module, replaced)
        assert main([name, "--some", "option"]) == 7
        assert given == [["--some", "option"]]


def test_help_imports_no_reactor() -> None:
    ask_python = (
        "import sys, llmux.command.main; print('twisted.internet.reactor' in sys.modules)"
    )
    ended = run("-c", ask_python, cwd=Path(__file__).parent.parent, command=(sys.executable,))
    assert ended.stdout == "False\n"
