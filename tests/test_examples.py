"""
These tests check the examples: each configuration loads, each script parses, and the scripts
that talk to an API or a program do so with a stand-in that behaves like it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.web.resource import IResource
from twisted.web.server import Request, Site
from zope.interface import implementer

from llmux.command.checking.script_check import script_problems
from llmux.config import Config, ModelConfig, load_config
from llmux.hooks.runner import HookRunner
from llmux.interfaces import HookKind, HookResult

from .daemon import LLMUX, TWISTD, Daemon, free_port, wait_until

EXAMPLES = Path(__file__).parent.parent / "examples"

WAKE, SLEEP, ALIVE = HookKind.WAKE, HookKind.SLEEP, HookKind.ALIVE


BACKENDS = (
    "docker",
    "embedding",
    "llama-cpp",
    "ollama",
    "podman-criu",
    "systemd",
    "two-gpus",
    "vllm-sleep",
)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_configuration_loads_and_its_hooks_may_be_run(name: str) -> None:
    """
    An example's configuration loads, its README is there, and the files that its hooks name are
    there and may be run.
    """
    directory = EXAMPLES / name
    assert (directory / "README.md").read_text().startswith("# ")
    config = load_config(str(directory / "config.yaml"))
    for model in config.models.values():
        for script in filter(None, (model.serve, model.wake, model.sleep, model.alive)):
            subprocess.run(["sh", "-n", "-c", script], check=True)
            assert list(script_problems(script, str(directory))) == []


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*/*.sh")), ids=lambda path: path.name)
def test_a_script_can_be_parsed_by_sh(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.parametrize("page", sorted(EXAMPLES.glob("*/README.md")), ids=str)
def test_every_request_that_a_page_shows_says_that_it_is_json(page: Path) -> None:
    """Real vLLM refuses other requests."""
    text = page.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if "curl" in line and " -d " in line:
            assert "-H 'Content-Type: application/json'" in line


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a directory of programs that hooks find before all others."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def program(path: Path, script: str) -> None:
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


class Example:
    """An example has its hooks, with another port for its backends."""

    def __init__(self, name: str, port: int, **renamed: str) -> None:
        """@param renamed: by new name of a model, its name in the example."""
        from twisted.internet import reactor

        self.config = load_config(str(EXAMPLES / name / "config.yaml"))
        self.models: dict[str, ModelConfig] = {
            name: msgspec.structs.replace(model, port=port)
            for name, model in self.config.models.items()
        }
        self.models |= {new: self.models[old] for new, old in renamed.items()}
        typed_reactor: Any = reactor
        self._runner = HookRunner(typed_reactor, self.models, str(EXAMPLES / name))

    async def run(self, model: str, hook: HookKind) -> HookResult:
        return await self._runner.start(model, hook).exited

    async def is_awake(self, model: str) -> bool:
        result = await self.run(model, ALIVE)
        assert result.ok or result.says_no
        return result.ok


@implementer(IResource)
class Api:
    """This is a stand-in for a backend's API, which listens from the call of C{listen} on."""

    isLeaf = True
    server = None

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._port: Any = None

    def putChild(self, path: bytes, child: object) -> None:
        raise NotImplementedError

    def getChildWithDefault(self, name: bytes, request: Request) -> IResource:
        raise NotImplementedError

    def listen(self, port: int = 0) -> int:
        from twisted.internet import reactor

        typed_reactor: Any = reactor
        self._port = typed_reactor.listenTCP(port, Site(self), interface="127.0.0.1")
        number: int = self._port.getHost().port
        return number

    def close(self) -> None:
        if self._port is not None:
            pytest_twisted.blockon(self._port.stopListening())

    def render(self, request: Request) -> bytes:
        self.requests.append(f"{request.method.decode()} {request.uri.decode()}")
        status, value = self.answer(request)
        request.setResponseCode(status)
        request.setHeader("connection", "close")
        return b"" if value is None else json.dumps(value, separators=(",", ":")).encode()

    def answer(self, request: Request) -> tuple[int, Any]:
        """Return the status and the JSON value of the answer."""
        raise NotImplementedError


# Ollama.


