"""These tests check that the simulator and the daemon make the same of the same requests."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmux.app import build_policy
from llmux.config import load_config
from llmux.simulate.compare import main
from llmux.simulate.run import Run
from llmux.simulate.scripts import HookTimes
from llmux.simulate.trace import read_trace
from tests.daemon import Daemon, connect, free_port

HOOK = 0.1
POLICIES = {
    "fifo": {"name": "fifo"},
    "cost_aware": {
        "name": "cost_aware",
        "initial_switch_cost_secs": 0.2,
        "max_wait_secs": 3,
        "quantum": 2,
    },
}
SCENARIO = [
    # Each row has the seconds of arrival, the model, and the seconds of service.  The switches
    # are the same if anything of this, or a hook, comes or takes a tenth of a second longer.
    (0.0, "a", 0.2),
    (0.4, "a", 1.0),
    (0.8, "b", 1.0),
    (1.0, "a", 1.0),
    (1.2, "c", 1.0),
    (1.8, "b", 1.0),
    (2.4, "b", 0.2),
    (2.4, "b", 0.6),
    (2.8, "c", 0.6),
    (3.6, "a", 1.0),
    (3.8, "a", 0.2),
    (3.8, "a", 0.6),
    (4.0, "a", 1.0),
    (4.8, "b", 1.0),
]


class _Slow(BaseHTTPRequestHandler):
    """This backend takes as long as the request says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(request["service_s"])
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def slow_backend() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send_all(port: int, scenario: Sequence[tuple[float, str, float]]) -> None:
    """Send each request at its time, and wait for the ends of all."""
    statuses: list[int] = []

    def send(model: str, service: float) -> None:
        connection = connect(port)
        body = json.dumps({"model": model, "service_s": service})
        connection.request("POST", "/v1/completions", body)
        reply = connection.getresponse()
        reply.read()
        statuses.append(reply.status)
        connection.close()

    timers = [threading.Timer(at, send, (model, service)) for at, model, service in scenario]
    for timer in timers:
        timer.start()
    for timer in timers:
        timer.join()
    assert statuses == [200] * len(scenario)


def activated(daemon: Daemon) -> str:
    """Return the models that woke, in order."""
    events = [json.loads(line) for line in list(daemon.lines) if line.startswith("{")]
    return "".join(e["model"] for e in events if e.get("event") == "model_activated")


def simulated(trace: Path, config_file: Path) -> str:
    """Return the models that woke in the simulator, in order."""
    config = load_config(str(config_file))
    with trace.open("rb") as lines:
        requests = read_trace(lines)
    run = Run(requests, build_policy(config), list(config.models), HookTimes(2 * HOOK))
    return "".join(model for _, model in run.go().woken)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_daemon_and_the_simulator_make_the_same_switches(
    policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    trace = tmp_path / "trace.jsonl"
    log = tmp_path / "requests.jsonl"
    port = free_port()
    hook = f"sleep {HOOK}"
    with slow_backend() as backend:
        model = {"port": backend, "wake": hook, "sleep": hook, "alive": "false"}
        document = {
            "models": dict.fromkeys("abc", model),
            "port": port,
            "policy": POLICIES[policy],
            "request_log": str(log),
        }
        config.write_text(json.dumps(document))
        _alive_when_awake(config, tmp_path)
        trace.write_text(
            "".join(
                json.dumps({"t": at, "model": name, "service_s": service}) + "\n"
                for at, name, service in SCENARIO
            )
        )
        with Daemon(["-c", str(config), "--log-format", "json"], tmp_path) as daemon:
            send_all(port, SCENARIO)
            woken = activated(daemon)
            _stop(daemon)
    assert woken == simulated(trace, config)
    assert woken == simulated(log, config), "what the daemon logged is such a trace"
    assert main([str(log), "-c", str(config), "--policy", policy, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    recorded, [again] = found["recorded"], found["policies"]
    assert recorded["switches"] == again["switches"] == len(woken)
    assert recorded["answered"] == again["answered"] == len(SCENARIO)
    assert recorded["wait_mean_s"] == pytest.approx(again["wait_mean_s"], abs=0.5)
    taken = found["from_log"]
    assert 2 <= taken["slots"] <= 5
    assert sorted(taken["sleep_s"]) == sorted(taken["wake_s"]) == ["a", "b", "c"]
    for seconds in (*taken["sleep_s"].values(), *taken["wake_s"].values()):
        assert HOOK <= seconds < 20 * HOOK
    other = next(name for name in POLICIES if name != policy)
    document["policy"] = POLICIES[other]
    config.write_text(json.dumps(document))
    assert woken != simulated(trace, config), "the scenario tells policies apart"


TWO_FIT = [
    # a, the first of two busy models, makes room for c; then the one makes room that has been
    # idle for longer: c for a, and b for c.
    (0.0, "a", 3.0),
    (1.5, "b", 3.0),
    (2.5, "c", 1.0),
    (6.0, "b", 0.2),
    (7.0, "a", 0.5),
    (8.5, "c", 0.5),
]


def test_what_a_daemon_with_two_models_awake_has_logged_is_simulated_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    log = tmp_path / "requests.jsonl"
    port = free_port()
    hook = f"sleep {HOOK}"
    with slow_backend() as backend:
        model = {
            "port": backend,
            "wake": hook,
            "sleep": hook,
            "alive": "false",
            "needs": ["g0", "g1"],
        }
        document = {
            "resources": ["g0", "g1"],
            "models": dict.fromkeys("abc", model),
            "port": port,
            "policy": {"name": "fifo"},
            "request_log": str(log),
        }
        config.write_text(json.dumps(document))
        _alive_when_awake(config, tmp_path)
        with Daemon(["-c", str(config), "--log-format", "json"], tmp_path) as daemon:
            send_all(port, TWO_FIT)
            woken = activated(daemon)
            _stop(daemon)
    assert woken == "abcac"
    with log.open("rb") as lines:
        trace = read_trace(lines)
    assert [(s.model, list(s.sleeps)) for s in trace.switches] == [
        ("a", []),
        ("b", []),
        ("c", ["a"]),
        ("a", ["c"]),
        ("c", ["b"]),
    ]
    assert main([str(log), "-c", str(config), "--policy", "fifo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recorded"]["switches"] == found["policies"][0]["switches"] == 5
    assert main([str(log), "--policy", "fifo", "--json"]) == 0
    [one_slot] = json.loads(capsys.readouterr().out)["policies"]
    assert one_slot["wait_mean_s"] > found["policies"][0]["wait_mean_s"]


def _stop(daemon: Daemon) -> None:
    """End the daemon as systemd does, so that what the last request logs is in the file."""
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def _alive_when_awake(config: Path, directory: Path) -> None:
    """
    Write C{alive} hooks that tell the truth, from a file that wake makes and sleep removes.
    """
    document = json.loads(config.read_text())
    for name, model in document["models"].items():
        mark = directory / f"awake-{name}"
        model["wake"] += f" && touch {mark}"
        model["sleep"] += f" && rm {mark}"
        model["alive"] = f"test -e {mark}"
    config.write_text(json.dumps(document))
