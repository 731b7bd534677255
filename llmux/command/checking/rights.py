"""This module writes, for C{llmux check}, who may do what, and from where."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from ipaddress import ip_address

from llmux.config import Config
from llmux.config.error import printable
from llmux.socket_path import socket_path

__all__ = ["who_may"]

_INTERFACE = re.compile(r"(?<!\\):interface=((?:\\.|[^:\\])+)")


def who_may(config: Config) -> Iterator[str]:
    """Yield the lines that say who may use models, look, and command."""
    file = os.path.join(config.directory, os.path.basename(config.file))
    socket = printable(os.fspath(socket_path(file, config.admin.socket)))
    clients = _place(config)
    is_private = _is_private(config)
    lookers = [f"llmux's own user, at {socket}"]
    if config.admin.listen is not None:
        lookers.append(f"whoever reaches {printable(config.admin.listen)}")
    elif is_private:
        lookers.append(f"whoever reaches {clients} (this machine only)")
    elif is_private is None:
        lookers.append(f"whoever reaches {clients}, if that is this machine only")
    browser = "a browser that llmux open has let in"
    if config.admin.listen is None and clients.startswith("unix:"):
        browser = ""
    commanders = [f"llmux's own user, at {socket}", browser]
    yield "who may"
    yield f"  use models        whoever reaches {clients}"
    yield from _list("see what goes on", [*lookers, browser])
    yield from _list("give commands", commanders)
    yield f"  scrape /metrics   whoever reaches {clients}"


def _list(what: str, who: list[str]) -> Iterator[str]:
    start = f"  {what:<18}"
    for each in who:
        if each:
            yield start + each
            start = " " * len(start)


def _place(config: Config) -> str:
    if config.listen is not None:
        return printable(config.listen)
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{config.port}"


def _is_private(config: Config) -> bool | None:
    """
    Tell whether only this machine can reach llmux; None if the configuration does not say.
    """
    host: str | None = config.host
    if config.listen is not None:
        kind = config.listen.partition(":")[0]
        if kind == "unix":
            return True
        if kind not in ("tcp", "tcp6", "ssl"):
            return None
        found = _INTERFACE.search(config.listen)
        host = None if found is None else found[1].replace("\\", "")
    if not host:
        return False
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return None