class Ollama(Api):
    """
    This API answers as Ollama does.

    @ivar loaded: by model in memory, for how long it stays.
    @ivar lists_as: the name by which C{/api/ps} lists what is loaded.
    @ivar unloads_after: how many more times C{/api/ps} lists what was unloaded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.installed = {"qwen3:8b", "mistral:7b", "mistral:latest"}
        self.loaded: dict[str, int] = {}
        self.unloads_after = 0
        self.lists_as: str | None = None
        self._going: dict[str, int] = {}

    def answer(self, request: Request) -> tuple[int, Any]:
        if request.path == b"/api/ps":
            self._going = {name: left - 1 for name, left in self._going.items() if left > 0}
            names = [self.lists_as or name for name in (*self.loaded, *self._going)]
            return 200, {"models": [{"name": n, "model": n, "size": 1} for n in names]}
        assert request.path == b"/api/generate"
        assert request.content is not None
        wanted = json.load(request.content)
        # Ollama takes a name in any case, and means the one that was pulled.
        found = [name for name in self.installed if name.lower() == wanted["model"].lower()]
        if not found:
            return 404, {"error": f"model '{wanted['model']}' not found"}
        name = found[0]
        assert wanted["stream"] is False and "prompt" not in wanted
        if wanted["keep_alive"] == 0:
            self.loaded.pop(name, None)
            self._going[name] = self.unloads_after
        else:
            self.loaded[name] = wanted["keep_alive"]
        return 200, {"model": name, "response": "", "done": True}


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    api = Ollama()
    yield api
    api.close()


@pytest_twisted.ensureDeferred
async def test_the_hooks_of_ollama_tell_two_models_on_one_port_apart(ollama: Ollama) -> None:
    """C{alive} tells two models on one port apart."""
    example = Example("ollama", ollama.listen())
    assert not await example.is_awake("qwen3:8b")
    assert (await example.run("qwen3:8b", WAKE)).ok
    assert ollama.loaded == {"qwen3:8b": -1}
    assert await example.is_awake("qwen3:8b")
    assert not await example.is_awake("mistral:7b")
    ollama.unloads_after = 3
    assert (await example.run("qwen3:8b", SLEEP)).ok
    assert not await example.is_awake("qwen3:8b")
    assert (await example.run("mistral:7b", WAKE)).ok
    assert ollama.loaded == {"mistral:7b": -1}


@pytest_twisted.ensureDeferred
async def test_a_hook_of_ollama_does_no_harm_when_it_is_repeated(ollama: Ollama) -> None:
    """
    A hook does no harm that wakes a model that is awake, or puts one to sleep that sleeps.
    """
    example = Example("ollama", ollama.listen())
    for hook in (SLEEP, WAKE, WAKE, SLEEP, SLEEP):
        assert (await example.run("qwen3:8b", hook)).ok
    assert ollama.loaded == {}


@pytest_twisted.ensureDeferred
async def test_the_log_says_that_ollama_lacks_the_model(ollama: Ollama) -> None:
    """The output of the wake hook says which model Ollama has not found."""
    ollama.installed.clear()
    example = Example("ollama", ollama.listen())
    result = await example.run("qwen3:8b", WAKE)
    assert result.says_no
    assert "model 'qwen3:8b' not found" in result.stderr


@pytest_twisted.ensureDeferred
async def test_ollama_name_without_a_tag(ollama: Ollama) -> None:
    """Ollama completes such a name, and lists the whole name."""
    example = Example("ollama", ollama.listen(), mistral="mistral:7b")
    assert (await example.run("mistral", WAKE)).ok
    assert ollama.loaded == {"mistral:latest": -1}
    assert await example.is_awake("mistral")
    assert not await example.is_awake("mistral:7b")


@pytest_twisted.ensureDeferred
async def test_ollama_name_in_another_case(ollama: Ollama) -> None:
    """The scripts find a model that Ollama calls by other capitals, and unload it again."""
    example = Example("ollama", ollama.listen(), **{"Mistral:7B": "mistral:7b"})
    assert (await example.run("Mistral:7B", WAKE)).ok
    assert await example.is_awake("Mistral:7B")
    assert (await example.run("Mistral:7B", SLEEP)).ok
    assert ollama.loaded == {}


@pytest_twisted.ensureDeferred
async def test_ollama_calls_the_model_what_the_scripts_are_told(
    ollama: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The argument of a hook is Ollama's name of a model that has another name in llmux."""
    port = str(ollama.listen())
    monkeypatch.setenv("LLMUX_HOST", "127.0.0.1")
    monkeypatch.setenv("LLMUX_PORT", port)
    monkeypatch.setenv("LLMUX_MODEL", "mine")

    async def run(hook: str) -> int:
        from twisted.internet.utils import getProcessValue

        path = str(EXAMPLES / "ollama" / "ollama.sh")
        value: int = await getProcessValue(path, [hook, "mistral:7b"], env=os.environ)
        return value

    assert await run("wake") == 0
    assert ollama.loaded == {"mistral:7b": -1}
    assert await run("alive") == 0
    assert await run("sleep") == 0
    assert ollama.loaded == {}
    assert await run("alive") == 1


