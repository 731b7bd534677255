"""
This module connects the command line to a running llmux, by the daemon's Unix socket or by a
URL.

A command sends one request, prints the reply and ends, so it uses blocking sockets of the
standard library.  Nothing of Twisted is imported, so that a command starts quickly.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, urlsplit

from llmux.config.error import ConfigError, printable
from llmux.socket_path import socket_candidates

__all__ = ["CommandRefused", "DaemonLink", "NotReachable", "StreamEvent", "link_of_config"]

_CONNECT_SECS = 5.0
_REPLY_SECS = 30.0
"""A reply may take this many seconds; a status takes milliseconds."""

_SILENCE_SECS = 40.0
"""
A stream may be silent for this many seconds, because the daemon sends a comment each 15 s.
"""

_LONGEST_LINE = 2**26


class NotReachable(Exception):
    """No daemon has answered; the message says what was tried."""


class CommandRefused(Exception):
    """
    The daemon has refused a command, or failed at it; the message is its sentence.

    @ivar status: the HTTP status of the reply.
    @ivar document: the reply's JSON, or None if the reply was not JSON.
    """

    def __init__(self, message: str, status: int, document: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.document = document


class StreamEvent:
    """
    A L{StreamEvent} is one event of the daemon's stream (server-sent events).

    @ivar kind: the value of C{event:}.
    @ivar data: the JSON of C{data:}.
    @ivar number: the value of C{id:}; empty if there is none.
    """

    __slots__ = ("data", "kind", "number")

    def __init__(self, kind: str, data: Any, number: str) -> None:
        self.kind = kind
        self.data = data
        self.number = number


class _UnixConnection(HTTPConnection):
    """This HTTP connection uses a Unix socket."""

    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the Unix socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


class DaemonLink:
    """
    A L{DaemonLink} knows where a daemon is, and sends requests there.

    @ivar shown: the daemon's address, for messages.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        sockets: Sequence[str] = (),
        key: str | None = None,
        doubt: str | None = None,
    ) -> None:
        """
        @param url: C{http://} or C{https://}, host and port; a path before C{/llmux} is kept.
        @param sockets: the paths of Unix sockets that are tried in turn if there is no URL.
        @param doubt: a reason why the daemon's socket may be another one; the error says it if
            no daemon is reached.
        @param key: the key that is sent as C{Authorization: Bearer}, to a URL only.
        @raise ValueError: the URL is not sound, or the key holds characters that no key can
            have.
        """
        self._sockets = sockets
        self._doubt = "" if doubt is None else f"; {doubt}"
        self._headers: dict[str, str] = {}
        self._prefix = ""
        self._url = None if url is None else _split(url)
        self.shown = ""
        if self._url is not None:
            # The user's part of a URL may hold a password, which no message shows.
            place = self._url.netloc.rpartition("@")[2]
            self.shown = self._url._replace(netloc=place).geturl()
            self._prefix = self._url.path.rstrip("/").removesuffix("/llmux")
            if key:
                if not key.isascii() or not key.isprintable():
                    raise ValueError("LLMUX_KEY holds characters that no key can have")
                self._headers["Authorization"] = f"Bearer {key}"

    def _open(self, timeout: float | None) -> HTTPConnection:
        if self._url is not None:
            kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
            connection: HTTPConnection = kind(
                self._url.hostname or "", self._url.port, timeout=timeout
            )
            self._connect(connection, self.shown)
            return connection
        why: list[str] = []
        for path in self._sockets:
            connection = _UnixConnection(path, timeout)
            try:
                connection.connect()
            except OSError as e:
                why.append(f"{path} ({(e.strerror or str(e)).lower()})")
                continue
            self.shown = path
            return connection
        tried = ", ".join(why) or "no socket at all"
        raise NotReachable(f"is it running? tried {tried}{self._doubt}")

    @staticmethod
    def _connect(connection: HTTPConnection, shown: str) -> None:
        limit, connection.timeout = connection.timeout, _CONNECT_SECS
        try:
            connection.connect()
        except OSError as e:
            why = (e.strerror or str(e) or type(e).__name__).lower()
            raise NotReachable(f"is it running? tried {printable(shown)} ({why})") from None
        connection.sock.settimeout(limit)
        # A machine that has gone sends nothing; with keepalive the kernel notices that.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout: float | None,
        silence: float | None,
    ) -> tuple[HTTPConnection, HTTPResponse]:
        """
        Send a request, and return the connection and the reply once its head has come.

        @param timeout: seconds until the reply's head.
        @param silence: how many seconds may pass without a byte after the head; None for no
            limit.
        """
        connection = self._open(timeout)
        headers = dict(self._headers)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        sock = connection.sock
        try:
            connection.request(method, f"{self._prefix}{path}", data, headers)
            reply = connection.getresponse()
            # The timeout is set on the socket itself: where the reply ends with the connection,
            # C{connection.sock} is None by now.
            sock.settimeout(silence)
            return connection, reply
        except TimeoutError:
            connection.close()
            raise
        except (OSError, HTTPException) as e:
            connection.close()
            raise NotReachable(f"{self.shown} closed the connection: {e}") from None

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        timeout: float | None = _REPLY_SECS,
    ) -> Any:
        """
        Send a request, and return the JSON of the reply.

        @param timeout: how many seconds may pass without a byte; None for no limit.
        @raise CommandRefused: the status is no 2xx.
        @raise NotReachable: no daemon answers, or the connection was closed.
        @raise TimeoutError: the reply has not come in time.
        """
        connection, reply = self._request(method, path, body, timeout, timeout)
        with closing(connection):
            try:
                data = reply.read()
            except TimeoutError:
                raise
            except (OSError, HTTPException) as e:
                raise NotReachable(f"{self.shown} closed the connection: {e}") from None
        return self._document_of(reply, data)

    def _document_of(self, reply: HTTPResponse, data: bytes) -> Any:
        try:
            document = json.loads(data) if data else {}
        except ValueError:
            document = None
        if 200 <= reply.status < 300 and document is not None:
            return document
        error = document.get("error") if isinstance(document, dict) else None
        message = error.get("message") if isinstance(error, dict) else None
        if not isinstance(message, str):
            message = f"{self.shown} answered {reply.status} {reply.reason}: is it llmux?"
        raise CommandRefused(printable(message), reply.status, document)

    def lines(self, path: str, silence: float | None = None) -> Iterator[str]:
        """
        Send a request, and yield the lines of the reply as they come, without their line ends.

        @param silence: after how many seconds without a byte the daemon counts as lost; None
            for never.
        @raise CommandRefused: the status is no 2xx.
        @raise NotReachable: no daemon answers; or the stream was cut, or was silent for too
            long.
        """
        connection, reply = self._request("GET", path, None, _REPLY_SECS, silence)
        with closing(connection):
            if not 200 <= reply.status < 300:
                self._document_of(reply, reply.read())
            try:
                while line := reply.readline(_LONGEST_LINE):
                    yield line.decode("utf-8", "replace").rstrip("\r\n")
            except TimeoutError:
                raise NotReachable(f"{self.shown} has fallen silent") from None
            except (OSError, HTTPException) as e:
                raise NotReachable(f"{self.shown} closed the connection: {e}") from None

    def events(self, path: str) -> Iterator[StreamEvent | None]:
        """
        Yield the events of a stream as they come; None for each comment.

        @raise CommandRefused: the status is no 2xx.
        @raise NotReachable: no daemon answers; or the stream has ended, or was silent for too
            long.
        """
        kind, number, data = "message", "", []
        for line in self.lines(path, _SILENCE_SECS):
            if line.startswith(":"):
                yield None
            elif line:
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "event":
                    kind = value
                elif name == "id":
                    number = value
                elif name == "data":
                    data.append(value)
            elif data:
                try:
                    yield StreamEvent(kind, json.loads("\n".join(data)), number)
                except ValueError:
                    raise NotReachable(f"{self.shown} sends what is no JSON") from None
                kind, data = "message", []
        raise NotReachable(f"{self.shown} has ended the stream")


