"""
These tests check the stream of events: what is told, to whom, and what a slow reader gets.
"""

from __future__ import annotations

import gc
import json
import linecache
import tracemalloc
from typing import Any

import msgspec
import pytest

from llmux.admin.event_stream import KEEP, MOST_EVENTS
from llmux.admin.stream_reader import PATIENCE
from llmux.interfaces import HookKind
from llmux.monitoring.output_ring import OutputRing
from tests.admin_world import AdminWorld, Reply
from tests.proxy_world import ClientEnd

Event = tuple[str, Any, str]


def events_in(data: bytes) -> list[Event]:
    """Return the kind, the data and the id of each event of a reply in chunks."""
    _, _, rest = data.partition(b"\r\n\r\n")
    text = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if not size or int(size, 16) == 0:
            break
        text += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    found = []
    for block in text.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"]), fields.get("id", "")))
    return found


def kinds_in(client: ClientEnd) -> list[str]:
    return [kind for kind, _, _ in events_in(client.received)]


def follow(world: AdminWorld, query: str = "", last: str = "") -> ClientEnd:
    headers = {"Last-Event-ID": last} if last else None
    return world.send(world.main, f"/llmux/events{query}", headers=headers)


@pytest.fixture
def world() -> AdminWorld:
    return AdminWorld()


def test_first_the_status_then_what_changes(world: AdminWorld) -> None:
    client = follow(world)
    head = Reply(client.received)
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
    assert head.headers["cache-control"] == "no-store"
    ((kind, status, _),) = events_in(client.received)
    assert kind == "status"
    assert [model["name"] for model in status["models"]] == ["llama", "mistral"]
    world.hooks.script("llama", HookKind.WAKE, 2.0)
    guards: list[Any] = []
    world.switcher.acquire("llama").addCallback(guards.append)
    world.advance(1)
    told = events_in(client.received)[1:]
    assert [(k, d["schema"]) for k, d, _ in told if d["schema"] != 1] == []
    models = [(d["name"], d["state"]) for k, d, _ in told if k == "model"]
    assert models == [("llama", "waking")]
    switches = [(d["target"], d["phase"], d["result"]) for k, d, _ in told if k == "switch"]
    assert switches == [("llama", "waking", None)]
    assert [d["do"] for k, d, _ in told if k == "decision"]
    queues = [(d["model"], d["waiters"], d["in_flight"]) for k, d, _ in told if k == "queue"]
    assert queues == [("llama", 1, 0)]
    world.advance(2)
    told = events_in(client.received)
    assert [d["result"] for k, d, _ in told if k == "switch"][-1] == "ok"
    assert [d["state"] for k, d, _ in told if k == "model"][-1] == "awake"
    numbers = [int(i.partition("-")[2]) for _, _, i in told]
    assert numbers == list(range(len(told)))


def test_each_phase_of_a_switch_is_told(world: AdminWorld) -> None:
    world.hooks.script("llama", HookKind.SLEEP, 1.0)
    world.hooks.script("mistral", HookKind.WAKE, 1.0)
    guards: list[Any] = []
    world.switcher.acquire("llama").addCallback(guards.append)
    world.advance(1)
    client = follow(world, "?only=switch")
    world.switcher.acquire("mistral").addCallback(lambda guard: guard.release())
    world.advance(1)
    guards[0].release()
    world.advance(3)
    told = [data for kind, data, _ in events_in(client.received) if kind == "switch"]
    phases = list(dict.fromkeys((data["phase"], data["result"]) for data in told))
    assert phases == [
        ("draining", None),
        ("sleeping", None),
        ("waking", None),
        ("waking", "ok"),
    ]
    assert {data["id"] for data in told} == {told[0]["id"]}


def test_commands_and_output_are_told(world: AdminWorld) -> None:
    client = follow(world, "?only=command,log")
    world.command(world.socket, "wake", model="llama")
    world.administration.ring.add("llama", "wake", "stderr", "Laden \xfc".encode() + b"\n\xff")
    told = events_in(client.received)
    assert [kind for kind, _, _ in told] == ["status", "command", "log"]
    assert told[1][1] == {"schema": 1, "who": "socket", "verb": "wake", "result": "ok"}
    assert (told[2][1]["model"], told[2][1]["hook"]) == ("llama", "wake")
    assert told[2][1]["line"] == "Laden \xfc\n\ufffd"