@pytest_twisted.ensureDeferred
async def test_ollama_lists_another_name(ollama: Ollama) -> None:
    """A wake that fails says why, and leaves nothing in memory."""
    ollama.lists_as = "something-else"
    example = Example("ollama", ollama.listen())
    result = await example.run("qwen3:8b", WAKE)
    assert result.says_no
    assert "does not list it by this name" in result.stderr
    assert ollama.loaded == {}


@pytest_twisted.ensureDeferred
async def test_ollama_says_nothing_of_a_success(ollama: Ollama) -> None:
    example = Example("ollama", ollama.listen())
    assert (await example.run("qwen3:8b", WAKE)).stderr == ""


@pytest_twisted.ensureDeferred
async def test_nothing_is_awake_and_no_wake_succeeds_if_ollama_is_down() -> None:
    example = Example("ollama", free_port())
    assert not await example.is_awake("qwen3:8b")
    assert (await example.run("qwen3:8b", SLEEP)).ok
    result = await example.run("qwen3:8b", WAKE)
    assert result.says_no
    assert "curl: (7)" in result.stderr


# vLLM.


class Vllm(Api):
    """
    This API answers as vLLM does.

    @ivar asleep: the answer of C{/is_sleeping}.
    @ivar obeys: True if C{/sleep} puts the server to sleep.
    @ivar development: True if VLLM_SERVER_DEV_MODE is set.
    @ivar dead: True if the engine of the server has died.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asleep = False
        self.obeys = True
        self.development = True
        self.dead = False

    def answer(self, request: Request) -> tuple[int, Any]:
        if request.path == b"/health":
            return 200, None
        if self.dead:
            return 500, {"error": "EngineDeadError"}
        if not self.development:
            return 404, {"detail": "Not Found"}
        match request.method, request.path:
            case b"GET", b"/is_sleeping":
                return 200, {"is_sleeping": self.asleep}
            case b"POST", b"/wake_up":
                self.asleep = False
                return 200, None
            case b"POST", b"/sleep" if request.args == {b"level": [b"1"]}:
                self.asleep = self.obeys
                return (200 if self.obeys else 500), None
        return 405, None


DOCKER = """
[ "$1" = top ] || echo "$*" >>"$(dirname "$0")/docker.log"
"""


@pytest.fixture
def vllm(programs: Path) -> Iterator[Vllm]:
    program(programs / "docker", DOCKER)
    api = Vllm()
    yield api
    api.close()


def docker_log(programs: Path) -> list[str]:
    path = programs / "docker.log"
    return path.read_text().splitlines() if path.exists() else []


@pytest_twisted.ensureDeferred
async def test_a_model_of_vllm_is_alive_while_its_server_does_not_sleep(
    vllm: Vllm, programs: Path
) -> None:
    """The model is alive when the server does not sleep."""
    example = Example("vllm-sleep", vllm.listen())
    assert await example.is_awake("qwen3-8b")
    assert (await example.run("qwen3-8b", SLEEP)).ok
    assert vllm.asleep
    assert not await example.is_awake("qwen3-8b")
    assert (await example.run("qwen3-8b", WAKE)).ok
    assert not vllm.asleep
    assert await example.is_awake("qwen3-8b")
    assert docker_log(programs) == []


@pytest_twisted.ensureDeferred
async def test_a_hook_of_vllm_asks_for_nothing_when_it_is_repeated(vllm: Vllm) -> None:
    """
    A hook asks for nothing if the model to wake is awake, or the model to put to sleep sleeps.
    """
    example = Example("vllm-sleep", vllm.listen())
    assert (await example.run("qwen3-8b", WAKE)).ok
    vllm.asleep = True
    assert (await example.run("qwen3-8b", SLEEP)).ok
    assert [line for line in vllm.requests if line.startswith("POST")] == []


@pytest_twisted.ensureDeferred
async def test_the_wake_hook_of_vllm_starts_a_server_and_waits_for_it(
    vllm: Vllm, programs: Path
) -> None:
    """The wake hook starts a server where none runs, and waits for it."""
    from twisted.internet import reactor

    port = free_port()
    example = Example("vllm-sleep", port)
    assert not await example.is_awake("qwen3-8b")
    waking = Deferred.fromCoroutine(example.run("qwen3-8b", WAKE))
    typed_reactor: Any = reactor
    while not docker_log(programs):
        turn: Deferred[None] = Deferred()
        typed_reactor.callLater(0.02, turn.callback, None)
        await turn
    assert not waking.called
    vllm.listen(port)
    assert (await waking).ok
    assert docker_log(programs) == ["start vllm-qwen3"]
    assert await example.is_awake("qwen3-8b")


@pytest_twisted.ensureDeferred
async def test_vllm_cannot_be_started(programs: Path) -> None:
    program(programs / "docker", "echo no such container >&2; exit 5")
    result = await Example("vllm-sleep", free_port()).run("qwen3-8b", WAKE)
    assert result.exit_code == 5
    assert "no such container" in result.stderr


@pytest_twisted.ensureDeferred
async def test_a_wake_fails_at_once_if_vllm_ends_while_it_starts(programs: Path) -> None:
    """The wake hook fails as soon as the server that it has started ends."""
    program(programs / "docker", 'case $1 in top) exit 1 ;; esac; echo "$*" >&2')
    result = await Example("vllm-sleep", free_port()).run("qwen3-8b", WAKE)
    assert result.exit_code == 1
    assert "vllm-qwen3 ended before it was ready" in result.stderr
    assert "logs --tail 20 vllm-qwen3" in result.stderr


@pytest_twisted.ensureDeferred
async def test_a_vllm_whose_engine_is_dead_is_told_and_stopped(
    vllm: Vllm, programs: Path
) -> None:
    """The output says that the engine is dead, and the sleep hook stops the server."""
    vllm.dead = True
    example = Example("vllm-sleep", vllm.listen())
    result = await example.run("qwen3-8b", WAKE)
    assert result.says_no
    assert "answers 500: the engine is dead" in result.stderr
    assert "VLLM_SERVER_DEV_MODE" not in result.stderr
    assert (await example.run("qwen3-8b", SLEEP)).ok
    assert docker_log(programs) == ["stop vllm-qwen3"]


@pytest_twisted.ensureDeferred
async def test_vllm_does_not_sleep(vllm: Vllm, programs: Path) -> None:
    """A server that does not sleep is stopped: the GPU must be free."""
    vllm.obeys = False
    example = Example("vllm-sleep", vllm.listen())
    assert (await example.run("qwen3-8b", SLEEP)).ok
    assert docker_log(programs) == ["stop vllm-qwen3"]


@pytest_twisted.ensureDeferred
async def test_vllm_does_not_answer(programs: Path) -> None:
    """A server that does not answer may be loading, on the GPU."""
    program(programs / "docker", DOCKER)
    assert (await Example("vllm-sleep", free_port()).run("qwen3-8b", SLEEP)).ok
    assert docker_log(programs) == ["stop vllm-qwen3"]


@pytest_twisted.ensureDeferred
async def test_the_log_says_that_vllm_lacks_the_sleep_mode(vllm: Vllm) -> None:
    """The output of the wake hook says which setting of the server is missing."""
    vllm.development = False
    result = await Example("vllm-sleep", vllm.listen()).run("qwen3-8b", WAKE)
    assert result.says_no
    assert "VLLM_SERVER_DEV_MODE=1" in result.stderr


# Podman.

PODMAN = """
cd "$(dirname "$0")"
echo "$2 $(eval echo \\${$#})" >>podman.log
read -r status checkpointed <podman.state
case $2$4 in
    inspect*Checkpointed*) echo "$status $checkpointed" ;;
    inspect*) echo "$status" ;;
    checkpoint*) [ ! -e slow ] || { touch began; sleep 60; } ;;
