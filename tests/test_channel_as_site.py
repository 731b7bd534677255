"""
These tests check that any Resource answers the same under L{LlmuxSite} as under twisted.web's
Site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import klein
import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, _theCooperator
from twisted.python.failure import Failure
from twisted.web import static
from twisted.web.resource import EncodingResourceWrapper, Resource
from twisted.web.server import NOT_DONE_YET, GzipEncoderFactory, Request, Site
from twisted.web.util import Redirect

from llmux.web.reply_channel import IReplyChannel
from llmux.web.request import LlmuxRequest
from llmux.web.site import LlmuxSite
from tests.web_fakes import Leaf, Wire

VARYING = re.compile(rb"(Date|Server): [^\r]*\r\n")


def content_of(request: Request) -> bytes:
    content: Any = request.content
    data: bytes = content.read()
    return data


class Everything(Leaf):
    """This Resource shows all that a Request offers."""

    def render(self, request: Request) -> bytes:
        known = {
            "method": request.method,
            "uri": request.uri,
            "path": request.path,
            "args": request.args,
            "prepath": request.prepath,
            "postpath": request.postpath,
            "sitepath": getattr(request, "sitepath", None),
            "clientproto": request.clientproto,
            "headers": sorted(request.requestHeaders.getAllRawHeaders()),
            "all": request.getAllHeaders(),
            "cookies": request.received_cookies,
            "cookie": request.getCookie(b"a"),
            "content": content_of(request),
            "host": request.getHost(),
            "client": request.getClientAddress(),
            "hostname": request.getRequestHostname(),
            "secure": request.isSecure(),
            "user": request.getUser(),
            "password": request.getPassword(),
            "url": request.prePathURL(),
            "childLink": request.childLink(b"x"),
            "sibLink": request.sibLink(b"x"),
            "rest": request.URLPath(),
            "finished": request.finished,
            "code": request.code,
            "component": request.getComponent(IReplyChannel),
            "repr": re.sub("<.* at 0x[0-9a-f]+", "", repr(request)),
        }
        return repr(known).encode()


class Cookies(Leaf):
    def render_GET(self, request: Request) -> bytes:
        request.addCookie(b"k", b"v", path=b"/", httpOnly=True)
        request.setETag(b"tag")
        request.setLastModified(1_000_000)
        request.setResponseCode(201, b"Made")
        return b"made"


class Streams(Leaf):
    """This Resource writes in parts, later, without a length."""

    def render_GET(self, request: Request) -> int:
        request.write(b"one")
        later: Deferred[None] = Deferred()
        later.addCallback(lambda _: request.write(b"two"))
        later.addCallback(lambda _: request.finish())
        later.callback(None)
        return NOT_DONE_YET

    def render_POST(self, request: Request) -> bytes:
        return b"posted " + content_of(request)


class Forms(Leaf):
    def render_POST(self, request: Request) -> bytes:
        return repr(sorted(request.args.items())).encode() + content_of(request)


class Raises(Leaf):
    def render_GET(self, request: Request) -> bytes:
        raise ZeroDivisionError


class Notified(Leaf):
    """This Resource writes down how its requests ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[object] = []

    def render_GET(self, request: Request) -> int:
        request.notifyFinish().addBoth(self.ends.append)
        request.finish()
        return NOT_DONE_YET


def a_klein_app() -> Resource:
    app: Any = klein.Klein()

    @app.route("/")
    def home(request: Any) -> str:
        return "home"

    @app.route("/user/<name>", methods=["GET", "POST"])
    def user(request: Any, name: str) -> Any:
        later: Deferred[str] = Deferred()
        later.callback(f"{name} {request.getHeader('x-a')}")
        return later

    @app.route("/branch/", branch=True)
    def branch(request: Any) -> Any:
        return Everything()

    resource: Resource = app.resource()
    return resource


def tree(directory: Path) -> Resource:
    (directory / "page.html").write_bytes(b"<p>" + b"x" * 300_000)
    (directory / "empty").write_bytes(b"")
    root = Resource()
    root.putChild(b"everything", Everything())
    deep = Resource()
    root.putChild(b"deep", deep)
    deep.putChild(b"everything", Everything())
    root.putChild(b"cookies", Cookies())
    root.putChild(b"streams", Streams())
    root.putChild(b"forms", Forms())
    root.putChild(b"raises", Raises())
    root.putChild(b"notified", Notified())
    root.putChild(b"klein", a_klein_app())
    root.putChild(b"files", static.File(str(directory)))
    root.putChild(b"data", static.Data(b"data", "text/plain"))
    root.putChild(b"redirect", Redirect(b"/data"))
    root.putChild(
        b"gzip", EncodingResourceWrapper(static.Data(b"z" * 500, "a/b"), [GzipEncoderFactory()])
    )
    return root


