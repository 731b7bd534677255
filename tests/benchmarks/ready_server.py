"""
This script is a model's server for readiness.py, which knows when it was ready and when the
first request came.

    python -S ready_server.py FILE DELAY refused|503

Until DELAY seconds have passed, the server does not listen, or answers 503 to everything.  With
the first request it writes a line into FILE: how it refused until then, and the seconds from
the moment when it was ready to that request.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

__all__: list[str] = []

ANSWER = b"HTTP/1.1 %b\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


def _main() -> None:
    file, delay, says_no = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    address = "127.0.0.1", int(os.environ["LLMUX_PORT"])
    ready = time.monotonic() + delay
    if says_no == "refused":
        time.sleep(max(0.0, ready - time.monotonic()))
    listening = socket.create_server(address, backlog=128)
    if says_no == "refused":
        ready = time.monotonic()
    waits = True
    open_ones: dict[int, socket.socket] = {}
    while True:
        readable, _, _ = select.select([listening, *open_ones.values()], [], [])
        now = time.monotonic()
        for one in readable:
            if one is listening:
                client, _ = listening.accept()
                open_ones[client.fileno()] = client
                continue
            del open_ones[one.fileno()]
            asked = one.recv(65536)
            if waits and asked.startswith(b"POST"):
                waits = False
                with open(file, "a") as lines:
                    print(says_no, f"{now - ready:.6f}", file=lines)
            one.sendall(ANSWER % (b"200 OK" if now >= ready else b"503 Not yet"))
            one.close()


if __name__ == "__main__":
    _main()