esac
case $2 in
    inspect) ;;
    *) [ ! -e "no-$2" ] || { echo "no $2" >&2; exit 125; } ;;
esac
case $2 in
    checkpoint) echo exited true >podman.state ;;
    stop | kill) echo exited false >podman.state ;;
    restore | start | unpause) echo running false >podman.state ;;
    logs) echo "no memory" ;;
esac
[ ! -e ends ] || echo exited false >podman.state
"""


class Podman:
    """This program has the state of a container called vllm-qwen3."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        program(directory / "podman", PODMAN)
        # The container's server answers while the container runs.
        program(directory / "curl", 'grep -q ^running "${0%/*}/podman.state"')
        (directory / "podman.state").write_text("created false\n")
        self.example = Example("podman-criu", free_port())

    def state(self) -> str:
        return (self._directory / "podman.state").read_text().strip()

    def pause(self) -> None:
        (self._directory / "podman.state").write_text("paused false\n")

    def log(self) -> list[str]:
        return (self._directory / "podman.log").read_text().splitlines()

    def breaks(self, verb: str) -> None:
        (self._directory / f"no-{verb}").touch()

    async def run(self, hook: HookKind) -> list[str]:
        """Return what the hook had podman do, inspections left out."""
        log = self._directory / "podman.log"
        log.write_text("")
        assert (await self.example.run("qwen3-8b", hook)).ok
        lines = [line.split() for line in log.read_text().splitlines()]
        assert {name for _, name in lines} == {"vllm-qwen3"}
        return [verb for verb, _ in lines if verb != "inspect"]