def said(site: Site, data: bytes) -> tuple[bytes, bool]:
    wire = Wire()
    channel = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    assert channel is not None
    wire.connect(channel)
    channel.dataReceived(data)
    clock: Clock = cast(Any, site).reactor
    for _ in range(50):
        _theCooperator._tick()
        clock.advance(0)
    connected = wire.connected
    if connected:
        wire.lose()
    return VARYING.sub(b"", wire.said()), connected


MULTIPART = (
    b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n"
    b"--b\r\nContent-Disposition: form-data; name=a; filename=f\r\n\r\n2\r\n--b--\r\n"
)
HEADS: list[tuple[bytes, bytes, bytes]] = [
    (b"GET /everything/a%20b//c?x=1&x=&y HTTP/1.1", b"X-A: b\r\nx-a: c", b""),
    (b"GET /deep/everything?a;b=c HTTP/1.1", b"Cookie: a=b; c=d;e\r\nCookie: f=g", b""),
    (b"PUT /everything HTTP/1.1", b"Authorization: Basic YTpi", b"body"),
    (b"POST /everything HTTP/1.1", b"Content-Type: application/json", b"{}"),
    (b"GET /everything HTTP/1.1", b"Connection: close", b""),
    (b"GET /everything HTTP/1.0", b"A: b", b""),
    (b"GET /cookies HTTP/1.1", b"A: b", b""),
    (b"GET /cookies HTTP/1.1", b"If-None-Match: tag", b""),
    (b"GET /cookies HTTP/1.1", b"If-Modified-Since: Mon, 01 Jan 2024 00:00:00 GMT", b""),
    (b"HEAD /cookies HTTP/1.1", b"A: b", b""),
    (b"GET /streams HTTP/1.1", b"A: b", b""),
    (b"GET /streams HTTP/1.0", b"A: b", b""),
    (b"HEAD /streams HTTP/1.1", b"A: b", b""),
    (b"POST /streams HTTP/1.1", b"A: b", b"x" * 1000),
    (b"DELETE /streams HTTP/1.1", b"A: b", b""),
    (b"QUERY /streams HTTP/1.1", b"A: b", b""),
    (b"OPTIONS * HTTP/1.1", b"A: b", b""),
    (b"GET * HTTP/1.1", b"A: b", b""),
    (b"POST /forms?a=0 HTTP/1.1", b"Content-Type: application/x-www-form-urlencoded", b"a=1&b"),
    (b"POST /forms HTTP/1.1", b'Content-Type: multipart/form-data; boundary="b"', MULTIPART),
    (b"POST /forms HTTP/1.1", b"Content-Type: text/plain", b"a=1"),
    (b"GET /raises HTTP/1.1", b"A: b", b""),
    (b"POST /raises HTTP/1.1", b"A: b", b"x"),
    (b"GET /notified HTTP/1.1", b"A: b", b""),
    (b"GET /klein/ HTTP/1.1", b"A: b", b""),
    (b"GET /klein/user/jo%20e HTTP/1.1", b"X-A: b", b""),
    (b"PUT /klein/user/joe HTTP/1.1", b"A: b", b""),
    (b"GET /klein/nowhere HTTP/1.1", b"A: b", b""),
    (b"GET /klein/branch/a/b HTTP/1.1", b"A: b", b""),
    (b"GET /files/page.html HTTP/1.1", b"A: b", b""),
    (b"GET /files/page.html HTTP/1.1", b"Range: bytes=5-9", b""),
    (b"HEAD /files/page.html HTTP/1.1", b"A: b", b""),
    (b"GET /files/empty HTTP/1.1", b"A: b", b""),
    (b"GET /files/missing HTTP/1.1", b"A: b", b""),
    (b"GET /files HTTP/1.1", b"A: b", b""),
    (b"GET /data HTTP/1.1", b"A: b", b""),
    (b"POST /data HTTP/1.1", b"A: b", b"x"),
    (b"GET /redirect HTTP/1.1", b"A: b", b""),
    (b"GET /gzip HTTP/1.1", b"Accept-Encoding: gzip", b""),
    (b"GET / HTTP/1.1", b"A: b", b""),
    (b"GET /nowhere/x HTTP/1.1", b"A: b", b""),
]


