"""
These tests check the page as it is served: what a browser may run of it, and what it is without
a script.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

import pytest

from llmux.admin.page_resource import TABLE_MARK, content_security_policy
from tests.admin_world import AdminWorld

PAGE = files("llmux.admin").joinpath("page.html").read_bytes()


def test_a_browser_runs_what_stands_in_the_page_and_nothing_else() -> None:
    policy = content_security_policy(
        b"<style>a{}</style><script>one()</script><SCRIPT type='x'>\ntwo()</SCRIPT>"
    ).decode()
    for text in (b"a{}", b"one()", b"\ntwo()"):
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'self'; ")
    assert "unsafe" not in policy
    for part in ("object-src", "base-uri", "form-action", "frame-ancestors"):
        assert f"{part} 'none'" in policy


def test_the_page_keeps_to_that_policy() -> None:
    """No attribute holds script or style, and nothing comes from elsewhere."""
    assert len(PAGE) <= 60_000
    outside = re.sub(rb"<(script|style)\b.*?</\1>", b"", PAGE, flags=re.DOTALL)
    assert re.search(rb"<[^>]*\son\w+\s*=", outside) is None
    assert re.search(rb"<[^>]*\sstyle\s*=", outside) is None
    assert re.search(rb"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", outside) is None
    assert TABLE_MARK in PAGE


def test_without_a_script_there_is_a_table() -> None:
    world = AdminWorld(["llama", "<b>mistral</b>"])
    world.wake("llama")
    reply = world.ask(world.main, "/llmux/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["x-frame-options"] == "DENY"
    assert TABLE_MARK not in reply.body
    assert b"<td>llama</td><td>awake</td>" in reply.body
    assert b"&lt;b&gt;mistral&lt;/b&gt;" in reply.body
    assert b"<b>mistral</b>" not in reply.body


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_path_without_its_slash_leads_to_the_page(method: str) -> None:
    world = AdminWorld()
    reply = world.ask(world.main, "/llmux", method=method)
    assert (reply.status, reply.headers["location"]) == (308, "/llmux/")