@pytest.fixture
def podman(programs: Path) -> Podman:
    return Podman(programs)


@pytest_twisted.ensureDeferred
async def test_a_container_of_podman_is_started_once_and_restored_afterwards(
    podman: Podman,
) -> None:
    """
    The container is started the first time, then checkpointed and restored; a repeated hook
    does nothing.
    """
    assert await podman.run(SLEEP) == []
    assert await podman.run(WAKE) == ["start"]
    assert await podman.run(WAKE) == []
    assert await podman.run(SLEEP) == ["checkpoint"]
    assert await podman.run(SLEEP) == []
    assert await podman.run(WAKE) == ["restore"]
    assert podman.state() == "running false"


@pytest_twisted.ensureDeferred
async def test_a_container_that_cannot_be_checkpointed_is_stopped(podman: Podman) -> None:
    podman.breaks("checkpoint")
    await podman.run(WAKE)
    assert await podman.run(SLEEP) == ["checkpoint", "stop"]
    assert podman.state() == "exited false"
    assert await podman.run(WAKE) == ["start"]


@pytest_twisted.ensureDeferred
async def test_a_container_that_cannot_be_restored_is_started(podman: Podman) -> None:
    podman.breaks("restore")
    await podman.run(WAKE)
    await podman.run(SLEEP)
    assert await podman.run(WAKE) == ["restore", "start"]


@pytest_twisted.ensureDeferred
async def test_a_wake_fails_if_the_server_in_podman_ends_at_once(
    podman: Podman, programs: Path
) -> None:
    (programs / "ends").touch()
    result = await podman.example.run("qwen3-8b", WAKE)
    assert result.says_no
    assert "vllm-qwen3 ended before it was ready" in result.stderr
    assert "no memory" in result.stderr


@pytest_twisted.ensureDeferred
async def test_both_hooks_fail_if_podman_has_no_such_container(
    podman: Podman, programs: Path
) -> None:
    program(programs / "podman", "echo no such container >&2; exit 125")
    for hook in (WAKE, SLEEP):
        result = await podman.example.run("qwen3-8b", hook)
        assert result.says_no
        assert "no such container" in result.stderr


@pytest_twisted.ensureDeferred
async def test_a_paused_container_does_not_count_as_asleep(podman: Podman) -> None:
    """A paused container holds its memory, and so it does not count as asleep."""
    podman.pause()
    assert await podman.run(SLEEP) == ["unpause", "checkpoint"]
    podman.pause()
    assert await podman.run(WAKE) == ["unpause"]
    podman.pause()
    podman.breaks("unpause")
    assert await podman.run(SLEEP) == ["unpause", "stop"]