def whole(line: bytes, header: bytes, body: bytes) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return line + b"\r\nHost: h.example:81\r\n" + header + b"\r\n" + length + b"\r\n" + body


# twisted.web warns of its own pages.
pytestmark = pytest.mark.filterwarnings("ignore:twisted.web.resource:DeprecationWarning")


@pytest.mark.parametrize("forms", [True, False])
@pytest.mark.parametrize(("line", "header", "body"), HEADS)
def test_a_resource_gives_the_same_reply_as_on_a_stock_site(
    tmp_path: Path,
    logged_failures: Any,
    forms: bool,
    line: bytes,
    header: bytes,
    body: bytes,
) -> None:
    root = tree(tmp_path)
    data = whole(line, header, body)
    stock = said(Site(root, reactor=Clock(), parsePOSTFormSubmission=forms), data)
    ours = LlmuxSite(root, Clock(), parse_forms=forms)
    for _ in range(2):
        # The head is remembered from the first time.
        assert said(ours, data) == stock
    if b"/raises" in line:
        logged_failures.flush(ZeroDivisionError)
    if b"/notified" in line:
        notified = root.children[b"notified"]
        assert notified.ends == [None] * 3


def test_many_requests_on_one_connection_get_the_same_replies(
    tmp_path: Path, logged_failures: Any
) -> None:
    root = tree(tmp_path)
    data = b"".join(
        whole(line, header, body)
        for line, header, body in HEADS
        if b"1.0" not in line and b"close" not in header
    )
    stock = said(Site(root, reactor=Clock(), parsePOSTFormSubmission=False), data)
    assert said(LlmuxSite(root, Clock()), data) == stock
    logged_failures.flush(ZeroDivisionError)


def test_a_client_that_leaves_is_told_to_the_resource(tmp_path: Path) -> None:
    ends: list[object] = []

    class Waits(Leaf):
        def render(self, request: Request) -> int:
            request.notifyFinish().addBoth(ends.append)
            return NOT_DONE_YET

    for site in (Site(Waits(), reactor=Clock()), LlmuxSite(Waits(), Clock())):
        said(site, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    first, second = ends
    assert isinstance(first, Failure) and isinstance(second, Failure)
    assert first.type is second.type


def test_a_session_is_found_again_by_its_cookie() -> None:
    class Counts(Leaf):
        def render(self, request: Request) -> bytes:
            session: Any = request.getSession()
            session.count = getattr(session, "count", 0) + 1
            return b"%d" % session.count

    site = LlmuxSite(Counts(), Clock())
    first, _ = said(site, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    cookie = re.search(rb"Set-Cookie: ([^;]*)", first)
    assert cookie is not None
    second, _ = said(site, b"GET / HTTP/1.1\r\nHost: x\r\nCookie: %b\r\n\r\n" % cookie[1])
    assert second.endswith(b"2")


# ------------------------------------------------------------ stable routes


class Stable(Everything):
    route_is_stable = True


class Counting(Leaf):
    """This dynamic resource says how often it was asked for a child."""

    isLeaf = False

    def __init__(self, stable: bool) -> None:
        super().__init__()
        self.route_is_stable = stable
        self.asked = 0

    def getChild(self, path: bytes, request: Request) -> Resource:
        self.asked += 1
        return Stable()


@pytest.mark.parametrize(("stable", "asked"), [(True, 1), (False, 5)])
def test_the_tree_is_walked_once_where_it_says_so(stable: bool, asked: int) -> None:
    root = Counting(stable)
    site = LlmuxSite(root, Clock())
    data = b"GET /a/b%20c/?x HTTP/1.1\r\nHost: x\r\n\r\n"
    replies = {said(site, data) for _ in range(5)}
    assert len(replies) == 1
    assert root.asked == asked
    assert replies == {said(Site(Counting(False), reactor=Clock()), data)}


def test_remembered_routes_are_bounded() -> None:
    site = LlmuxSite(Counting(True), Clock())
    for n in range(2000):
        said(site, b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n)
    assert len(site.routes) <= 256
    assert len(site.heads._heads) <= site.heads.max_heads


def test_what_nobody_touches_is_not_made() -> None:
    made: list[set[str]] = []

    class Touches(Leaf):
        route_is_stable = True

        def render(self, request: LlmuxRequest) -> int:
            made.append(set(request.__dict__))
            request.finish()
            return NOT_DONE_YET

    site = LlmuxSite(Touches(), Clock())
    for _ in range(2):
        said(site, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert made[1] == {"channel", "head", "body", "_depth"}