def test_only_what_is_wanted_is_told(world: AdminWorld) -> None:
    client = follow(world, "?only=switch&only=command")
    world.wake("llama")
    assert set(kinds_in(client)) == {"status", "switch"}
    reply = world.ask(world.main, "/llmux/events?only=modle")
    assert reply.status == 422
    assert "did you mean model?" in reply.message


def test_queues_are_told_four_times_a_second_at_most(world: AdminWorld) -> None:
    world.wake("llama")
    client = follow(world, "?only=queue")
    held: list[Any] = []
    for _ in range(100):
        world.switcher.acquire("llama").addCallback(held.append)
        world.reactor.advance(0.01)
    assert len(kinds_in(client)) <= 1 + 5
    world.advance(0.5)
    assert events_in(client.received)[-1][1]["in_flight"] == 100
    for guard in held:
        guard.release()


def test_the_queue_of_a_removed_model_is_forgotten(world: AdminWorld) -> None:
    follow(world, "?only=queue")
    world.app.reconfigure(
        msgspec.structs.replace(
            world.app.config, models={"mistral": world.app.config.models["mistral"]}
        )
    )
    world.advance(1)
    assert list(world.switcher.models) == ["mistral"]
    assert list(world.administration.events._queues) == ["mistral"]


def test_a_comment_comes_each_15_s(world: AdminWorld) -> None:
    client = follow(world)
    before = client.received
    world.advance(46, 1)
    assert client.received[len(before) :].count(b":\n\n") == 3


# ------------------------------------------------------------------------------ again


def test_who_comes_back_is_told_what_was_missed(world: AdminWorld) -> None:
    client = follow(world, "?only=switch,model")
    world.wake("llama")
    *_, (_, _, last) = events_in(client.received)
    client.leave()
    world.advance(KEEP / 2, 1)
    world.wake("mistral")
    again = follow(world, "?only=switch,model", last)
    told = events_in(again.received)
    assert "status" not in [kind for kind, _, _ in told]
    assert {d["name"] for k, d, _ in told if k == "model"} == {"llama", "mistral"}
    first = told[0][2]
    assert int(first.partition("-")[2]) == int(last.partition("-")[2]) + 1


@pytest.mark.parametrize("how", ["late", "too much", "another life", "nonsense", "future"])
def test_who_has_missed_too_much_gets_a_status(world: AdminWorld, how: str) -> None:
    client = follow(world, "?only=command")
    world.command(world.socket, "wake", model="llama")
    *_, (_, _, last) = events_in(client.received)
    client.leave()
    if how == "late":
        world.advance(KEEP + 1, 1)
    elif how == "too much":
        for _ in range(MOST_EVENTS + 1):
            world.administration.trace.ended("socket", "wake", "ok", "")
    else:
        life = last.partition("-")[0]
        last = {
            "another life": "0123-1",
            "nonsense": f"{life}-x\xfc",
            "future": f"{life}-999",
        }[how]
    again = follow(world, "?only=command", last)
    assert kinds_in(again)[0] == "status"


def test_nothing_is_made_while_nobody_listens(world: AdminWorld) -> None:
    events = world.administration.events
    client = follow(world)
    assert events.is_on
    assert world.switcher.chronicle.listeners
    client.leave()
    world.advance(KEEP + 1, 1)
    assert not events.is_on
    assert world.switcher.chronicle.listeners == []
    assert world.administration.ring.listeners == []
    assert world.administration.trace.listener is None
    assert len(events._events) == 0
    # Not even a timer is left, but for the Site's own while a client is connected.
    assert world.reactor.getDelayedCalls() == []


def test_the_streams_end_when_llmux_has_stopped(world: AdminWorld) -> None:
    client = follow(world)
    log = world.send(world.main, "/llmux/log?follow=true")
    world.switcher.stop()
    world.advance(1)
    for each in (client, log):
        assert each.received.endswith(b"0\r\n\r\n")
    assert not world.administration.events.is_on


# ----------------------------------------------------------------------- slow readers


def test_a_slow_reader_loses_deltas_and_gets_a_fresh_status(world: AdminWorld) -> None:
    client = follow(world)
    client.block()
    before = client.received
    world.wake("llama")
    assert client.received == before
    client.unblock()
    told = events_in(client.received)
    assert [kind for kind, _, _ in told] == ["status", "status"]
    states = {model["name"]: model["state"] for model in told[1][1]["models"]}
    assert states["llama"] == "awake"
    world.wake("mistral")
    assert "model" in kinds_in(client)


