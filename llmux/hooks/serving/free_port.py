"""This module finds a port for a server that is about to be started."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Collection

__all__ = ["can_listen", "find_free_port"]

_OUTGOING = "/proc/sys/net/ipv4/ip_local_port_range"
_OUTGOING_UNLESS_TOLD = (32768, 60999)
_LOWEST, _HIGHEST = 10_000, 65_535
_ENOUGH = 1000
_TRIES = 200
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def find_free_port(host: str, taken: Collection[int] = ()) -> int:
    """
    Find a port on which nothing listens.

    The port lies outside of the range that the system uses for outgoing connections, because a
    server may begin to listen only minutes after its port was chosen.

    @param taken: ports that are not to be chosen.
    @raise OSError: no free port was found, or C{host} is no address of this machine.
    """
    low, high = _ports_of_outgoing_connections()
    ports = range(high + 1, _HIGHEST + 1)
    if len(ports) < _ENOUGH:
        ports = range(_LOWEST, low)
    if len(ports) < _ENOUGH:
        ports = range(_LOWEST, _HIGHEST + 1)
    for port in random.sample(ports, min(_TRIES, len(ports))):
        if port not in taken and can_listen(host, port):
            return port
    raise OSError(f"no free port was found from {ports.start} to {ports.stop - 1}")


def can_listen(host: str, port: int) -> bool:
    """
    Tell whether a server could listen on a port now.

    @raise OSError: C{host} is no address of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        # Connections that are left from a server that has ended do not prevent another one from
        # listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.settimeout(0)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno in _NOT_HERE:
                raise
            return False
    return True


def _ports_of_outgoing_connections() -> tuple[int, int]:
    try:
        with open(_OUTGOING) as file:
            low, high = map(int, file.read().split())
    except (OSError, ValueError):
        return _OUTGOING_UNLESS_TOLD
    return low, high
