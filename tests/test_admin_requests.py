"""
These tests check the list of requests that llmux has and had, and the command by which an
operator ends one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from llmux.admin.reports.moments import Moments
from llmux.admin.reports.request_rows import RequestRows
from llmux.interfaces import HookKind
from llmux.monitoring.request_journal import LONGEST_PATH, MOST_ENDED
from tests.admin_daemon import Owner
from tests.daemon import Backend, Daemon, ask, connect, wait_until, write_config
from tests.proxy_world import ProxyWorld, chat, exchange_begun


@pytest.fixture
def port(tmp_path: Path, behind: Backend) -> int:
    return write_config(tmp_path, behind.port)


@pytest.fixture
def owner(tmp_path: Path, port: int) -> Iterator[Owner]:
    with Daemon(["-c", "config.json"], tmp_path):
        yield Owner(tmp_path / "config.json")


def in_thread(port: int, model: str = "a") -> tuple[threading.Thread, list[Any]]:
    """Send a request in a thread; return the thread, and the list that will hold the answer."""
    answers: list[Any] = []

    def converse() -> None:
        with closing(connect(port)) as connection:
            answers.append(ask(connection, model))

    thread = threading.Thread(target=converse)
    thread.start()
    return thread, answers


def rows(owner: Owner) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = owner.get("/llmux/requests")["requests"]
    return found


KEYS = {
    "id", "at", "key", "model", "name", "method", "path", "status", "waited_secs",
    "first_byte_secs", "service_secs", "bytes", "outcome", "switch",
}  # fmt: skip


def test_a_request_that_was_answered_has_its_figures(owner: Owner, port: int) -> None:
    with closing(connect(port)) as connection:
        assert ask(connection)[0] == 200
        assert ask(connection)[0] == 200
    latest, first = rows(owner)
    assert set(first) == KEYS
    assert (first["model"], first["method"], first["path"]) == ("a", "POST", "/v1/completions")
    assert (first["status"], first["outcome"], first["bytes"]) == (200, "answered", 14)
    assert first["waited_secs"] > 0
    assert first["service_secs"] > 0
    assert first["first_byte_secs"] >= first["waited_secs"]
    assert first["switch"] is not None
    assert (latest["waited_secs"], latest["switch"]) == (0.0, None)


def test_nothing_of_a_body_is_shown(owner: Owner, port: int) -> None:
    with closing(connect(port)) as connection:
        connection.request(
            "POST",
            "/v1/completions",
            json.dumps({"model": "a", "prompt": "a secret"}),
            {"Authorization": "Bearer a secret"},
        )
        assert connection.getresponse().read() == b'{"answer": 42}'
    for path in ("/llmux/requests", "/llmux/status", "/llmux/history"):
        text = json.dumps(owner.get(path))
        assert "secret" not in text
        assert 'answer": 42' not in text


def test_a_request_in_flight_and_one_that_waits_are_cancelled(
    owner: Owner, port: int, behind: Backend
) -> None:
    behind.holding = True
    thread, answers = in_thread(port)
    behind.came.acquire()
    other, others_answers = in_thread(port, "b")
    wait_until(lambda: len(rows(owner)) == 2, "both requests")
    by_model = {row["model"]: row for row in rows(owner)}
    assert by_model["a"]["outcome"] == "in_flight"
    assert by_model["b"]["outcome"] == "waiting"
    assert by_model["b"]["service_secs"] is None
    for model, client, answer in (("b", other, others_answers), ("a", thread, answers)):
        status, document = owner.post("cancel", {"request": by_model[model]["id"]})
        assert status == 200
        assert document["schema"] == 1
        client.join(30)
        ((code, body),) = answer
        assert code == 410
        assert json.loads(body)["error"]["code"] == "cancelled"
    assert {row["outcome"] for row in rows(owner)} == {"cancelled"}
    by_model = {row["model"]: row for row in rows(owner)}
    assert by_model["a"]["service_secs"] > 0
    assert by_model["b"]["service_secs"] is None
    assert by_model["b"]["waited_secs"] >= by_model["b"]["first_byte_secs"] > 0
    status, document = owner.post("cancel", {"request": by_model["a"]["id"]})
    assert status == 404
    models = {model["name"]: model for model in owner.get("/llmux/status")["models"]}
    assert models["a"]["in_flight"] == models["b"]["waiters"] == 0


def test_a_client_that_leaves_has_its_outcome(owner: Owner, port: int, behind: Backend) -> None:
    behind.holding = True
    connection = connect(port)
    connection.request("POST", "/v1/completions", json.dumps({"model": "a"}))
    behind.came.acquire()
    waiting = connect(port)
    waiting.request("POST", "/v1/completions", json.dumps({"model": "b"}))
    wait_until(lambda: len(rows(owner)) == 2, "both requests")
    waiting.close()
    connection.close()
    wait_until(
        lambda: [row["outcome"] for row in rows(owner)] == ["client_left"] * 2,
        "both to be over",
    )


def test_what_is_not_a_model_makes_no_row(owner: Owner, port: int) -> None:
    with closing(connect(port)) as connection:
        assert ask(connection, "nobody")[0] == 404
    assert rows(owner) == []


def test_a_long_path_is_cut(owner: Owner, port: int) -> None:
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", "/v1/" + "x" * 5000, json.dumps({"model": "a"}))
        connection.getresponse().read()
    (row,) = rows(owner)
    assert len(row["path"]) == LONGEST_PATH


# ---------------------------------------------------------------------------- in memory


def test_only_so_many_that_are_over_are_kept_and_none_stays_open() -> None:
    world = ProxyWorld()
    world.wake("a")
    journal = world.switching.journal
    client = world.client()
    client.send(chat())
    backend_end = world.accept()
    for number in range(MOST_ENDED + 10):
        if number:
            client.send(chat())
        backend_end.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert not journal.waiting
    assert world.in_flight() == 0
    assert len(journal.ended) == MOST_ENDED
    assert journal.ended[-1][0] - journal.ended[0][0] == MOST_ENDED - 1


@pytest.mark.parametrize(
    "how", ["dies in its reply", "refuses", "leaves", "hook fails", "stop"]
)
def test_each_way_to_end_closes_the_row(how: str) -> None:
    world = ProxyWorld()
    journal = world.switching.journal
    outcome = "refused"
    if how == "hook fails":
        world.script("a", HookKind.WAKE, 0.0, 1)
    if how == "stop":
        world.script("a", HookKind.WAKE, 60.0, 0)
    client = world.client()
    client.send(chat())
    world.advance(1)
    if how == "stop":
        assert len(journal.waiting) == 1
        world.switcher.stop()
        world.advance(1)
    elif how == "leaves":
        world.accept()
        client.leave()
        outcome = "client_left"
    elif how == "dies in its reply":
        end = world.accept()
        end.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf")
        end.close()
        outcome = "cut_off"
    elif how == "refuses":
        world.accept().send(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
        outcome = "answered"
    world.advance(1)
    assert not journal.waiting
    assert [ended[-1] for ended in journal.ended] == [outcome]


@pytest.mark.parametrize("how", ["leaves", "is cancelled", "is refused"])
def test_a_request_that_is_not_answered_has_not_waited_if_its_model_was_awake(
    how: str,
) -> None:
    world, client, end = exchange_begun()
    world.advance(7)
    if how == "leaves":
        client.leave()
    elif how == "is cancelled":
        (guard,) = world.switcher.models["a"].guards
        holder: Any = guard.holder
        holder.cancel()
    else:
        end.send(b"no HTTP at all\r\n\r\n")
    world.advance(1)
    moments = Moments(world.switcher.clock.seconds)
    shown = RequestRows(world.switching.journal, world.switcher, moments)
    (row,) = shown.all(world.switcher.clock.seconds())
    assert row["waited_secs"] == 0
    assert row["service_secs"] >= 7


def test_a_request_that_is_refused_at_once_has_a_number_of_its_own() -> None:
    world = ProxyWorld()
    journal = world.switching.journal
    for _ in range(2):
        world.client().send(chat())
    world.switcher.stop()
    for _ in range(2):
        world.client().send(chat())
    numbers = [ended[0] for ended in journal.ended]
    assert len(numbers) == 4
    assert len(set(numbers)) == 4