def test_a_slow_reader_that_has_missed_nothing_gets_nothing(world: AdminWorld) -> None:
    client = follow(world)
    client.block()
    world.advance(PATIENCE - 1, 1)
    client.unblock()
    assert kinds_in(client) == ["status"]
    assert not client.cut_off
    world.advance(PATIENCE + 1, 1)
    assert not client.cut_off


def test_a_reader_that_takes_nothing_is_cut_off(world: AdminWorld) -> None:
    stuck, other = follow(world), follow(world)
    stuck.block()
    world.advance(PATIENCE - 1, 1)
    assert not stuck.cut_off
    world.advance(2, 1)
    assert stuck.cut_off
    assert not other.cut_off
    stuck.leave()
    other.leave()
    world.advance(KEEP + 1, 1)
    assert not world.administration.events.is_on, "neither of them is kept"


def _in_memory() -> int:
    """
    Return the bytes that Python has allocated, without those of the lines of code that the
    tests' watchdog keeps.
    """
    gc.collect()
    taken = tracemalloc.take_snapshot()
    others = tracemalloc.Filter(False, linecache.__file__)
    kept = taken.filter_traces([others, tracemalloc.Filter(False, tracemalloc.__file__)])
    return sum(each.size for each in kept.statistics("filename"))


def test_ten_readers_one_of_them_stuck_do_not_make_llmux_grow(world: AdminWorld) -> None:
    """llmux may grow by a mebibyte at most, whatever happens meanwhile."""
    readers: list[ClientEnd] = []

    def work(times: int) -> None:
        for number in range(times):
            world.administration.ring.add("llama", "wake", "stdout", b"%01000d" % number)
            for reader in readers:
                reader.transport.io.seek(0)
                reader.transport.io.truncate()

    tracemalloc.start()
    try:
        # The ring of the log is there whether somebody listens or not.
        work(1000)
        before = _in_memory()
        readers += [follow(world) for _ in range(10)]
        readers[0].block()
        work(5000)
        after = _in_memory()
    finally:
        tracemalloc.stop()
    assert len(world.administration.events._events) > 100
    assert readers[0].received == b""
    assert after - before <= 2**20


# ------------------------------------------------------------------------------- log


def test_the_log_of_a_model_is_read_alone_or_with_the_others(world: AdminWorld) -> None:
    ring = world.administration.ring
    for number in range(5):
        ring.add("llama", "wake", "stdout", b"line %d" % number)
        ring.add("mistral", "sleep", "stderr", b"other \x1b[31m%d" % number)
    reply = world.ask(world.main, "/llmux/log?model=llama&tail=2")
    assert reply.headers["content-type"].startswith("text/plain")
    lines = reply.body.decode().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "llama wake stdout: line 3",
        "llama wake stdout: line 4",
    ]
    everything = world.ask(world.main, "/llmux/log").body.decode().splitlines()
    assert len(everything) == 10
    assert everything[1].endswith("mistral sleep stderr: other \\x1b[31m0")
    assert world.ask(world.main, "/llmux/log?tail=x").status == 422
    assert world.ask(world.public, "/llmux/log").status == 401


def test_a_log_is_followed(world: AdminWorld) -> None:
    ring = world.administration.ring
    ring.add("llama", "wake", "stdout", b"before")
    client = world.send(world.main, "/llmux/log?model=llama&tail=1&follow=true")
    ring.add("llama", "wake", "stdout", b"after")
    ring.add("mistral", "wake", "stdout", b"not mine")
    client.block()
    ring.add("llama", "wake", "stdout", b"lost")
    client.unblock()
    assert b"before\n" in client.received
    assert b"after\n" in client.received
    assert b"not mine" not in client.received
    assert b"lost" not in client.received
    assert b"1 lines left out" in client.received
    client.leave()
    assert ring.listeners == []


def test_a_ring_keeps_256_kib_of_each_model() -> None:
    ring = OutputRing(lambda: 0.0)
    for number in range(10_000):
        ring.add("a", "wake", "stdout", b"%0100d" % number)
    ring.add("b", "wake", "stdout", b"x" * 400_000)
    kept = ring.tail("a", 100_000)
    assert 1000 < len(kept) < 2700
    assert kept[-1].text == b"%0100d" % 9999
    assert len(ring.tail("b", 10)) == 1
    assert [line.model for line in ring.tail(None, 2)] == ["a", "b"]
