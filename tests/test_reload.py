"""
These tests have a daemon that serves read the configuration anew: nothing is lost, nothing
leaks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import (
    Backend,
    Daemon,
    ask,
    connect,
    environment,
    free_port,
    run,
    wait_until,
    write_config,
)


def change(directory: Path, **keys: Any) -> None:
    """Write the configuration anew with these keys; keys with the value None are left out."""
    file = directory / "config.json"
    document = json.loads(file.read_text()) | keys
    new = directory / "new.json"
    new.write_text(
        json.dumps({key: value for key, value in document.items() if value is not None})
    )
    new.replace(file)


def models(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())["models"]
    return found


def metric(connection: HTTPConnection, name: str) -> str:
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return next(line.split()[-1] for line in text.splitlines() if line.startswith(name))


def command(directory: Path, *words: str) -> Any:
    return run(*words, "-c", "config.json", cwd=directory)


def test_a_hangup_takes_a_changed_configuration_over(tmp_path: Path, behind: Backend) -> None:
    port = write_config(tmp_path, behind.port)
    with Daemon(["-c", "config.json"], tmp_path) as daemon, closing(connect(port)) as client:
        assert ask(client, "c")[0] == 404
        found = models(tmp_path)
        change(tmp_path, models=found | {"c": {**found["a"], "aliases": ["see"]}})
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("+ c")
        # This is the same connection as before, whose heads were remembered.
        assert ask(client, "see")[0] == 200
        assert metric(client, "llmux_config_last_reload_success") == "1.0"
        change(tmp_path, models={})
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("is not taken over: ")
        assert metric(client, "llmux_config_last_reload_success") == "0.0"
        assert ask(client, "see")[0] == 200
        assert "models: there are none" in command(tmp_path, "status").stdout


def test_a_removed_model_finishes_what_it_has_in_flight(
    tmp_path: Path, behind: Backend
) -> None:
    port = write_config(tmp_path, behind.port)
    found = models(tmp_path)
    found["a"] |= {
        "wake": "rm -f slept",
        "sleep": "echo slept > slept",
        "alive": "test ! -e slept",
    }
    change(tmp_path, models=found)
    with (
        Daemon(["-c", "config.json"], tmp_path) as daemon,
        closing(connect(port)) as client,
        closing(connect(port)) as other,
    ):
        assert ask(client, "a")[0] == 200
        behind.holding = True
        replies: list[tuple[int, bytes]] = []
        asking = threading.Thread(target=lambda: replies.append(ask(client, "a")))
        assert behind.came.acquire(timeout=10)
        asking.start()
        assert behind.came.acquire(timeout=10)
        change(tmp_path, models={"b": found["b"]})
        told = command(tmp_path, "reload")
        assert told.stdout == "- a: its requests finish, then it is put to sleep\n"
        assert ask(other, "a")[0] == 404
        assert not (tmp_path / "slept").exists()
        behind.let_go.set()
        asking.join()
        assert replies[0][0] == 200
        daemon.wait_for("it is forgotten")
        assert (tmp_path / "slept").exists()


def test_hooks_change_at_the_next_wake_of_a_model(tmp_path: Path, behind: Backend) -> None:
    port = write_config(tmp_path, behind.port)
    found = models(tmp_path)
    found["a"] |= {"wake": "echo one", "sleep": "echo sleep-one"}
    change(tmp_path, models=found)
    with Daemon(["-c", "config.json"], tmp_path) as daemon, closing(connect(port)) as client:
        ask(client, "a")
        found["a"] |= {"wake": "echo two", "sleep": "echo sleep-two"}
        change(tmp_path, models=found)
        told = command(tmp_path, "reload", "--dry-run").stdout
        assert "~ a.sleep: at its next wake" in told
        assert command(tmp_path, "reload").stdout == told
        assert command(tmp_path, "reload").stdout == "nothing changed\n"
        ask(client, "b")
        daemon.wait_for("sleep-one")
        ask(client, "a")
        daemon.wait_for("stdout: two")
        ask(client, "b")
        daemon.wait_for("sleep-two")


def test_a_dry_run_says_who_would_sleep_for_want_of_room(
    tmp_path: Path, behind: Backend
) -> None:
    port = write_config(tmp_path, behind.port, resources={"gpu": 2})
    found = {name: {**model, "needs": {"gpu": 1}} for name, model in models(tmp_path).items()}
    found["a"]["alive"] = found["b"]["alive"] = "test -e $LLMUX_MODEL"
    for model in found.values():
        model |= {"wake": "touch $LLMUX_MODEL", "sleep": "rm -f $LLMUX_MODEL"}
    change(tmp_path, models=found)
    with Daemon(["-c", "config.json"], tmp_path) as daemon, closing(connect(port)) as client:
        assert (ask(client, "a")[0], ask(client, "b")[0]) == (200, 200)
        change(tmp_path, resources={"gpu": 1})
        told = command(tmp_path, "reload", "--dry-run").stdout.splitlines()
        assert told == [
            "~ resources: for what is decided next",
            "~ a: it drains and is put to sleep, there is less room",
        ]
        assert (tmp_path / "a").exists()
        assert command(tmp_path, "reload").stdout.splitlines() == told
        daemon.wait_for("sleep hook of a completed")
        assert ask(client, "b")[0] == 200


def test_changed_models_can_be_restarted_at_once(tmp_path: Path, behind: Backend) -> None:
    port = write_config(tmp_path, behind.port)
    with Daemon(["-c", "config.json"], tmp_path) as daemon, closing(connect(port)) as client:
        ask(client, "a")
        found = models(tmp_path)
        found["a"] |= {"wake": "echo anew"}
        change(tmp_path, models=found)
        assert command(tmp_path, "reload", "--restart-changed").returncode == 0
        daemon.wait_for("stdout: anew")
        assert ask(client, "a")[0] == 200


def test_a_new_address_is_open_before_the_old_one_closes(
    tmp_path: Path, behind: Backend
) -> None:
    old = write_config(tmp_path, behind.port)
    with Daemon(["-c", "config.json"], tmp_path), closing(connect(old)) as client:
        assert ask(client)[0] == 200
        new = free_port()
        change(tmp_path, port=new)
        assert command(tmp_path, "reload").returncode == 0
        with closing(connect(new)) as later:
            assert ask(later)[0] == 200
        assert ask(client)[0] == 200, "a connection of before lives on"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", old))
        with closing(socket.create_server(("127.0.0.1", 0))) as busy:
            change(tmp_path, port=busy.getsockname()[1])
            refused = command(tmp_path, "reload")
        assert refused.returncode == 1 and "port" in refused.stderr
        with closing(connect(new)) as later:
            assert ask(later)[0] == 200


def test_the_port_of_the_command_line_survives(tmp_path: Path, behind: Backend) -> None:
    write_config(tmp_path, behind.port)
    port = free_port()
    with (
        Daemon(["-c", "config.json", "-p", str(port)], tmp_path),
        closing(connect(port)) as client,
    ):
        change(tmp_path, port=free_port(), sleep_on_exit=True)
        assert command(tmp_path, "reload").stdout == "~ sleep_on_exit: now\n"
        assert ask(client)[0] == 200


@pytest.mark.parametrize(
    ("key", "value"), [("state_dir", "elsewhere"), ("admin", {"socket": "s"})]
)
def test_what_needs_a_restart_is_refused(
    tmp_path: Path, behind: Backend, key: str, value: Any
) -> None:
    write_config(tmp_path, behind.port)
    with Daemon(["-c", "config.json"], tmp_path) as daemon:
        change(tmp_path, **{key: value})
        daemon.signal(signal.SIGHUP)
        line = daemon.wait_for("is not taken over: ")
        assert f"{key}: it has changed; that needs a restart of llmux" in line


def test_who_may_ask_changes_for_connections_that_are_open(
    tmp_path: Path, behind: Backend
) -> None:
    port = write_config(tmp_path, behind.port)

    def ask_from(origin: str) -> int:
        client.request("POST", "/v1/x", '{"model": "a"}', {"Origin": origin})
        reply = client.getresponse()
        reply.read()
        return reply.status

    with Daemon(["-c", "config.json"], tmp_path), closing(connect(port)) as client:
        assert ask_from("https://chat.example") == 403
        change(tmp_path, cors_origins=["https://chat.example"])
        command(tmp_path, "reload")
        assert ask_from("https://chat.example") == 200
        change(tmp_path, cors_origins=None)
        command(tmp_path, "reload")
        assert ask_from("https://chat.example") == 403


def test_a_request_log_can_be_moved(tmp_path: Path, behind: Backend) -> None:
    port = write_config(tmp_path, behind.port, request_log="one.jsonl")
    with Daemon(["-c", "config.json"], tmp_path) as daemon, closing(connect(port)) as client:
        ask(client)
        change(tmp_path, request_log="two.jsonl")
        command(tmp_path, "reload")
        ask(client)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    for name in "one.jsonl", "two.jsonl":
        lines = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert [line["model"] for line in lines if "model" in line] == ["a"]


def test_a_watched_configuration_is_read_when_its_link_leads_elsewhere(
    tmp_path: Path, behind: Backend
) -> None:
    # Kubernetes mounts a ConfigMap in this way.
    port = write_config(tmp_path, behind.port, watch_config=True)
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in first, second:
        directory.mkdir()
    document = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").replace(first / "config.json")
    document["models"]["c"] = document["models"]["a"]
    (second / "config.json").write_text(json.dumps(document))
    data = tmp_path / "data"
    data.symlink_to(first)
    with Daemon(["-c", "data/config.json"], tmp_path) as daemon:
        link = tmp_path / "link"
        link.symlink_to(second)
        link.replace(data)
        daemon.wait_for("+ c")
        with closing(connect(port)) as client:
            assert ask(client, "c")[0] == 200


def test_the_init_system_is_told(
    tmp_path: Path, behind: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, behind.port)
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as init:
        init.bind(str(tmp_path / "notify"))
        init.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert environment()["NOTIFY_SOCKET"]
        with Daemon(["-c", "config.json"], tmp_path) as daemon:
            assert init.recv(200) == b"READY=1"
            daemon.signal(signal.SIGHUP)
            assert init.recv(200).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert init.recv(200) == b"READY=1"
            daemon.signal(signal.SIGTERM)
            assert init.recv(200) == b"STOPPING=1"
            assert daemon.wait() == 0


def test_two_hundred_reloads_under_load_lose_nothing_and_leak_nothing(
    tmp_path: Path, behind: Backend
) -> None:
    port = write_config(tmp_path, behind.port)
    found = models(tmp_path)
    over = threading.Event()
    statuses: list[int] = []

    def client(model: str) -> None:
        with closing(connect(port)) as connection:
            while not over.is_set():
                statuses.append(ask(connection, model)[0])

    with Daemon(["-c", "config.json"], tmp_path) as daemon:
        descriptors = Path(f"/proc/{daemon.process.pid}/fd")

        def resident() -> int:
            statm = Path(f"/proc/{daemon.process.pid}/statm").read_text()
            return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

        clients = [threading.Thread(target=client, args=(model,)) for model in "abab"]
        for each in clients:
            each.start()

        def reload(number: int) -> None:
            extra = {f"extra{number % 3}": {**found["a"], "sleep": f"true {number}"}}
            own = found | {"b": {**found["b"], "wake": f"true {number}"}}
            change(tmp_path, models=own | extra, max_body_mb=1 + number % 7)
            before = sum("reloaded: " in line for line in daemon.lines)
            daemon.signal(signal.SIGHUP)
            wait_until(
                lambda: sum("reloaded: " in line for line in daemon.lines) > before,
                "the reload",
            )

        for number in range(20):
            reload(number)
        open_before, size_before = len(list(descriptors.iterdir())), resident()
        for number in range(20, 220):
            reload(number)
        over.set()
        for each in clients:
            each.join()
        # The last clients' connections close, and hooks that still run end.
        wait_until(lambda: len(list(descriptors.iterdir())) <= open_before, "descriptors")
        assert resident() - size_before < 8 * 2**20
    assert statuses and set(statuses) == {200}
    assert [line for line in daemon.lines if "Traceback" in line or " error " in line] == []