def _split(url: str) -> SplitResult:
    """
    Return the parts of a URL.

    @raise ValueError: the text is no URL of a daemon.
    """
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        # A port that is no number raises only when it is asked for.
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise ValueError(f"{url!r} is no URL: give one as in http://127.0.0.1:3000")


def link_of_config(file: str, environ: Mapping[str, str] = os.environ) -> DaemonLink:
    """
    Return the link to the daemon that runs by a configuration file.

    The file may be broken: its owner may be changing it just now, and still wants to reach the
    daemon.
    """
    configured = doubt = None
    try:
        configured = _admin_socket(file)
    except ConfigError as e:
        doubt = str(e)
    if not os.path.exists(file):
        doubt = f"there is no {printable(file)}: name the configuration of llmux with -c FILE"
    candidates = socket_candidates(file, configured, environ)
    return DaemonLink(sockets=[str(path) for path in candidates], doubt=doubt)


def _admin_socket(file: str) -> str | None:
    """
    Return C{admin.socket} of the file; None if the file does not say it, or does not exist.
    """
    try:
        with open(file, "rb") as stream:
            data = stream.read()
    except OSError:
        return None
    if b"admin" not in data:
        return None
    from llmux.config.document import read_document

    document = read_document(data, file)
    admin = document.get("admin") if isinstance(document, dict) else None
    path = admin.get("socket") if isinstance(admin, dict) else None
    return path if isinstance(path, str) else None
