"""This module asks and commands a daemon on its Unix socket, as the daemon's owner does."""

from __future__ import annotations

import json
import os
import socket
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from llmux.config import load_config
from llmux.daemon.admin_socket import path_of
from tests.daemon import PATIENCE

__all__ = ["Owner"]


class Owner:
    """An owner may open the socket of the daemon of this configuration."""

    def __init__(self, file: Path) -> None:
        self.path = path_of(load_config(str(file)))

    def connect(self) -> HTTPConnection:
        """Connect to the socket."""
        connection = HTTPConnection("localhost", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE)
        connection.sock.connect(os.fspath(self.path))
        return connection

    def get(self, path: str) -> Any:
        """Ask for a path, and return the JSON of the answer."""
        with closing(self.connect()) as connection:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())

    def post(self, verb: str, keys: dict[str, Any]) -> tuple[int, Any]:
        """Give a command, and return the status and the JSON of the answer."""
        with closing(self.connect()) as connection:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"/llmux/{verb}", json.dumps(keys), headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
