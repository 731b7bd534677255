"""
These tests check what the commands and the page rely on: they put the same questions to the
daemon of C{tests/fake_daemon.py} and to a real one.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from llmux.command.full_screen.held_lanes import SeenHistory
from llmux.command.link.daemon_link import CommandRefused, DaemonLink, link_of_config
from llmux.socket_path import socket_path
from tests.browser import Browser, browser, why_not
from tests.daemon import (
    LLMUX,
    Daemon,
    ask,
    backend,
    connect,
    environment,
    run,
    wait_until,
    write_config,
)
from tests.fake_daemon import ago, fake_daemon, two_models

SCRIPTS = {
    "wake": 'echo "loading $LLMUX_MODEL"; touch "$LLMUX_STATE/up"',
    "sleep": 'rm -f "$LLMUX_STATE/up"',
    "alive": 'test -e "$LLMUX_STATE/up"',
}


class Served:
    """
    This is a daemon of which llama is awake and mistral asleep.

    @ivar directory: the directory where commands are run.
    @ivar link: the object that asks the daemon.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.link: DaemonLink = link_of_config(str(directory / "config.json"))

    def llmux(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return run(words[0], "-c", "config.json", *words[1:], cwd=self.directory)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start a command that goes on."""
        return subprocess.Popen(
            [*LLMUX, words[0], "-c", "config.json", *words[1:]],
            cwd=self.directory,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )

    def request(self, model: str) -> None:
        """Have a request for a model answered."""
        raise NotImplementedError


@contextmanager
def fake(directory: Path) -> Iterator[Served]:
    (directory / "config.json").write_text("{}")
    path = socket_path(directory / "config.json", None)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with fake_daemon(two_models()) as daemon:
        daemon.listen_at(path)
        daemon.history["models"] = {"llama": [[ago(240), "awake", {"gpu0": 22}]]}
        daemon.log = ["2026-11-24T05:31:00.120Z llama wake stdout: loading llama"]
        row: dict[str, Any] = {
            "id": "1",
            "at": ago(9),
            "key": None,
            "model": "llama",
            "name": "llama",
        }
        row |= {"method": "POST", "path": "/v1/completions", "status": 200, "bytes": 14}
        row |= {"waited_secs": 0.1, "first_byte_secs": 0.2, "service_secs": 0.1}
        daemon.requests = [row | {"outcome": "answered", "switch": None}]
        daemon.does["open"] = lambda body: (
            200,
            {"schema": 1, "url": "http://127.0.0.1:3000/llmux/?token=x"},
        )

        class Fake(Served):
            def request(self, model: str) -> None:
                daemon.change("llama", state="asleep")
                daemon.change(model, state="awake", in_flight=1)

        yield Fake(directory)


@contextmanager
def real(directory: Path) -> Iterator[Served]:
    with backend() as behind:
        models = {name: {"port": behind.port, **SCRIPTS} for name in ("llama", "mistral")}
        port = write_config(
            directory, behind.port, models=models, state_dir=str(directory / "state")
        )

        class Real(Served):
            def request(self, model: str) -> None:
                with closing(connect(port)) as connection:
                    assert ask(connection, model)[0] == 200

        with Daemon(["-c", "config.json"], directory):
            served = Real(directory)
            served.request("llama")
            yield served


@pytest.fixture(params=[fake, real], ids=["fake", "real"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    with request.param(tmp_path) as served:
        yield served


def shape(document: Any) -> Any:
    """Return a document with kinds in place of values; what may be null fits everything."""
    if isinstance(document, dict):
        return {key: shape(value) for key, value in document.items()}
    if isinstance(document, int | float) and not isinstance(document, bool):
        return "number"
    if isinstance(document, str):
        try:
            datetime.fromisoformat(document)
        except ValueError:
            return "text"
        return "moment"
    return type(document).__name__


def lacking(needed: Any, given: Any, path: str = "") -> list[str]:
    """Return the paths at which a document lacks something that another one has."""
    if needed == "NoneType" or given == "NoneType":
        return []
    if isinstance(needed, dict):
        if not isinstance(given, dict):
            return [f"{path}: {given}"]
        missing = [f"{path}.{key}" for key in needed if key not in given]
        return missing + [
            line
            for key in needed.keys() & given.keys()
            for line in lacking(needed[key], given[key], f"{path}.{key}")
        ]
    return [] if needed == given else [f"{path}: {given} in place of {needed}"]


class TestContract:
    def test_a_status_has_all_that_is_shown(self, served: Served) -> None:
        status = served.link.ask("GET", "/llmux/status")
        needed = two_models()
        for document in needed, status:
            for list_ in "models", "resources", "switches", "pins":
                document[list_] = {str(i): each for i, each in enumerate(document[list_])}
            for resource in document["resources"].values():
                resource["held"] = None
            for entry in document["models"].values():
                entry["place"] = entry["cost_secs"] = entry["aliases"] = None
        assert lacking(shape(needed), shape(status)) == []
        assert status["schema"] == 1

    def test_the_status_of_one_model_has_that_model_alone(self, served: Served) -> None:
        status = served.link.ask("GET", "/llmux/status?model=llama")
        assert [entry["name"] for entry in status["models"]] == ["llama"]
        with pytest.raises(CommandRefused, match=r"(?i)there is no model") as caught:
            served.link.ask("GET", "/llmux/status?model=nope")
        assert caught.value.status == 404

    def test_history_can_be_drawn(self, served: Served) -> None:
        document = served.link.ask("GET", "/llmux/history?secs=1800")
        at, state, place = document["models"]["llama"][-1]
        assert datetime.fromisoformat(at).tzinfo is not None
        assert (state, next(iter(place.values())) > 0) == ("awake", True)
        for switch in document["switches"]:
            assert switch.keys() >= {"at", "target", "victims", "reason", "result"}
            assert switch.keys() >= {"drain_secs", "cost_secs"}
        SeenHistory().load(document)

    def test_who_comes_by_the_socket_may_do_everything(self, served: Served) -> None:
        roles = served.link.ask("GET", "/llmux/whoami")["roles"]
        assert set(roles) >= {"view", "control"}

    def test_requests_have_what_is_shown(self, served: Served) -> None:
        (row,) = served.link.ask("GET", "/llmux/requests")["requests"]
        assert row["model"] == "llama"
        assert row.keys() >= {"id", "at", "key", "name", "method", "path", "status", "switch"}
        assert row.keys() >= {"waited_secs", "first_byte_secs", "service_secs", "outcome"}

    def test_a_command_that_is_none_is_refused_in_a_sentence(self, served: Served) -> None:
        with pytest.raises(CommandRefused) as caught:
            served.link.ask("GET", "/llmux/nothing")
        assert caught.value.status == 404
        assert str(caught.value)


class TestCommandLine:
    def test_ps_lists_the_models(self, served: Served) -> None:
        said = served.llmux("ps")
        assert (said.returncode, said.stderr) == (0, "")
        heads, *lines = (line.split() for line in said.stdout.splitlines())
        assert heads[:2] == ["MODEL", "STATE"]
        assert [line[:2] for line in lines] == [["llama", "awake"], ["mistral", "asleep"]]

    def test_status_tells_whether_a_model_is_awake(self, served: Served) -> None:
        assert "llama has been awake for " in served.llmux("status").stdout
        assert served.llmux("status", "llama", "-q").returncode == 0
        assert served.llmux("status", "mistral", "-q").returncode == 1
        assert served.llmux("status", "nope").returncode == 1

    def test_top_prints_a_frame_without_a_terminal(self, served: Served) -> None:
        said = served.llmux("top")
        assert (said.returncode, said.stderr) == (0, "")
        assert "=llama=" in said.stdout or "gpu" in said.stdout

    def test_requests_lists_those_that_ended(self, served: Served) -> None:
        lines = served.llmux("requests").stdout.splitlines()
        assert lines[1].split()[1:5] == ["1", "llama", "POST", "/v1/completions"]

    def test_logs_prints_the_output_of_a_model(self, served: Served) -> None:
        assert served.llmux("logs", "llama").stdout.endswith(
            "llama wake stdout: loading llama\n"
        )
        assert served.llmux("logs", "nope").returncode == 1

    def test_open_prints_an_address_with_a_token(self, served: Served) -> None:
        assert "/llmux/?token=" in served.llmux("open").stdout

    def test_events_follows_a_model_until_it_is_awake(self, served: Served) -> None:
        with served.begin("events", "--only", "model", "--json") as following:
            try:
                assert following.stdout is not None
                first = json.loads(following.stdout.readline())
                assert first["event"] == "status"
                served.request("mistral")
                while True:
                    event = json.loads(following.stdout.readline())
                    assert event["event"] == "model"
                    if (event["name"], event["state"]) == ("mistral", "awake"):
                        break
            finally:
                following.kill()

    @pytest.mark.parametrize(
        ("words", "after"),
        [
            ("switch mistral", {"mistral": "awake", "llama": "asleep"}),
            ("sleep llama --wait", {"mistral": "asleep", "llama": "asleep"}),
            ("pause --sleep --wait", {"mistral": "asleep", "llama": "asleep"}),
            ("pin mistral --for 2h --wait", {"mistral": "awake", "llama": "asleep"}),
            ("wake mistral --wait", {"mistral": "awake", "llama": "asleep"}),
        ],
    )
    def test_a_command_is_carried_out(
        self, tmp_path: Path, words: str, after: dict[str, str]
    ) -> None:
        """This runs the real daemon alone: a fake cannot show what a command does."""
        with real(tmp_path) as served:
            said = served.llmux(*words.split(), "--json")
            assert (said.returncode, said.stderr) == (0, "")
            states = {m["name"]: m["state"] for m in json.loads(said.stdout)["models"]}
            assert states == after

    def test_logs_as_they_come(self, tmp_path: Path) -> None:
        with real(tmp_path) as served, served.begin("logs", "mistral", "-f") as following:
            try:
                assert following.stdout is not None
                served.request("mistral")
                assert following.stdout.readline().endswith("stdout: loading mistral\n")
            finally:
                following.kill()

    def test_reload_prints_what_has_changed(self, tmp_path: Path) -> None:
        with real(tmp_path) as served:
            file = tmp_path / "config.json"
            document = json.loads(file.read_text())
            document["models"]["qwen"] = document["models"]["llama"]
            file.write_text(json.dumps(document))
            said = served.llmux("reload")
            assert said.returncode == 0
            assert "qwen" in said.stdout
            assert "qwen" in served.llmux("ps").stdout
            file.write_text("{")
            said = served.llmux("reload")
            assert (said.returncode, "is not JSON" in said.stderr) == (1, True)
            assert "The last reload failed: " in served.llmux("status").stdout

    def test_what_is_no_request_cannot_be_cancelled(self, tmp_path: Path) -> None:
        with real(tmp_path) as served:
            assert served.llmux("cancel", "none").returncode == 1


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
class TestPage:
    @pytest.fixture
    def served(self, tmp_path: Path) -> Iterator[Served]:
        with real(tmp_path) as served:
            yield served

    @pytest.fixture
    def tab(self, served: Served) -> Iterator[Browser]:
        with browser() as tab:
            tab.look_like()
            tab.open(served.llmux("open").stdout.strip())
            tab.wait_for("#now", "llama has been awake")
            yield tab

    def test_the_page_follows_a_real_daemon(self, served: Served, tab: Browser) -> None:
        assert tab.driver.current_url.endswith("/llmux/")
        tab.wait_for("#rows", "/v1/completions")
        tab.wait_for("#log pre", "loading llama")
        wait_until(
            lambda: tab.script("return !document.querySelector('#pause').disabled"),
            "the cookie to give control",
        )
        served.request("mistral")
        tab.wait_for("#now", "mistral has been awake")
        tab.wait_for("#switches", "llama")
        assert tab.driver.title.startswith("mistral")
        assert [a for a in tab.loaded() if "/llmux/" not in a] == []
        assert tab.messages() == []

    def test_a_button_reaches_a_real_daemon(self, served: Served, tab: Browser) -> None:
        tab.button("mistral", "Switch now").click()
        tab.click("#do")
        tab.wait_until(lambda: "told" not in tab.text("#said"), "an answer")
        tab.wait_for("#now", "mistral has been awake")
        assert tab.messages() == []

    def test_the_page_has_a_table_without_javascript(
        self, served: Served, tab: Browser
    ) -> None:
        tab.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        tab.driver.refresh()
        table = tab.driver.find_element("css selector", "noscript table")
        assert "llama awake" in table.text
