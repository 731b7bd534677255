"""
These tests check what a configuration may be, and what is said of a configuration that is not
allowed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from llmux.config import (
    Config,
    ConfigError,
    ModelConfig,
    PolicyConfig,
    config_from_mapping,
    load_config,
    parse_config,
)
from llmux.policy.cost_aware import CostAwareSettings

from .config_mistakes import (
    BAD_JSON,
    BAD_YAML,
    GOOD,
    GOOD_JSON,
    MODEL,
    TOP_KEYS,
    model,
)


def complaint(text: str | bytes, name: str = "c.yaml", port: int | None = None) -> str:
    """Return what is said of a file that is not sound, which is one line."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    with pytest.raises(ConfigError) as caught:
        parse_config(data, name, port=port)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert message.isprintable()
    return message.removeprefix(f"{name}: ")


class TestSound:
    def test_keys_that_are_left_out_have_defaults(self) -> None:
        config = parse_config(GOOD.encode(), "dir/c.yaml")
        assert config == Config(
            models={"a": ModelConfig(port=8001, wake="up", sleep="down", alive="ask")},
            policy=PolicyConfig(settings=CostAwareSettings()),
            directory=os.path.abspath("dir"),
            file="dir/c.yaml",
        )
        a = config.models["a"]
        assert (a.host, a.weight) == ("127.0.0.1", 1.0)
        assert (a.wake_timeout_secs, a.sleep_timeout_secs) == (900.0, 300.0)
        assert (a.alive_timeout_secs, a.first_byte_timeout_secs) == (10.0, None)
        assert (a.check_secs, a.confirm_sleep, config.abandon_wake_secs) == (60.0, False, 30.0)
        assert (config.host, config.port, config.listen) == ("127.0.0.1", 3000, None)
        assert config.client_stall_timeout_secs == 60.0
        assert config.shutdown_timeout_secs == 30.0
        assert (config.sleep_on_exit, config.max_body_mb) == (False, 512)
        assert (config.request_log, config.state_dir) == (None, None)
        assert (config.preload, config.default_model) == ((), None)
        assert (config.default_after_secs, a.idle_sleep_secs) == (60.0, None)
        policy = config.policy
        assert (policy.name, policy.drain_before_switch) == ("cost_aware", True)
        assert (policy.request_timeout_secs, policy.drain_timeout_secs) == (None, None)
        assert policy.min_active_secs == 0.0

    def test_every_key_is_read(self) -> None:
        config = parse_config(
            b"""
models:
  "qwen2.5:7b":
    port: 8002
    host: 10.0.0.2
    wake: |
      one
      two
    sleep: ./down
    alive: "true"
    wake_timeout_secs: 1
    sleep_timeout_secs: 2.5
    alive_timeout_secs: 3
    first_byte_timeout_secs: 20
    check_secs: null
    confirm_sleep: true
    weight: 4
policy:
  name: fifo
  request_timeout_secs: 300
  drain_before_switch: false
  min_active_secs: 5
  drain_timeout_secs: 6
port: 3001
host: "::"
client_stall_timeout_secs: 7
shutdown_timeout_secs: 0
sleep_on_exit: true
max_body_mb: 2048
request_log: requests.jsonl
state_dir: state
""",
            "c.yml",
        )
        assert config.models["qwen2.5:7b"] == ModelConfig(
            port=8002,
            host="10.0.0.2",
            wake="one\ntwo\n",
            sleep="./down",
            alive="true",
            wake_timeout_secs=1.0,
            sleep_timeout_secs=2.5,
            alive_timeout_secs=3.0,
            first_byte_timeout_secs=20.0,
            check_secs=None,
            confirm_sleep=True,
            weight=4.0,
        )
        assert config.policy == PolicyConfig(
            name="fifo",
            request_timeout_secs=300.0,
            drain_before_switch=False,
            min_active_secs=5.0,
            drain_timeout_secs=6.0,
        )
        assert (config.port, config.host, config.request_log) == (3001, "::", "requests.jsonl")
        assert (config.client_stall_timeout_secs, config.shutdown_timeout_secs) == (7.0, 0.0)
        assert (config.sleep_on_exit, config.max_body_mb) == (True, 2048)
        assert config.state_dir == "state"
        # Whole numbers where others are wanted become others.
        assert isinstance(config.policy.min_active_secs, float)

    def test_a_file_that_ends_in_json_is_read_as_json(self) -> None:
        text = GOOD_JSON + ', "policy": {"request_timeout_secs": null}, "port": 3001}'
        config = parse_config(text.encode(), "C.JSON")
        assert (config.port, list(config.models)) == (3001, ["a"])

    @pytest.mark.parametrize("where", ["top", "policy"])
    def test_keys_may_stand_in_either_place(self, where: str) -> None:
        keys = {
            "client_stall_timeout_secs": 1,
            "drain_timeout_secs": 2,
            "shutdown_timeout_secs": 3,
            "sleep_on_exit": True,
        }
        a = {"port": 1, "wake": "w", "sleep": "s", "alive": "l"}
        document = {"models": {"a": a}, **(keys if where == "top" else {"policy": keys})}
        config = config_from_mapping(document)
        assert config.client_stall_timeout_secs == 1
        assert config.policy.drain_timeout_secs == 2
        assert config.shutdown_timeout_secs == 3
        assert config.sleep_on_exit is True

    @pytest.mark.parametrize(
        "host", ["::1", "10.0.0.1", "gpu_1.lan.", "münchen.example", "fe80::1%eth0"]
    )
    def test_a_host_may_be_a_name_or_an_address(self, host: str) -> None:
        text = model(host=f'"{host}"') + "port: 8001"
        assert parse_config(text.encode(), "c.yaml").models["a"].host == host

    def test_two_models_may_share_a_backend(self) -> None:
        config = parse_config(f"models: {{a: {{{MODEL}}}, b: {{{MODEL}}}}}".encode(), "c.yaml")
        assert config.models["a"] == config.models["b"]

    def test_anchors_and_merges_of_yaml_are_followed(self) -> None:
        config = parse_config(
            f"models: {{a: &a {{{MODEL}}}, b: {{port: 2, <<: *a}}, c: {{<<: [*a]}}}}".encode(),
            "c.yaml",
        )
        assert config.models["b"].port == 2
        assert config.models["b"].wake == config.models["c"].wake == "up"

    @pytest.mark.parametrize("policy", ["", "policy:\n", "policy: {}\n", "policy: ~\n"])
    def test_an_empty_policy_is_the_default_policy(self, policy: str) -> None:
        assert parse_config((GOOD + policy).encode(), "c.yaml").policy == PolicyConfig(
            settings=CostAwareSettings()
        )

    def test_a_byte_order_mark_is_skipped(self) -> None:
        for name, text in ("c.yaml", GOOD), ("c.json", GOOD_JSON + "}"):
            assert parse_config(b"\xef\xbb\xbf" + text.encode(), name).models

    def test_the_port_of_the_command_line_has_precedence(self) -> None:
        assert parse_config((GOOD + "port: 4000").encode(), "c.yaml", port=5).port == 5
        assert parse_config((GOOD + "port: 4000").encode(), "c.yaml", port=0).port == 0

    def test_a_mapping_is_taken_over_and_left_unchanged(self, tmp_path: Path) -> None:
        document = {"models": {"a": {"port": 1, "wake": "w", "sleep": "s", "alive": "l"}}}
        config = config_from_mapping(document, directory=str(tmp_path))
        assert (config.directory, config.file) == (str(tmp_path), "configuration")
        assert config_from_mapping(document).directory == os.getcwd()
        assert document == {
            "models": {"a": {"port": 1, "wake": "w", "sleep": "s", "alive": "l"}}
        }


