"""This module tells the init system the state of llmux (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time

__all__ = ["tell_init"]


def tell_init(*lines: str) -> None:
    """
    Tell the init system C{READY=1}, C{RELOADING=1} or C{STOPPING=1}, if there is one that
    listens (C{$NOTIFY_SOCKET}).  Errors are ignored, because only the init system would miss
    the message.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    text = list(lines)
    if "RELOADING=1" in text:
        # Type=notify-reload needs the time at which the reload began.
        text.append(f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.connect("\0" + address[1:] if address[0] == "@" else address)
            to.send("\n".join(text).encode())
    except OSError:
        pass