def test_a_checkpoint_that_is_cut_short_ends_the_container(
    podman: Podman, programs: Path
) -> None:
    """
    A checkpoint that is cut short would leave a server that nobody can reach, so the hook ends
    the container.
    """
    (programs / "podman.state").write_text("running false\n")
    (programs / "slow").touch()
    script = [str(EXAMPLES / "podman-criu" / "sleep.sh"), "vllm-qwen3"]
    with subprocess.Popen(script, start_new_session=True, stderr=subprocess.PIPE) as hook:
        wait_until((programs / "began").exists, "the checkpoint")
        os.killpg(hook.pid, signal.SIGTERM)
        assert hook.wait(30) == 1
    assert podman.log()[-1] == "kill vllm-qwen3"
    assert podman.state() == "exited false"


# systemd and embedding: the whole of llmux, in a process of its own.


def curl(*arguments: str) -> str:
    return subprocess.run(
        ["curl", "-sSf", "--noproxy", "*", *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def copied(name: str, directory: Path, *replacements: tuple[str, str]) -> Path:
    """Copy an example, with other text in its files."""
    copy = directory / name
    shutil.copytree(EXAMPLES / name, copy)
    for path in copy.iterdir():
        if path.is_file():
            text = path.read_text()
            for old, new in replacements:
                text = text.replace(old, new)
            path.write_text(text)
    return copy


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="no systemd-socket-activate"
)
def test_llmux_answers_on_the_socket_that_systemd_has_bound(tmp_path: Path) -> None:
    """llmux takes the socket that systemd has bound, and answers on it."""
    port = free_port()
    copy = copied("systemd", tmp_path)
    arguments = ["-l", f"127.0.0.1:{port}", "--fdname=llmux", "-EPATH", "-EPYTHONPATH"]
    daemon = Daemon(
        [*arguments, *LLMUX, "-c", "config.yaml"], copy, command=["systemd-socket-activate"]
    )
    try:
        daemon.wait_for("Listening on")
        models = json.loads(curl(f"http://127.0.0.1:{port}/v1/models"))
        assert [model["id"] for model in models["data"]] == ["llama", "mistral"]
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    finally:
        daemon.__exit__()


def test_the_unit_of_systemd_has_what_its_readme_says() -> None:
    """The unit has what the README says of it."""
    unit = (EXAMPLES / "systemd" / "llmux.service").read_text().splitlines()
    assert "KillMode=process" in unit
    (stop,) = (int(line.partition("=")[2]) for line in unit if line.startswith("TimeoutStop"))
    config: Config = load_config(str(EXAMPLES / "systemd" / "config.yaml"))
    assert stop > config.shutdown_timeout_secs
    assert all(stop > model.sleep_timeout_secs for model in config.models.values())
    assert config.listen == "systemd:domain=INET:index=0"
    # The scripts of llama-cpp may lie in /etc/llmux, where llmux may not write.
    assert "StateDirectory=llmux" in unit


def test_llmux_and_another_service_run_in_one_process(tmp_path: Path) -> None:
    """llmux and another service run in one process; both answer, and both stop."""
    port, status_port, backend_port = (free_port() for _ in range(3))
    copy = copied(
        "embedding",
        tmp_path,
        ("3000", str(port)),
        ("tcp:3001", f"tcp:{status_port}"),
        ("8001", str(backend_port)),
        ("python3 backend.py", f"{sys.executable} backend.py"),
    )
    with Daemon(["-n", "--pidfile=", "-y", "both.tac"], copy, command=TWISTD) as daemon:
        daemon.wait_for(f"Site starting on {status_port}")
        status_page = f"http://127.0.0.1:{status_port}/"
        wait_until(
            lambda: curl(status_page) == "parrot is asleep\n", "the answer of the alive hook"
        )
        question = {"model": "parrot", "messages": [{"role": "user", "content": "Hello"}]}
        reply = json.loads(
            curl(f"http://127.0.0.1:{port}/v1/chat/completions", "-d", json.dumps(question))
        )
        assert reply["choices"][0]["message"]["content"] == "You said: Hello"
        assert curl(status_page) == "parrot is awake\n"
        daemon.signal(signal.SIGTERM)
        # The process ends by the signal itself, as twistd does.
        assert daemon.wait() == -signal.SIGTERM
    assert not (copy / "parrot.pid").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", backend_port)).close()
