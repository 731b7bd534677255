"""
This module has the rules that keep web pages out of a server that asks for no key.

Any page that is open in a user's browser can send requests to a server on the same machine,
either across origins, or with the help of a host name of its own that resolves to 127.0.0.1
(DNS rebinding).  Browsers say in C{Origin} which page sends a request, and in C{Host} which
name was asked for.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address

__all__ = ["AccessRules", "host_pattern_is_sound", "origin_pattern_is_sound", "own_names"]

_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[^:\[\]]*)(?::[0-9]*)?")
_ALWAYS = ("localhost", "*.localhost", "*.internal")
_ORIGIN_PATTERN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://(?:\*|[^\s/*]+(?::\*)?)")
_HOST_PATTERN = re.compile(r"\*|(?:\*\.)?[^\s/*:]+|[0-9a-fA-F:.]+")


def own_names() -> list[str]:
    """Return the names of this machine, as the machine itself knows them."""
    name = socket.gethostname().lower()
    return [name, name.partition(".")[0]] if name else []


def host_pattern_is_sound(text: str) -> bool:
    """Tell whether this text is a host's name without a port, or C{*.} and a name, or C{*}."""
    return _HOST_PATTERN.fullmatch(text) is not None


def origin_pattern_is_sound(text: str) -> bool:
    """
    Tell whether this text is an origin (scheme, C{://}, host and possibly a port), or an origin
    with C{*} in place of the part after C{://} or of the port, or C{null}, or C{*}.
    """
    return _ORIGIN_PATTERN.fullmatch(text.lower()) is not None


class AccessRules:
    """
    L{AccessRules} are the rules for the head of a request.  They depend only on C{Host} and
    C{Origin}, so that a head that was accepted and remembered needs no second check.

    @ivar checks_host: whether C{Host} must be an IP address, a name that always means this
        machine, or one of C{hosts}.  This is for listeners that only this machine can reach; a
        request without C{Host} passes.
    @ivar hosts: further names that C{Host} may have, possibly with C{*.} in front; C{*} is any
        name.
    @ivar origins: the origins whose pages may use this server, possibly with C{*} at the end;
        C{*} is any origin.  Pages of our own origin always may.  Our own origin is that of
        C{Host}, with http or with https, because a proxy in front of us may have removed TLS.
    """

    def __init__(
        self,
        checks_host: bool = False,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
    ) -> None:
        self.checks_host = checks_host
        self.hosts = tuple(hosts)
        self.origins = tuple(origins)
        lowered = [host.lower().rstrip(".") for host in (*_ALWAYS, *self.hosts)]
        self._hosts = frozenset(host for host in lowered if not host.startswith("*."))
        self._suffixes = tuple(host[1:] for host in lowered if host.startswith("*."))
        bare = [origin.lower().rstrip("/") for origin in self.origins]
        self._origins = frozenset(bare)
        self._prefixes = tuple(
            origin[:-1] for origin in bare if origin.endswith("*") and origin != "*"
        )

    def take_over(self, other: AccessRules) -> None:
        """
        Apply the rules of C{other} from now on, also to connections that are open.  The caller
        must forget all heads that were accepted.
        """
        self.__dict__.update(other.__dict__)

    def accepts_host(self, host: bytes) -> bool:
        """Tell whether this value of C{Host} is accepted; an empty value is."""
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
        """Tell whether the pages of this origin may use this server, whatever the C{Host}."""
        text = origin.decode("latin-1").lower()
        return (
            text in self._origins
            or "*" in self._origins
            or (bool(self._prefixes) and text.startswith(self._prefixes))
        )

    def accepts_origin(self, origin: bytes, host: bytes | None) -> bool:
        """Tell whether the pages of this origin may send a request with this C{Host}."""
        scheme, _, authority = origin.lower().partition(b"://")
        if host and authority == host.lower() and scheme in (b"http", b"https"):
            return True
        return self.lists_origin(origin)
