"""
The rules that keep web pages out of a server that asks for no key.

Any page that its user has open can send requests to a server on the same
machine: across origins, or by way of a host name of its own that it lets
resolve to 127.0.0.1 (DNS rebinding).  Browsers say in C{Origin} which page
sends a request, and in C{Host} which name was asked for.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from ipaddress import ip_address

__all__ = ["AccessRules", "host_pattern_is_sound", "origin_pattern_is_sound", "own_names"]

_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[^:\[\]]*)(?::[0-9]*)?")
_ALWAYS = ("localhost", "*.localhost", "*.internal")
_ORIGIN_PATTERN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://(?:\*|[^\s/*]+(?::\*)?)")
_HOST_PATTERN = re.compile(r"\*|(?:\*\.)?[^\s/*:]+|[0-9a-fA-F:.]+")


def own_names() -> list[str]:
    """The names under which this machine knows itself."""
    name = socket.gethostname().lower()
    return [name, name.partition(".")[0]] if name else []


def host_pattern_is_sound(text: str) -> bool:
    """Whether this is a host's name without a port, or C{*.} and a name, or C{*}."""
    return _HOST_PATTERN.fullmatch(text) is not None


def origin_pattern_is_sound(text: str) -> bool:
    """
    Whether this is an origin (scheme, C{://}, host and perhaps port), one with
    C{*} for what is after C{://} or for the port, C{null}, or C{*}.
    """
    return _ORIGIN_PATTERN.fullmatch(text.lower()) is not None


@dataclass(frozen=True)
class AccessRules:
    """
    The rules that the head of a request must keep.  They depend on nothing but
    C{Host} and C{Origin}, so that a head that is remembered has kept them.

    @ivar checks_host: C{Host} must be an IP address, a name that always means
        this machine, or one of C{hosts}.  For listeners that only this machine
        reaches; a request without C{Host} passes.
    @ivar hosts: names that may be asked for besides, perhaps with C{*.} in
        front; C{*} is any.
    @ivar origins: the origins whose pages may use this server, perhaps with
        C{*} at the end; C{*} is any.  Our own may always: that of C{Host}, by
        http or by https, because a proxy in front of us may have taken off TLS.
    """

    checks_host: bool = False
    hosts: Iterable[str] = ()
    origins: Iterable[str] = ()
    _hosts: frozenset[str] = field(init=False, repr=False, compare=False)
    _suffixes: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _origins: frozenset[str] = field(init=False, repr=False, compare=False)
    _prefixes: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        hosts = [host.lower().rstrip(".") for host in (*_ALWAYS, *self.hosts)]
        origins = [origin.lower().rstrip("/") for origin in self.origins]
        put = object.__setattr__
        put(self, "_hosts", frozenset(host for host in hosts if not host.startswith("*.")))
        put(self, "_suffixes", tuple(host[1:] for host in hosts if host.startswith("*.")))
        put(self, "_origins", frozenset(origins))
        put(
            self,
            "_prefixes",
            tuple(origin[:-1] for origin in origins if origin.endswith("*") and origin != "*"),
        )

    def take_over(self, other: AccessRules) -> None:
        """
        Be the same as C{other} from now on, for connections that are open as well.
        Whoever has remembered what was accepted must forget it.
        """
        put = object.__setattr__
        for each in fields(self):
            put(self, each.name, getattr(other, each.name))

    def accepts_host(self, host: bytes) -> bool:
        """Whether this value of C{Host} may be asked for; an empty one names nobody."""
        if not self.checks_host or not host:
            return True
        found = _HOST.fullmatch(host.decode("latin-1").lower())
        if found is None:
            return False
        name = found[1].rstrip(".")
        if name in self._hosts or "*" in self._hosts or name.endswith(self._suffixes):
            return True
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def lists_origin(self, origin: bytes) -> bool:
        """Whether the pages of this origin may use this server, whatever the C{Host}."""
        text = origin.decode("latin-1").lower()
        return (
            text in self._origins
            or "*" in self._origins
            or (bool(self._prefixes) and text.startswith(self._prefixes))
        )

    def accepts_origin(self, origin: bytes, host: bytes | None) -> bool:
        """Whether the pages of this origin may send a request with this C{Host}."""
        scheme, _, authority = origin.lower().partition(b"://")
        if host and authority == host.lower() and scheme in (b"http", b"https"):
            return True
        return self.lists_origin(origin)
