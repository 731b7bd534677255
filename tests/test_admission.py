"""
These tests check that accepting pauses while connections or descriptors run short, and goes on
afterwards.
"""

from __future__ import annotations

import os
import resource
import socket
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from llmux.daemon.admission import LEAST_RESERVE, PAUSE, Admission, descriptors
from tests.daemon import LLMUX, Daemon, backend, connect, write_config


class Port:
    """This listening port is asked for nothing but pauses."""

    def __init__(self) -> None:
        self.paused = False
        self.batch = 0

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def accept_at_once(self, count: int) -> None:
        self.batch = count


class House:
    """A house has an admission, the clients that it has let in, and a number of descriptors."""

    def __init__(self, most: int = 10_000, limit: int | None = None) -> None:
        self.clock = Clock()
        self.port = Port()
        self.clients = 0
        self.others = 10
        self.counts = 0
        self.limit = limit
        self.admission = Admission(
            self.clock, self.port, most, lambda: self.clients, self.count
        )

    def count(self) -> tuple[int, int] | None:
        self.counts += 1
        return None if self.limit is None else (self.clients + self.others, self.limit)

    def accept(self, most: int = 100_000) -> None:
        """Let clients in until accepting pauses."""
        while not self.port.paused and most:
            most -= 1
            # With Twisted, too, the descriptor is open when the factory is asked.
            self.others += 1
            self.admission.accepted()
            self.others -= 1
            self.clients += 1


@pytest.mark.parametrize("most", [1, 2, 7, 100])
def test_no_more_clients_are_let_in_than_the_configuration_allows(most: int) -> None:
    house = House(most)
    house.accept()
    assert house.clients == most
    house.clients -= 1
    house.clock.advance(PAUSE)
    assert not house.port.paused
    house.accept()
    assert house.clients == most


def test_a_batch_that_is_under_way_does_not_exceed_what_is_allowed() -> None:
    house = House(8192)
    house.accept()
    assert 8192 - 2 * house.port.batch <= house.clients <= 8192 - house.port.batch


def test_a_reserve_of_descriptors_is_kept() -> None:
    house = House(limit=64)
    house.accept()
    assert house.limit is not None
    assert house.limit - house.clients - house.others == LEAST_RESERVE
    house.clock.advance(PAUSE)
    assert house.port.paused
    house.clients -= 5
    house.clock.advance(PAUSE)
    assert not house.port.paused


def test_descriptors_that_others_take_are_seen_in_time() -> None:
    """Each client brings a backend and a body on disk, which is the most that a client can."""
    house = House(limit=1000)
    while not house.port.paused:
        house.accept(1)
        house.others += 3
    assert house.limit is not None
    assert house.limit - house.clients - house.others >= LEAST_RESERVE


def test_descriptors_are_not_counted_for_each_client() -> None:
    house = House(limit=1 << 20)
    house.accept(8000)
    assert house.counts < 3


def test_no_timer_is_left_after_the_end() -> None:
    house = House(1)
    house.accept()
    assert house.clock.getDelayedCalls()
    house.admission.stop()
    assert not house.clock.getDelayedCalls()


def test_open_descriptors_are_counted() -> None:
    before = descriptors()
    assert before is not None
    assert before[1] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    extra = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    after = descriptors()
    for number in extra:
        os.close(number)
    assert after is not None
    assert after[0] - before[0] == 5


def ask_and_close(port: int, model: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), 30)
    body = b'{"model": "%b"}' % model.encode()
    client.sendall(
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    return client


def answer(client: socket.socket) -> bytes:
    said = b""
    while data := client.recv(4096):
        said += data
    return said[:12] or b"closed without a reply"


def test_clients_that_wait_do_not_keep_hooks_from_running(tmp_path: Path) -> None:
    """
    The clients hold more descriptors than there are; nobody is served before a hook can run.
    """
    limit = 'ulimit -Sn 64 && ulimit -Hn 64 && exec "$0" "$@"'
    with backend() as behind:
        hooks = {"port": behind.port, "sleep": "true", "alive": "true"}
        models = {
            "a": {**hooks, "wake": "until test -e go; do sleep 0.05; done"},
            "b": {**hooks, "wake": "true"},
        }
        port = write_config(tmp_path, behind.port, models=models)
        arguments = ["-c", "config.json"]
        with (
            Daemon(arguments, tmp_path, command=["sh", "-c", limit, *LLMUX]) as daemon,
            ExitStack() as stack,
        ):
            clients = [stack.enter_context(closing(ask_and_close(port, "a")))]
            clients += [
                stack.enter_context(closing(ask_and_close(port, "b"))) for _ in range(60)
            ]
            daemon.wait_for("accepting_paused")
            (tmp_path / "go").touch()
            seen = Counter(answer(client) for client in clients)
        assert seen == {b"HTTP/1.1 200": 61}
        assert "Too many open files" not in "\n".join(daemon.lines)


def test_clients_beyond_the_limit_wait_for_their_turn(tmp_path: Path) -> None:
    with backend() as behind, ExitStack() as stack:
        port = write_config(tmp_path, behind.port, max_connections=2)
        daemon = stack.enter_context(Daemon(["-c", "config.json"], tmp_path))
        first, second, third = (stack.enter_context(closing(connect(port))) for _ in range(3))
        for one in first, second:
            one.request("GET", "/health")
            assert one.getresponse().read()
        third.request("GET", "/health")
        daemon.wait_for("accepting_paused")
        first.close()
        assert third.getresponse().status == 200
