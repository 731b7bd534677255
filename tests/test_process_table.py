"""These tests check what is known of processes that this process does not wait for."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from llmux.hooks.persistence.process_table import ProcessIdentity, SystemProcesses
from llmux.hooks.serving.free_port import can_listen, find_free_port
from tests.daemon import wait_until

TABLE = SystemProcesses()


@contextmanager
def group(script: str) -> Iterator[subprocess.Popen[str]]:
    """Run the leader of a session, and wait until it has said that it is ready."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        process.stdout.close()


def test_a_process_runs_until_it_has_exited_even_if_nobody_has_waited_for_it() -> None:
    with group("echo; exec sleep 1000") as process:
        leader = TABLE.identify(process.pid)
        assert TABLE.leads(leader) and TABLE.group_lives(leader)
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: not TABLE.leads(leader), "the end")
        assert not TABLE.group_lives(leader)
        process.wait()
        assert not TABLE.leads(leader) and not TABLE.group_lives(leader)


def test_what_a_leader_leaves_behind_is_of_its_group() -> None:
    with group("sleep 1000 & echo; wait") as process:
        leader = TABLE.identify(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not TABLE.leads(leader) and TABLE.group_lives(leader)
        TABLE.signal_group(leader, signal.SIGKILL)
        wait_until(lambda: not TABLE.group_lives(leader), "the end of the group")


@pytest.mark.parametrize("field", ["started", "boot"])
def test_another_process_of_the_same_number_is_left_alone(field: str) -> None:
    with group("echo; exec sleep 1000") as process:
        leader = TABLE.identify(process.pid)
        assert leader.started is not None
        other = {"started": leader.started - 1, "boot": "of before"}[field]
        former = msgspec.structs.replace(leader, **{field: other})
        assert not TABLE.leads(former) and not TABLE.group_lives(former)
        TABLE.signal_group(former, signal.SIGKILL)
        assert process.poll() is None and TABLE.leads(leader)


def test_a_process_that_was_never_identified_is_nobody() -> None:
    nobody = ProcessIdentity(os.getpid(), None, TABLE.identify(os.getpid()).boot)
    assert not TABLE.leads(nobody) and not TABLE.group_lives(nobody)


def test_a_free_port_is_none_on_which_something_listens_nor_one_of_outgoing_connections() -> (
    None
):
    import socket

    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        low, high = map(int, file.read().split())
    found = {find_free_port("127.0.0.1") for _ in range(20)}
    assert len(found) > 10 and not [port for port in found if low <= port <= high]
    port = found.pop()
    assert can_listen("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        assert not can_listen("127.0.0.1", port)
    with pytest.raises(OSError, match="Cannot assign"):
        find_free_port("192.0.2.1")
