"""
These tests check C{llmux init --from gguf}: which files are models, their names and their
commands.
"""

from __future__ import annotations

import shlex
import struct
from pathlib import Path

import pytest

from llmux.command.main import main
from llmux.command.setup.init import main as init
from llmux.config import load_config
from llmux.drafting.draft import Draft
from llmux.drafting.gguf import draft_of_directory
from llmux.drafting.gguf_header import NotGguf, read_header
from llmux.drafting.gpus import Gpu

from .empty_directory import (
    empty_directory,  # noqa: F401  # a fixture
    gguf,
    text,
)

pytestmark = pytest.mark.usefixtures("here")

ONE_GPU = [Gpu(0, "RTX 4090", 24)]
TWO_GPUS = [Gpu(0, "RTX 4090", 24), Gpu(1, "RTX 4090", 24)]


def serve_lines(draft: Draft) -> dict[str, str]:
    return {model.name: model.keys["serve"] for model in draft.models}


class TestGguf:
    def test_each_file_gets_a_line(self) -> None:
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

    def test_models_for_embeddings_and_for_ranking_get_their_option(self) -> None:
        gguf(Path("e.gguf"), general__architecture="bert", bert__pooling_type=2)
        gguf(Path("r.gguf"), general__architecture="bert", bert__pooling_type=4)
        gguf(Path("c.gguf"), general__architecture="llama")
        lines = serve_lines(draft_of_directory(".", ".", []))
        assert lines["e"].endswith("--embeddings")
        assert lines["r"].endswith("--reranking")
        assert lines["c"].endswith("c.gguf")

    def test_each_file_has_a_name_of_its_own(self) -> None:
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

    def test_a_missing_directory_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert init(["--from", "gguf", "none"]) == 1
        assert capsys.readouterr().err == (
            "llmux init: none is not a directory; name one that holds GGUF files\n"
        )


class TestGgufHeader:
    def test_keys_behind_an_array_are_read(self) -> None:
        gguf(Path("a"), general__tags=["x", "y"], general__type="model", n=7)
        assert read_header(Path("a")) == {"general.type": "model", "n": 7}

    @pytest.mark.parametrize("data", [b"", b"GG", b"PK\3\4", b"GGUF\1\0\0\0"])
    def test_a_file_that_is_no_gguf_is_refused(self, data: bytes) -> None:
        Path("a").write_bytes(data + (b"\0" * 24 if data.startswith(b"GGUF") else b""))
        with pytest.raises(NotGguf):
            read_header(Path("a"))

    def test_any_end_is_an_end(self) -> None:
        gguf(Path("a"), general__type="model", general__tags=["x"] * 3, n=7)
        whole = Path("a").read_bytes()
        for length in range(24, len(whole)):
            Path("a").write_bytes(whole[:length])
            assert set(read_header(Path("a"))) <= {"general.type", "n"}

    def test_lengths_that_cannot_be_are_refused(self) -> None:
        count = struct.pack("<IQQ", 3, 0, 2**60)
        Path("a").write_bytes(b"GGUF" + count + text("k") + struct.pack("<IIQ", 9, 4, 2**62))
        assert read_header(Path("a")) == {}
