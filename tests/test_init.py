"""C{llmux init}: what it makes of GGUF files, of an Ollama, and of nothing."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmux.command.init import main as init
from llmux.command.main import main
from llmux.config import load_config
from llmux.config.json_schema import configuration_schema
from llmux.drafting.blank import blank_draft
from llmux.drafting.draft import Draft, DraftError, ModelDraft
from llmux.drafting.gguf import draft_of_directory, resources_of
from llmux.drafting.gguf_header import NotGguf, read_header
from llmux.drafting.gpus import Gpu, gpus_in, installed_gpus
from llmux.drafting.ollama import draft_of_ollama

ONE_GPU = [Gpu(0, "RTX 4090", 24)]
TWO_GPUS = [Gpu(0, "RTX 4090", 24), Gpu(1, "RTX 4090", 24)]
UNLIKE_GPUS = [Gpu(0, "RTX 4090", 24), Gpu(1, "RTX 3060", 12)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, in which there is no GPU, no llama-server and no Ollama."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    (tmp_path / "programs").mkdir()
    return directory


def program(tmp_path: Path, name: str, script: str) -> Path:
    path = tmp_path / "programs" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(path: Path, size: int = 0, **keys: str | int | list[str]) -> None:
    """Write the beginning of a GGUF file, and as much more as it is to have."""
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys))
    for key, value in keys.items():
        data += text(key.replace("__", "."))
        if isinstance(value, str):
            data += struct.pack("<I", 8) + text(value)
        elif isinstance(value, int):
            data += struct.pack("<II", 4, value)
        else:
            data += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        if size:
            # No blocks are written: the file is as long as that, and no larger.
            file.truncate(size)


def serve_lines(draft: Draft) -> dict[str, str]:
    return {model.name: model.keys["serve"] for model in draft.models}


class TestTheFile:
    def test_it_is_sound_and_the_schema_lies_beside_it(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["init"]) == 0
        assert sorted(os.listdir()) == ["config.yaml", "llmux.schema.json"]
        first = Path("config.yaml").read_text().splitlines()[0]
        assert first == "# yaml-language-server: $schema=llmux.schema.json"
        assert json.loads(Path("llmux.schema.json").read_text()) == configuration_schema()
        out, err = capsys.readouterr()
        assert err == ""
        assert out.splitlines()[0] == "config.yaml: 1 model"
        assert out.splitlines()[-1] == "look at it, then: llmux check && llmux"
        assert main(["check", "--strict"]) == 0

    @pytest.mark.parametrize("name", ["config.yaml", "other.yaml", "a/b.yaml"])
    def test_what_exists_is_left_as_it_is(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("a").mkdir()
        Path(name).write_text("mine")
        assert init(["-o", name]) == 1
        assert Path(name).read_text() == "mine"
        out, err = capsys.readouterr()
        assert out == ""
        assert err == (
            f"llmux init: {name} exists, and is left as it is; write elsewhere with -o FILE, "
            "or to standard output with -o -\n"
        )

    def test_a_link_to_nowhere_is_not_followed(self) -> None:
        Path("config.yaml").symlink_to("elsewhere")
        assert init([]) == 1
        assert os.listdir() == ["config.yaml"]

    def test_a_schema_that_is_there_is_left_as_it_is(self) -> None:
        Path("llmux.schema.json").write_text("mine")
        assert init([]) == 0
        assert Path("llmux.schema.json").read_text() == "mine"

    def test_standard_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert init(["-o", "-"]) == 0
        assert os.listdir() == []
        assert yaml.safe_load(capsys.readouterr().out)["port"] == 3000

    def test_another_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("etc").mkdir()
        assert init(["-o", "etc/llmux.yaml"]) == 0
        assert sorted(os.listdir("etc")) == ["llmux.schema.json", "llmux.yaml"]
        assert "llmux check -c etc/llmux.yaml && llmux -c" in capsys.readouterr().out

    def test_a_directory_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert init(["-o", "none/c.yaml"]) == 1
        assert capsys.readouterr().err == (
            "llmux init: none/c.yaml cannot be written: no such file or directory; write "
            "elsewhere with -o FILE\n"
        )

    @pytest.mark.parametrize(
        ("words", "problem"),
        [
            (["--from", "gguf"], "--from gguf takes a directory"),
            (["--from", "llama-swap"], "--from llama-swap takes a file"),
            (["x"], "what is x? write --from {gguf,llama-swap,ollama}"),
            (["--from", "lmstudio"], "invalid choice: 'lmstudio'"),
        ],
    )
    def test_words_that_make_no_sense(
        self, words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            init(words)
        assert caught.value.code == 2
        assert problem in capsys.readouterr().err


class TestDraft:
    NAMES = ("a", "1", "yes", "2024-01-01", "a: b", "it's", "#x", "qwen:8b", "org/m", "ü", "*a")

    def test_every_name_and_value_arrives(self) -> None:
        draft = Draft(
            [
                ModelDraft(
                    name,
                    {
                        "port": 8001,
                        "wake": f"echo {name} \u2028 \x85",
                        "sleep": f"a\n  b: {name}\n# c\n",
                    },
                    remarks=[f"of {name}\n\x1b"],
                )
                for name in self.NAMES
            ]
        )
        Path("c.yaml").write_text(draft.text("s.json"))
        config = load_config("c.yaml")
        assert list(config.models) == list(self.NAMES)
        for name, model in config.models.items():
            assert model.wake == f"echo {name} \u2028 \x85"
            assert model.sleep == f"a\n  b: {name}\n# c\n"

    def test_a_script_that_models_share_is_written_once(self) -> None:
        script = "one\ntwo\n"
        keys = {"port": 1, "wake": script, "sleep": script}
        draft = Draft([ModelDraft(name, dict(keys)) for name in "ab"])
        assert draft.text().count("two") == 1
        Path("c.yaml").write_text(draft.text())
        for model in load_config("c.yaml").models.values():
            assert (model.wake, model.sleep) == (script, script)


class TestGpus:
    def test_a_table(self) -> None:
        table = "0, NVIDIA GeForce RTX 4090, 24564\n1, NVIDIA A100, 80GB, 81920\n"
        assert gpus_in(table) == [
            Gpu(0, "NVIDIA GeForce RTX 4090", 23),
            Gpu(1, "NVIDIA A100, 80GB", 80),
        ]

    @pytest.mark.parametrize(
        "table", ["", "No devices were found\n", "0, NVIDIA GB10, [N/A]\n"]
    )
    def test_nothing_to_count_with(self, table: str) -> None:
        assert gpus_in(table) == []

    def test_the_program_is_asked(self, tmp_path: Path) -> None:
        assert installed_gpus() == []
        program(tmp_path, "nvidia-smi", 'echo "0, Tesla T4, 15360"')
        assert installed_gpus() == [Gpu(0, "Tesla T4", 15)]
        program(tmp_path, "nvidia-smi", 'echo "0, Tesla T4, 15360"; exit 9')
        assert installed_gpus() == []

    def test_resources(self) -> None:
        assert resources_of([])[0] == {}
        assert resources_of(ONE_GPU)[0] == {"resources": {"gpu0": 24}}
        assert resources_of(TWO_GPUS)[0] == {"resources": {0: 24, 1: 24}}

    def test_the_command_asks_it(self, tmp_path: Path) -> None:
        program(tmp_path, "nvidia-smi", 'echo "0, Tesla T4, 15360"; echo "1, L4, 23034"')
        assert main(["init"]) == 0
        assert load_config("config.yaml").resources == {"0": 15, "1": 22}
        gguf(Path("m/a.gguf"))
        assert main(["init", "--from", "gguf", "m", "-o", "other.yaml"]) == 0
        assert load_config("other.yaml").models["a"].serve == (
            "CUDA_VISIBLE_DEVICES=$LLMUX_RESOURCES CUDA_DEVICE_ORDER=PCI_BUS_ID "
            "llama-server --port $LLMUX_PORT -m m/a.gguf"
        )

    @pytest.mark.parametrize("gpus", [[], ONE_GPU, TWO_GPUS, UNLIKE_GPUS])
    def test_a_first_configuration_is_sound_with_any(self, gpus: list[Gpu]) -> None:
        Path("c.yaml").write_text(blank_draft(gpus).text())
        assert main(["check", "-c", "c.yaml", "--strict"]) == 0


class TestGguf:
    def test_a_line_for_each(self) -> None:
        gguf(Path("m/Qwen3-8B-Q4_K_M.gguf"), 5 * 2**30)
        gguf(Path("m/sub/SmolLM2 it's-F16.gguf"))
        draft = draft_of_directory("m", ".", [])
        assert serve_lines(draft) == {
            "qwen3-8b": "llama-server --port $LLMUX_PORT -m m/Qwen3-8B-Q4_K_M.gguf",
            "smollm2-it-s": "llama-server --port $LLMUX_PORT -m "
            + shlex.quote("m/sub/SmolLM2 it's-F16.gguf"),
        }
        assert draft.models[0].remarks == ["5.0 GiB of weights."]
        assert draft.left_out == []

    def test_the_command_writes_them(self, capsys: pytest.CaptureFixture[str]) -> None:
        gguf(Path("a.gguf"))
        gguf(Path("b.gguf"))
        Path("c.gguf").write_text("<html>")
        assert main(["init", "--from", "gguf", "."]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("config.yaml: 2 models\n")
        assert err == (
            "left out: c.gguf: it does not begin as a GGUF file does.\n"
            "llama-server is not on the PATH: write its whole path in each line\n"
        )
        assert set(load_config("config.yaml").models) == {"a", "b"}
        assert main(["check"]) == 0

    def test_names_outside_the_configuration_s_directory_are_absolute(self, here: Path) -> None:
        gguf(Path("m/a.gguf"))
        for base in ("etc", None):
            (line,) = serve_lines(draft_of_directory("m", base, [])).values()
            assert line.endswith(f"-m {here}/m/a.gguf")

    def test_parts_are_one_model(self) -> None:
        for at in 1, 2, 3:
            gguf(Path(f"big-Q8_0-{at:05}-of-00003.gguf"), 2**30)
        gguf(Path("half-00001-of-00002.gguf"))
        draft = draft_of_directory(".", ".", ONE_GPU)
        assert serve_lines(draft) == {
            "big": "llama-server --port $LLMUX_PORT -m big-Q8_0-00001-of-00003.gguf"
        }
        assert draft.models[0].suggestions == [
            "needs: {gpu0: 5}   # a guess: 3.0 GiB of weights, and the context"
        ]
        assert draft.left_out == ["half: of 2 parts 2 are missing."]

    def test_a_projector_goes_to_the_model_of_its_name(self) -> None:
        gguf(Path("a/gemma-3-4b-it-Q4_0.gguf"))
        gguf(Path("a/mmproj-gemma-3-4b-it-f32.gguf"))
        gguf(Path("a/mmproj-gemma-3-4b-it-f16.gguf"))
        gguf(Path("a/other-Q4_0.gguf"))
        gguf(Path("b/Qwen2.5-VL-Q4_0.gguf"))
        gguf(Path("b/mmproj-model-f16.gguf"))
        gguf(Path("c/llava.gguf"))
        gguf(Path("c/vision.gguf"), general__architecture="clip")
        lines = serve_lines(draft := draft_of_directory(".", ".", []))
        assert "--mmproj a/mmproj-gemma-3-4b-it-f16.gguf" in lines["gemma-3-4b-it"]
        assert "--mmproj" not in lines["other"]
        assert "--mmproj b/mmproj-model-f16.gguf" in lines["qwen2.5-vl"]
        assert "--mmproj" not in lines["llava"]
        assert draft.left_out == ["c/vision.gguf: no model beside it has its name."]
        assert len(lines) == 4

    def test_what_is_no_model_is_left_out(self) -> None:
        gguf(Path("a.gguf"))
        gguf(Path("lora.gguf"), general__type="adapter")
        gguf(Path("a.imatrix.gguf"), general__type="imatrix")
        draft = draft_of_directory(".", ".", [])
        assert list(serve_lines(draft)) == ["a"]
        assert draft.left_out == [
            "a.imatrix.gguf: of the kind imatrix, no model.",
            "lora.gguf: of the kind adapter, no model.",
        ]

    def test_models_for_embeddings_and_for_ranking(self) -> None:
        gguf(Path("e.gguf"), general__architecture="bert", bert__pooling_type=2)
        gguf(Path("r.gguf"), general__architecture="bert", bert__pooling_type=4)
        gguf(Path("c.gguf"), general__architecture="llama")
        lines = serve_lines(draft_of_directory(".", ".", []))
        assert lines["e"].endswith("--embeddings")
        assert lines["r"].endswith("--reranking")
        assert lines["c"].endswith("c.gguf")

    def test_names_are_unique(self) -> None:
        for name in (
            "a/m-Q4_K_M.gguf",
            "a/m-Q8_0.gguf",
            "a/same.gguf",
            "b/same.gguf",
            "b/x y.gguf",
            "b/x-y.gguf",
        ):
            gguf(Path(name))
        names = list(serve_lines(draft_of_directory(".", ".", [])))
        assert names == ["m-q4_k_m", "m-q8_0", "a/same", "b/same", "b/x-y", "b/x-y-2"]

    def test_needs_of_several_gpus_are_places(self) -> None:
        gguf(Path("small.gguf"), 8 * 2**30)
        gguf(Path("large.gguf"), 30 * 2**30)
        found = {
            model.name: model.suggestions[0].partition("   #")[0]
            for model in draft_of_directory(".", ".", TWO_GPUS).models
        }
        assert found == {
            "large": "needs: {0: 17, 1: 17}",
            "small": "needs: [{0: 10}, {1: 10}]",
        }

    @pytest.mark.parametrize("files", [[], ["notes.txt"], ["bad.gguf"]])
    def test_nothing_there_is_one_line(
        self, files: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in files:
            Path(name).write_text("x")
        assert init(["--from", "gguf", "."]) == 1
        err = capsys.readouterr().err
        assert err.startswith("llmux init: . holds no GGUF file that is a model; name another")
        assert ("does not begin as a GGUF file" in err) == ("bad.gguf" in files)
        assert not Path("config.yaml").exists()

    def test_no_directory(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert init(["--from", "gguf", "none"]) == 1
        assert capsys.readouterr().err == (
            "llmux init: none is not a directory; name one that holds GGUF files\n"
        )


class TestGgufHeader:
    def test_keys_behind_an_array(self) -> None:
        gguf(Path("a"), general__tags=["x", "y"], general__type="model", n=7)
        assert read_header(Path("a")) == {"general.type": "model", "n": 7}

    @pytest.mark.parametrize("data", [b"", b"GG", b"PK\3\4", b"GGUF\1\0\0\0"])
    def test_what_is_none(self, data: bytes) -> None:
        Path("a").write_bytes(data + (b"\0" * 24 if data.startswith(b"GGUF") else b""))
        with pytest.raises(NotGguf):
            read_header(Path("a"))

    def test_any_end_is_an_end(self) -> None:
        gguf(Path("a"), general__type="model", general__tags=["x"] * 3, n=7)
        whole = Path("a").read_bytes()
        for length in range(24, len(whole)):
            Path("a").write_bytes(whole[:length])
            assert set(read_header(Path("a"))) <= {"general.type", "n"}

    def test_lengths_that_cannot_be(self) -> None:
        count = struct.pack("<IQQ", 3, 0, 2**60)
        Path("a").write_bytes(b"GGUF" + count + text("k") + struct.pack("<IIQ", 9, 4, 2**62))
        assert read_header(Path("a")) == {}


@contextmanager
def ollama(answer: Any) -> Iterator[int]:
    """
    What answers as Ollama does: to the question for its models as it is told to, and to
    those of the scripts.  C{embed:latest} is for embeddings only.
    """
    loaded: set[str] = set()

    class Asked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/api/ps":
                self.say(200, {"models": [{"name": name} for name in sorted(loaded)]})
            else:
                self.say(*(answer if self.path == "/api/tags" else (404, None)))

        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = said["model"]
            if name not in ("qwen3:8b", "embed:latest"):
                self.say(404, {"error": f"model '{name}' not found"})
            elif said["keep_alive"] == 0:
                loaded.discard(name)
                self.say(200, {"done_reason": "unload"})
            elif self.path == "/api/generate" and name == "embed:latest":
                self.say(400, {"error": f"{name} does not support generate"})
            else:
                loaded.add(name)
                self.say(200, {"done_reason": "load"})

        def say(self, status: int, value: Any) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Asked)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def manifest(directory: Path, *parts: str) -> None:
    path = directory.joinpath("manifests", *parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"layers": [{"size": 2**30}, {"size": 2**30}]}))


class TestOllama:
    LISTED = {
        "models": [
            {"name": "qwen3:8b", "size": 5 * 2**30},
            {"name": "llama3.2:latest", "size": 2**31},
        ]
    }

    def test_the_models_that_it_lists(self, capsys: pytest.CaptureFixture[str]) -> None:
        with ollama((200, self.LISTED)) as port:
            assert main(["init", "--from", "ollama", f"127.0.0.1:{port}"]) == 0
        config = load_config("config.yaml")
        assert {name: model.port for name, model in config.models.items()} == {
            "llama3.2:latest": port,
            "qwen3:8b": port,
        }
        assert capsys.readouterr().err == ""
        assert main(["check"]) == 0

    def test_the_environment_says_where(self) -> None:
        with ollama((200, self.LISTED)) as port:
            for host in "127.0.0.1", "http://localhost", "0.0.0.0":
                draft = draft_of_ollama(None, {"OLLAMA_HOST": f"{host}:{port}"})
                assert [model.keys["port"] for model in draft.models] == [port, port]
                assert all("host" not in model.keys for model in draft.models)

    def test_latest_may_be_left_out(self) -> None:
        with ollama((200, self.LISTED)) as port:
            draft = draft_of_ollama(f"127.0.0.1:{port}")
        assert [model.keys.get("aliases") for model in draft.models] == [["llama3.2"], None]

    def test_the_directory_where_nobody_answers(self, tmp_path: Path) -> None:
        manifest(tmp_path, "registry.ollama.ai", "library", "qwen3", "8b")
        manifest(tmp_path, "registry.ollama.ai", "somebody", "mine", "latest")
        manifest(tmp_path, "hf.co", "org", "repo-GGUF", "Q4_K_M")
        (tmp_path / "manifests" / "registry.ollama.ai" / "library" / "qwen3" / "x").write_text(
            "{"
        )
        names = ["hf.co/org/repo-GGUF:Q4_K_M", "qwen3:8b", "somebody/mine:latest"]
        by_name = draft_of_ollama(str(tmp_path))
        by_environment = draft_of_ollama(
            None, {"OLLAMA_HOST": "127.0.0.1:1", "OLLAMA_MODELS": str(tmp_path)}
        )
        for draft in by_name, by_environment:
            assert [model.name for model in draft.models] == names
            assert draft.models[1].remarks == ["2.0 GiB of weights."]

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            ((200, {"models": []}), "has no model; ollama pull one first"),
            ((200, []), "what answers there is no ollama"),
            ((404, {}), "it says 404"),
            ((200, b"<html>"), "no Ollama answers at"),
        ],
    )
    def test_nothing_of_use(self, answer: Any, problem: str) -> None:
        with ollama(answer) as port, pytest.raises(DraftError, match=problem):
            draft_of_ollama(f"127.0.0.1:{port}")

    def test_nobody_there_is_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert init(["--from", "ollama", "127.0.0.1:1"]) == 1
        assert capsys.readouterr().err == (
            "llmux init: no Ollama answers at 127.0.0.1:1 (connection refused), and no "
            "directory of its models is found; start Ollama, or say where: --from ollama "
            "ADDRESS or DIRECTORY\n"
        )

    def test_neither_an_address_nor_a_directory(self) -> None:
        with pytest.raises(DraftError, match="is neither an address nor a directory"):
            draft_of_ollama("no such/place")

    @pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
    def test_the_scripts_do_what_hooks_do(self) -> None:
        listed = {"models": [{"name": name} for name in ("qwen3:8b", "embed:latest", "gone:x")]}

        def run(name: str, hook: str) -> subprocess.CompletedProcess[str]:
            script = next(m.keys[hook] for m in draft.models if m.name == name)
            variables = {
                "LLMUX_MODEL": name,
                "LLMUX_HOST": "127.0.0.1",
                "LLMUX_PORT": str(port),
            }
            return subprocess.run(
                ["/bin/sh", "-c", script],
                env={"PATH": os.defpath, **variables},
                capture_output=True,
                text=True,
                timeout=30,
            )

        with ollama((200, listed)) as port:
            draft = draft_of_ollama(f"127.0.0.1:{port}")
            for name in "qwen3:8b", "embed:latest":
                assert run(name, "alive").returncode == 1
                assert run(name, "sleep").returncode == 0
                for _ in range(2):
                    assert run(name, "wake").returncode == 0
                    assert run(name, "alive").returncode == 0
                for _ in range(2):
                    assert run(name, "sleep").returncode == 0
                    assert run(name, "alive").returncode == 1
            failed = run("gone:x", "wake")
            assert failed.returncode == 1
            assert "model 'gone:x' not found" in failed.stderr
        assert run("qwen3:8b", "alive").returncode == 1
