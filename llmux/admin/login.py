"""
This module lets a browser in: a token that was asked for on the socket, and can be used once,
is exchanged for a cookie.

A cookie is needed because a browser's EventSource cannot send C{Authorization}, and keys in
addresses get into logs.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

__all__ = ["COOKIE_SECS", "TOKEN_SECS", "Login"]

TOKEN_SECS = 60.0
"""A token must be used within this many seconds."""

COOKIE_SECS = 12 * 3600
"""A cookie is accepted for this many seconds."""

_MOST_TOKENS = 100
"""This many tokens may be valid at once; if one more is made, the oldest is removed."""


class Login:
    """
    A login makes and checks tokens, each of which is accepted once, and cookies.

    A cookie says until when it is accepted, and is signed with a secret of this process.  The
    name of the cookie depends on the secret: browsers keep cookies per host and not per port,
    so two daemons on one host would overwrite each other's cookie if it had the same name.

    @ivar cookie_name: the name of the cookie.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        seconds: Callable[[], float] = time.time,
        secret: bytes | None = None,
    ) -> None:
        """
        @param monotonic: a clock that is never set, in seconds, for tokens.
        @param seconds: the time since 1970 in seconds, for cookies.
        @param secret: the secret that signs cookies; None for a new one.
        """
        self._monotonic = monotonic
        self._seconds = seconds
        self._secret = secrets.token_bytes(32) if secret is None else secret
        self._tokens: dict[str, float] = {}
        self.cookie_name = "llmux_" + self._sign("name")[:8]

    def new_token(self) -> str:
        """Make a token that can be used once, within L{TOKEN_SECS} seconds."""
        now = self._monotonic()
        self._tokens = {t: until for t, until in self._tokens.items() if until > now}
        while len(self._tokens) >= _MOST_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        token = secrets.token_urlsafe(24)
        self._tokens[token] = now + TOKEN_SECS
        return token

    def use_token(self, token: str) -> bool:
        """Tell whether this token is accepted, and do not accept it again."""
        until = self._tokens.pop(token, None)
        return until is not None and self._monotonic() < until

    def new_cookie(self) -> bytes:
        """Return the value of C{Set-Cookie} for a browser that has used a token."""
        until = f"{self._seconds() + COOKIE_SECS:.0f}.{secrets.token_urlsafe(9)}"
        value = f"{until}.{self._sign(until)}"
        return (
            f"{self.cookie_name}={value}; Path=/llmux; Max-Age={COOKIE_SECS}; HttpOnly; "
            "SameSite=Strict"
        ).encode()

    def accepts_cookie(self, value: bytes) -> bool:
        """
        Tell whether this value of the cookie was signed by this process, and is not too old.
        """
        until, _, signature = value.decode("latin-1").rpartition(".")
        expected = self._sign(until)
        if not hmac.compare_digest(signature.encode("latin-1"), expected.encode("ascii")):
            return False
        return self._seconds() < float(until.partition(".")[0])

    def _sign(self, text: str) -> str:
        digest = hmac.new(self._secret, text.encode("latin-1"), hashlib.sha256)
        return digest.hexdigest()