def _short(value: object) -> str:
    return repr(value)[:40]


class TestUnsound:
    @pytest.mark.parametrize(("text", "expected"), BAD_YAML, ids=_short)
    def test_a_mistake_in_yaml_is_told_with_its_place(
        self, text: str | bytes, expected: str
    ) -> None:
        found = complaint(text)
        if expected.endswith(": "):
            found = found[: len(expected)]
        assert found == expected

    @pytest.mark.parametrize(("text", "expected"), BAD_JSON, ids=_short)
    def test_a_mistake_in_json_is_told_with_its_place(self, text: str, expected: str) -> None:
        assert complaint(text, "c.json") == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (
                GOOD + f"? {'k' * 10**6}\n: 1",
                f'"{"k" * 57}...": unknown key; known here: {TOP_KEYS}',
            ),
            (
                model(port="1" + ":1" * 10**5),
                f'models.a.port: "{("1" + ":1" * 30)[:57]}..." cannot be read as a number; '
                "correct it",
            ),
        ],
        ids=["a key of a megabyte", "a number to base 60 of 100 000 digits"],
    )
    def test_long_words_take_no_long_time(self, text: str, expected: str) -> None:
        began = time.process_time()
        assert complaint(text) == expected
        assert time.process_time() - began < 1

    def test_the_port_of_the_command_line_beside_listen_is_refused(self) -> None:
        assert complaint(GOOD + "listen: tcp:1", port=5) == (
            "listen: the port given by -p cannot override it; leave out one of the two"
        )

    def test_keys_that_a_mapping_has_and_a_file_cannot(self) -> None:
        for document, expected in [
            ({1: 2}, "configuration: the key 1 is not a string; put it in quotes"),
            (
                {"models": {1: {}}},
                "configuration: models: the name 1 is not a string; put it in quotes",
            ),
        ]:
            with pytest.raises(ConfigError) as caught:
                config_from_mapping(document)
            assert str(caught.value) == expected

    def test_error_keeps_its_parts(self) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_config(model(port="0").encode(), "c.yaml")
        error = caught.value
        assert (error.file, error.path) == ("c.yaml", "models.a.port")
        assert (error.problem, error.remedy) == ("0 is not a port", "give 1 to 65535")


class TestFiles:
    def test_a_file_is_read_and_a_port_given_overrides_its_own(self, tmp_path: Path) -> None:
        path = tmp_path / "c.yaml"
        path.write_text(GOOD)
        config = load_config(str(path), port=7)
        assert (config.port, config.directory, config.file) == (7, str(tmp_path), str(path))

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("nothing.yaml", "it cannot be read: no such file or directory"),
            (".", "it cannot be read: is a directory"),
            ("a\0b", "it cannot be read: embedded null byte"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_told(
        self, tmp_path: Path, name: str, why: str
    ) -> None:
        path = str(tmp_path / name)
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        shown = path.replace("\0", "\\x00")
        assert str(caught.value) == f"{shown}: {why}; name the configuration with -c FILE"

    def test_an_endless_file_is_not_read_to_its_end(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load_config("/dev/zero")
        assert str(caught.value) == "/dev/zero: it is larger than 16 MiB; is it the right file?"
