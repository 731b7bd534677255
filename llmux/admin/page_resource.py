"""
This module serves the page: one static file, its headers, and the way in with a token.

For browsers without JavaScript the page holds a table of the models, which this module writes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any, ClassVar

from twisted.web.server import Request

from llmux.admin.listen_address import Role
from llmux.admin.login import Login
from llmux.admin.replies import AdminResource, RefusalSink, send
from llmux.admin.roles import Access, Asker
from llmux.web.error_reply import ApiError

__all__ = ["PageResource", "content_security_policy", "model_table"]

TABLE_MARK = b"<!--TABLE-->"
_INLINE = re.compile(rb"<(script|style)\b[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)

_PLAIN = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>llmux</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="5"></head>
<body><h1>llmux</h1><!--TABLE--></body></html>
"""
"""This page is served if the file is missing."""

_HEADERS = {
    b"Referrer-Policy": b"no-referrer",
    b"X-Frame-Options": b"DENY",
}


def content_security_policy(page: bytes) -> bytes:
    """
    Return the policy with which a browser runs only what stands in the page itself, and lets
    the page connect to llmux only.
    """
    hashes: dict[bytes, list[str]] = {b"script": [], b"style": []}
    for found in _INLINE.finditer(page):
        digest = base64.b64encode(hashlib.sha256(found[2]).digest()).decode()
        hashes[found[1].lower()].append(f"'sha256-{digest}'")
    scripts = " ".join(hashes[b"script"]) or "'none'"
    styles = " ".join(hashes[b"style"]) or "'none'"
    return (
        f"default-src 'self'; script-src {scripts}; style-src {styles}; img-src 'self' data:; "
        "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ).encode()


def model_table(status: Mapping[str, Any]) -> bytes:
    """Return the models of a status as a table of HTML."""
    rows = [
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in _cells(model)) + "</tr>"
        for model in status["models"]
    ]
    heads = "".join(
        f"<th>{head}</th>"
        for head in ("model", "state", "since", "in flight", "waiters", "oldest wait")
    )
    decision = status["policy"]["decision"]
    why = "" if decision is None else f"<p>{escape(decision['text'])}</p>"
    return (
        f"<p>{escape(status['now'])}, mode {escape(status['mode'])}</p>{why}"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    ).encode("utf-8", "replace")


def _cells(model: Mapping[str, Any]) -> Iterable[object]:
    wait = model["oldest_wait_secs"]
    yield model["name"]
    yield model["state"]
    yield model["since"] or ""
    yield model["in_flight"]
    yield model["waiters"]
    yield "" if wait is None else f"{wait:.0f} s"


class PageResource(AdminResource):
    """
    This Resource is the page, and exchanges a token for a cookie: C{/llmux/?token=TOKEN}
    answers with the cookie, and redirects to the page without the token.
    """

    methods: ClassVar[tuple[bytes, ...]] = (b"GET", b"HEAD")
    role: ClassVar[Role | None] = None

    def __init__(
        self,
        access: Access,
        refusals: RefusalSink,
        login: Login,
        status: Callable[[], Mapping[str, Any]],
    ) -> None:
        super().__init__(access, refusals)
        self._login = login
        self._status = status
        self._page: bytes | None = None
        self._policy = b""

    def answer(self, request: Request, asker: Asker) -> None:
        """See L{AdminResource.answer}."""
        token = request.args.get(b"token")
        if token is not None and request.method != b"HEAD":
            self._let_in(request, token[0].decode("latin-1"))
            return
        if Role.VIEW not in asker.roles:
            self._lock(request)
            return
        page = self._read()
        if TABLE_MARK in page:
            page = page.replace(TABLE_MARK, model_table(self._status()))
        policy = {b"Content-Security-Policy": self._policy, **_HEADERS}
        send(request, b"text/html; charset=utf-8", page, headers=policy)

    def _read(self) -> bytes:
        if self._page is None:
            try:
                self._page = files("llmux.admin").joinpath("page.html").read_bytes()
            except FileNotFoundError:
                self._page = _PLAIN
            self._policy = content_security_policy(self._page)
        return self._page

    def _let_in(self, request: Request, token: str) -> None:
        if not self._login.use_token(token):
            self.refuse(
                request,
                ApiError(
                    403,
                    "This address has been used already, or is more than a minute old: run "
                    "llmux open once more.",
                    "token_refused",
                ),
            )
            return
        headers = {
            b"Location": b"/llmux/",
            b"Set-Cookie": self._login.new_cookie(),
            **_HEADERS,
        }
        send(request, b"text/plain; charset=utf-8", b"/llmux/\n", 303, headers)

    def _lock(self, request: Request) -> None:
        page = (
            b"<!doctype html><html lang=en><meta charset=utf-8><title>llmux</title>"
            b"<p>This page is for those who have been let in. On the machine of llmux, run: "
            b"<code>llmux open</code></p></html>\n"
        )
        policy = {b"Content-Security-Policy": content_security_policy(page), **_HEADERS}
        send(request, b"text/html; charset=utf-8", page, 401, policy)
