"""These tests check C{llmux init}: the file that it writes, and the GPUs that it finds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from llmux.command.main import main
from llmux.command.setup.init import main as init
from llmux.config import load_config
from llmux.config.json_schema import configuration_schema
from llmux.drafting.blank import blank_draft
from llmux.drafting.draft import Draft, ModelDraft
from llmux.drafting.gguf import resources_of
from llmux.drafting.gpus import Gpu, gpus_in, installed_gpus

from .empty_directory import (
    empty_directory,  # noqa: F401  # a fixture
    gguf,
    program,
)

pytestmark = pytest.mark.usefixtures("here")

ONE_GPU = [Gpu(0, "RTX 4090", 24)]
TWO_GPUS = [Gpu(0, "RTX 4090", 24), Gpu(1, "RTX 4090", 24)]
UNLIKE_GPUS = [Gpu(0, "RTX 4090", 24), Gpu(1, "RTX 3060", 12)]


class TestTheFile:
    def test_the_file_is_sound_and_the_schema_lies_beside_it(
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

    def test_model_files_are_seen(self, capsys: pytest.CaptureFixture[str]) -> None:
        gguf(Path("models/a.gguf"))
        assert init([]) == 0
        assert capsys.readouterr().err == (
            "there are GGUF files in models: llmux init --from gguf models -o FILE writes a "
            "line for each\n"
        )

    def test_a_dash_means_standard_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert init(["-o", "-"]) == 0
        assert os.listdir() == []
        assert yaml.safe_load(capsys.readouterr().out)["port"] == 3000

    def test_another_file_has_its_schema_beside_it(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("etc").mkdir()
        assert init(["-o", "etc/llmux.yaml"]) == 0
        assert sorted(os.listdir("etc")) == ["llmux.schema.json", "llmux.yaml"]
        assert "llmux check -c etc/llmux.yaml && llmux -c" in capsys.readouterr().out

    def test_a_directory_that_is_not_there_is_told(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
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
    def test_words_that_make_no_sense_are_refused_with_status_2(
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
    def test_each_gpu_of_the_table_is_read(self) -> None:
        table = "0, NVIDIA GeForce RTX 4090, 24564\n1, NVIDIA A100, 80GB, 81920\n"
        assert gpus_in(table) == [
            Gpu(0, "NVIDIA GeForce RTX 4090", 23),
            Gpu(1, "NVIDIA A100, 80GB", 80),
        ]

    @pytest.mark.parametrize(
        "table", ["", "No devices were found\n", "0, NVIDIA GB10, [N/A]\n"]
    )
    def test_no_gpu_is_found_without_a_program_to_ask(self, table: str) -> None:
        assert gpus_in(table) == []

    def test_the_program_is_asked(self, tmp_path: Path) -> None:
        assert installed_gpus() == []
        program(tmp_path, "nvidia-smi", 'echo "0, Tesla T4, 15360"')
        assert installed_gpus() == [Gpu(0, "Tesla T4", 15)]
        program(tmp_path, "nvidia-smi", 'echo "0, Tesla T4, 15360"; exit 9')
        assert installed_gpus() == []

    def test_each_gpu_is_a_resource(self) -> None:
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
