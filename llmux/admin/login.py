"""
The way of a browser to its rights: a token that is asked for on the socket and
used once becomes a cookie.

EventSource cannot send C{Authorization}, and keys in addresses get into logs:
hence the cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

__all__ = ["COOKIE_SECS", "TOKEN_SECS", "Login"]

TOKEN_SECS = 60.0
"""Seconds within which a token must be used."""

COOKIE_SECS = 12 * 3600
"""Seconds for which a cookie is accepted."""

_MOST_TOKENS = 100
"""Tokens that may be out at once; the oldest goes for one more."""


class Login:
    """
    Tokens, each of which is accepted once, and cookies.

    A cookie says until when it is accepted, and is signed with a secret that
    lives as long as this process.  Its name depends on the secret: cookies know
    no ports, so two daemons on one host would else overwrite each other's.

    @ivar cookie_name: the name of the cookie.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        seconds: Callable[[], float] = time.time,
        secret: bytes | None = None,
    ) -> None:
        """
        @param monotonic: a clock that nobody sets, for tokens.
        @param seconds: the time since 1970, for cookies.
        @param secret: signs cookies; a new one if None.
        """
        self._monotonic = monotonic
        self._seconds = seconds
        self._secret = secrets.token_bytes(32) if secret is None else secret
        self._tokens: dict[str, float] = {}
        self.cookie_name = "llmux_" + self._sign("name")[:8]

    def new_token(self) -> str:
        """Make a token."""
        now = self._monotonic()
        self._tokens = {t: until for t, until in self._tokens.items() if until > now}
        while len(self._tokens) >= _MOST_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        token = secrets.token_urlsafe(24)
        self._tokens[token] = now + TOKEN_SECS
        return token

    def use_token(self, token: str) -> bool:
        """Whether this token is accepted, which the same is not a second time."""
        until = self._tokens.pop(token, None)
        return until is not None and self._monotonic() < until

    def new_cookie(self) -> bytes:
        """The value of C{Set-Cookie} for a browser that has used a token."""
        until = f"{self._seconds() + COOKIE_SECS:.0f}.{secrets.token_urlsafe(9)}"
        value = f"{until}.{self._sign(until)}"
        return (
            f"{self.cookie_name}={value}; Path=/llmux; Max-Age={COOKIE_SECS}; HttpOnly; "
            "SameSite=Strict"
        ).encode()

    def accepts_cookie(self, value: bytes) -> bool:
        """Whether this value of our cookie is ours, and not too old."""
        until, _, signature = value.decode("latin-1").rpartition(".")
        expected = self._sign(until)
        if not hmac.compare_digest(signature.encode("latin-1"), expected.encode("ascii")):
            return False
        return self._seconds() < float(until.partition(".")[0])

    def _sign(self, text: str) -> str:
        digest = hmac.new(self._secret, text.encode("latin-1"), hashlib.sha256)
        return digest.hexdigest()
