"""These tests run C{twistd llmux}, in the foreground and as a daemon."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin
from twisted.python import usage
from twisted.python.usage import UsageError
from twisted.scripts._twistd_unix import ServerOptions
from zope.interface.verify import verifyObject

from llmux._version import __version__
from llmux.tap import Options
from tests.daemon import (
    TWISTD,
    Backend,
    Daemon,
    ask,
    connect,
    run,
    wait_until,
    write_config,
)
from twisted.plugins import llmux_plugin


def parse(*arguments: str) -> Options:
    options = Options()
    usage.Options.parseOptions(options, list(arguments))
    return options


class TestOptions:
    def test_the_plugin_provides_its_interfaces(self) -> None:
        verifyObject(IServiceMaker, llmux_plugin.llmux)
        verifyObject(IPlugin, llmux_plugin.llmux)
        assert llmux_plugin.llmux.options is Options

    def test_options_that_are_left_out_have_defaults(self) -> None:
        options = parse()
        assert (options["config"], options["port"]) == ("config.yaml", None)
        assert (options["verbose"], options["log-format"]) == (0, "text")

    def test_all_options_are_read(self) -> None:
        options = parse("-c", "c.json", "-p", "0", "-v", "--log-format", "json")
        assert (options["config"], options["port"]) == ("c.json", 0)
        assert (options["verbose"], options["log-format"]) == (1, "json")

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["-p", "70000"], "-p takes a port from 0 to 65535, not '70000'"),
            (["-p", "-1"], "-p takes a port from 0 to 65535, not '-1'"),
            (["--log-format", "xml"], "--log-format is text or json, not 'xml'"),
        ],
    )
    def test_a_bad_option_is_told(self, arguments: list[str], expected: str) -> None:
        with pytest.raises(UsageError) as caught:
            parse(*arguments)
        assert expected in str(caught.value)

    @pytest.mark.parametrize("option", ["--version", "-V"])
    def test_the_version_is_printed(
        self, option: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            parse(option)
        assert capsys.readouterr().out == f"llmux {__version__}\n"

    def test_our_log_gives_way_to_another_way_to_log(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The reactor that the tests run on stays as it is.
        monkeypatch.setattr("llmux.tap.install_reactor", lambda: None)
        for arguments in ["--syslog"], ["--logger", "twisted.logger.jsonFileLogObserver"]:
            options = ServerOptions()
            options.parseOptions([*arguments, "llmux"])
            assert "llmux" not in str(options["logger"])
            with pytest.raises(UsageError) as caught:
                ServerOptions().parseOptions([*arguments, "llmux", "--log-format", "json"])
            assert "--log-format goes with neither" in str(caught.value)


class TestForeground:
    @pytest.mark.parametrize("reactor", ["llmux", "epoll", "poll", "select"])
    def test_a_request_and_a_graceful_end(
        self, tmp_path: Path, behind: Backend, reactor: str
    ) -> None:
        port = write_config(tmp_path, behind.port)
        arguments = ["--reactor", reactor, "-n", "--pidfile=", "llmux", "-c", "config.json"]
        with Daemon(arguments, tmp_path, command=TWISTD) as daemon:
            with closing(connect(port)) as connection:
                for model in "a", "b":
                    assert ask(connection, model) == (200, b'{"answer": 42}')
            daemon.signal(signal.SIGTERM)
            # twistd ends by the signal that stopped it.
            assert daemon.wait() == -signal.SIGTERM
        text = "\n".join(daemon.lines)
        assert "switch_started: switching from a to b" in text
        assert "factory" not in text
        assert "Traceback" not in text

    def test_a_second_signal_ends_twistd_at_once(self, tmp_path: Path, behind: Backend) -> None:
        port = write_config(tmp_path, behind.port)
        behind.holding = True
        arguments = ["-n", "--pidfile=", "llmux", "-c", "config.json", "--log-format=json"]
        with (
            Daemon(arguments, tmp_path, command=TWISTD) as daemon,
            closing(connect(port)) as connection,
        ):
            connection.request("POST", "/v1/completions", json.dumps({"model": "a"}))
            behind.came.acquire()
            daemon.signal(signal.SIGTERM)
            daemon.wait_for("SIGTERM: stopping")
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == -signal.SIGTERM
        events = list(map(json.loads, daemon.lines))
        assert [e for e in events if e["level"] == "error" or "traceback" in e] == []
        assert "aborting" in [e.get("event") for e in events]

    def test_the_log_may_go_to_a_file(self, tmp_path: Path, behind: Backend) -> None:
        write_config(tmp_path, behind.port)
        arguments = ["-n", "--pidfile=", "-l", "x.log", "llmux", "-c", "config.json"]
        log = tmp_path / "x.log"
        # There is nothing on its standard output to wait for.
        daemon = Daemon(arguments, tmp_path, command=TWISTD)
        try:
            wait_until(lambda: log.exists() and "listening" in log.read_text(), "the log")
            daemon.signal(signal.SIGUSR1)
            wait_until(lambda: (tmp_path / "x.log.1").exists(), "a rotated log")
            log.rename(tmp_path / "x.old")
            daemon.signal(signal.SIGUSR1)
            wait_until(log.exists, "a new log")
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == -signal.SIGTERM
        finally:
            daemon.__exit__()
        assert daemon.lines == []
        assert "SIGTERM: stopping" in log.read_text()


class Detached:
    """This is a daemon, known by its pidfile."""

    def __init__(self, directory: Path, pidfile: Path) -> None:
        self.directory = directory
        self.pidfile = pidfile
        self.pid = int(pidfile.read_text())

    def is_there(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()

    def stop(self, patience: float | None = None) -> None:
        """
        Send the daemon SIGTERM, and SIGKILL if that does not end it within this many seconds.

        @raise AssertionError: SIGTERM did not end the daemon.
        """
        try:
            self._end_by(signal.SIGTERM, patience)
        except AssertionError:
            self._end_by(signal.SIGKILL)
            raise

    def _end_by(self, number: signal.Signals, patience: float | None = None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            wait_until(lambda: not self.is_there(), f"the end by {number.name}", patience)


@contextlib.contextmanager
def detached(directory: Path, *arguments: str) -> Iterator[Detached]:
    """Run twistd with these arguments, with pidfile and logfile in the directory."""
    pidfile = directory / "llmux.pid"
    places = [f"--pidfile={pidfile}", f"--logfile={directory / 'llmux.log'}"]
    ended = run(*places, *arguments, cwd=directory, command=TWISTD)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    one = Detached(directory, pidfile)
    try:
        yield one
    finally:
        one.stop()


def test_a_daemon_that_ignores_sigterm_is_killed_and_the_test_fails(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 600 > /dev/null 2>&1 < /dev/null & echo $! > llmux.pid"
    subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, check=True)
    daemon = Detached(tmp_path, tmp_path / "llmux.pid")
    with pytest.raises(AssertionError, match="SIGTERM"):
        daemon.stop(patience=0.2)
    assert not daemon.is_there()


class TestDaemon:
    def test_a_daemon_answers_as_soon_as_twistd_has_ended(
        self, tmp_path: Path, behind: Backend
    ) -> None:
        port = write_config(tmp_path, behind.port)
        (tmp_path / "elsewhere").mkdir()
        with detached(
            tmp_path, "--rundir=elsewhere", "llmux", "-c", "config.json", "--log-format=json"
        ) as daemon:
            # A client may connect as soon as twistd has ended: there are no retries here.
            with closing(connect(port)) as connection:
                for model in "a", "b":
                    assert ask(connection, model) == (200, b'{"answer": 42}')
            assert os.readlink(f"/proc/{daemon.pid}/cwd") == str(tmp_path / "elsewhere")
            # Of the processes that started the daemon, only the daemon itself is left.
            status = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
            assert os.getpgid(daemon.pid) != daemon.pid != int(status[1])
            os.kill(daemon.pid, signal.SIGTERM)
            wait_until(lambda: not daemon.is_there(), "the end of the daemon")
        assert not daemon.pidfile.exists()
        events = [
            json.loads(line) for line in (tmp_path / "llmux.log").read_text().splitlines()
        ]
        names = [event.get("event") for event in events]
        assert "listening" in names
        assert names[-1] == "stopping"

    def test_a_second_signal_ends_the_daemon_at_once(
        self, tmp_path: Path, behind: Backend
    ) -> None:
        port = write_config(tmp_path, behind.port)
        behind.holding = True
        log = tmp_path / "llmux.log"
        with (
            detached(tmp_path, "llmux", "-c", "config.json") as daemon,
            closing(connect(port)) as connection,
        ):
            connection.request("POST", "/v1/completions", json.dumps({"model": "a"}))
            behind.came.acquire()
            os.kill(daemon.pid, signal.SIGTERM)
            wait_until(lambda: "SIGTERM: stopping" in log.read_text(), "the stop")
            os.kill(daemon.pid, signal.SIGTERM)
            wait_until(lambda: not daemon.is_there(), "the end of the daemon")
        assert not daemon.pidfile.exists()
        assert "Traceback" not in log.read_text()

    def test_a_unix_socket_belongs_to_one_daemon(self, tmp_path: Path, behind: Backend) -> None:
        write_config(tmp_path, behind.port, port=None, listen="unix:llmux.sock")
        (tmp_path / "elsewhere").mkdir()
        with detached(tmp_path, "--rundir=elsewhere", "llmux", "-c", "config.json") as daemon:
            lock = tmp_path / "llmux.sock.lock"
            assert os.readlink(lock) == str(daemon.pid)
            with closing(connect(0)) as connection:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.connect(str(tmp_path / "llmux.sock"))
                assert ask(connection)[0] == 200
            # The lock keeps a second daemon from starting.
            second = run(
                "-n", "--pidfile=", "llmux", "-c", "config.json", cwd=tmp_path, command=TWISTD
            )
            assert second.returncode == 1
            assert second.stderr.endswith("choose another place\n")
            os.kill(daemon.pid, signal.SIGTERM)
            wait_until(lambda: not daemon.is_there(), "the end of the daemon")
        assert sorted(os.listdir(tmp_path)) == [
            "config.json",
            "elsewhere",
            "llmux.log",
        ]

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
    def test_a_daemon_may_become_another_user(self, behind: Backend) -> None:
        nobody = pwd.getpwnam("nobody")
        with TemporaryDirectory() as name:
            # pytest's directories cannot be read by other users, and hooks must run in this
            # one.
            directory = Path(name)
            directory.chmod(0o755)
            self.check_other_user(directory, behind, nobody)

    def check_other_user(
        self, directory: Path, behind: Backend, nobody: pwd.struct_passwd
    ) -> None:
        # The log's directory is root's, as README.md has it.
        (directory / "state").mkdir()
        os.chown(directory / "state", nobody.pw_uid, nobody.pw_gid)
        port = write_config(
            directory, behind.port, request_log="requests.jsonl", state_dir="state"
        )
        log = directory / "llmux.log"
        with detached(directory, "--uid=nobody", "llmux", "-c", "config.json") as daemon:
            status = Path(f"/proc/{daemon.pid}/status").read_text()
            assert f"Uid:\t{nobody.pw_uid}\t" in status
            with closing(connect(port)) as connection:
                assert ask(connection)[0] == 200
                os.kill(daemon.pid, signal.SIGHUP)
                assert ask(connection, "b")[0] == 200
                wait_until(lambda: "switching from a to b" in log.read_text(), "the log")
                # A log that cannot be opened anew is written on.
                log.rename(directory / "old.log")
                (directory / "requests.jsonl").rename(directory / "old.jsonl")
                os.kill(daemon.pid, signal.SIGUSR1)
                wait_until(
                    lambda: "opened anew" in (directory / "old.log").read_text(), "a word"
                )
                assert ask(connection, "a")[0] == 200
                text = "switching from b to a"
                wait_until(lambda: text in (directory / "old.log").read_text(), "the log")
            for name in "old.log", "old.jsonl":
                assert (directory / name).stat().st_uid == nobody.pw_uid


class TestRefusing:
    @pytest.mark.parametrize("how", ["-n", "--no_save"])
    def test_a_busy_port_is_told_in_one_line(self, tmp_path: Path, how: str) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as other:
            port = other.getsockname()[1]
            write_config(tmp_path, 1, port=port)
            ended = run(how, "llmux", "-c", "config.json", cwd=tmp_path, command=TWISTD)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == (
            f"config.json: port: 127.0.0.1:{port} is in use; "
            "stop what listens there, or choose another with port: or -p\n"
        )
        assert os.listdir(tmp_path) == ["config.json"]

    def test_a_missing_configuration_is_told_in_one_line(self, tmp_path: Path) -> None:
        ended = run("llmux", cwd=tmp_path, command=TWISTD)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == (
            "config.yaml: it cannot be read: no such file or directory; "
            "name the configuration with -c FILE\n"
        )
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (
                ["--logfile=no/such.log"],
                "--logfile no/such.log: it cannot be written: no such file or directory; "
                "name a file in a directory that exists and may be written\n",
            ),
            (
                ["--logfile=-"],
                "--logfile -: a daemon has no standard output; name a file\n",
            ),
        ],
    )
    def test_a_log_that_has_no_place_is_told(
        self, tmp_path: Path, options: list[str], expected: str
    ) -> None:
        write_config(tmp_path, 1)
        ended = run(*options, "llmux", "-c", "config.json", cwd=tmp_path, command=TWISTD)
        assert (ended.returncode, ended.stderr) == (1, expected)
        assert os.listdir(tmp_path) == ["config.json"]
