"""These tests check who may see what, and who may command: each rule, and an attack on it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.web.server import Site
from zope.interface.verify import verifyObject

from llmux.admin.login import COOKIE_SECS, TOKEN_SECS, Login
from llmux.control import IControl
from llmux.web.site import LlmuxSite
from tests.admin_world import AdminWorld, NotingControl
from tests.conftest import LoggedEvents

JSON = {"Content-Type": "application/json"}
VERBS = ("wake", "switch", "sleep", "pin", "unpin", "pause", "resume", "cancel", "open")


@pytest.fixture
def world() -> AdminWorld:
    return AdminWorld()


def test_controls_provide_their_interface() -> None:
    assert verifyObject(IControl, NotingControl())


# --------------------------------------------------------------- attacks by web pages


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_no_command_is_given_by_another_method_than_post(
    world: AdminWorld, verb: str, method: str
) -> None:
    """
    The address of an image, for example, makes browsers send a GET: C{<img
    src=http://localhost:3000/llmux/sleep>}.
    """
    for site in (world.main, world.socket):
        reply = world.ask(site, f"/llmux/{verb}?model=llama", method=method)
        assert reply.status == 405
        assert reply.headers["allow"] == "POST"
    assert world.control.told == []


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "text/plain; application/json",
        "application/jsonx",
        "",
    ],
)
def test_no_command_is_given_by_a_form(world: AdminWorld, kind: str) -> None:
    """
    Pages of other origins can send these kinds of content without being asked for leave (CORS).
    """
    cookie = world.cookie()
    for site, headers in ((world.socket, {}), (world.main, {"Cookie": cookie})):
        reply = world.ask(
            site,
            "/llmux/sleep",
            method="POST",
            headers={"Content-Type": kind, **headers},
            body=b'{"model": "llama"}',
        )
        assert reply.status == 415
        assert "application/json" in reply.message
    assert world.control.told == []


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:5173", "http://127.0.0.1"]
)
def test_no_command_is_given_from_a_foreign_origin(world: AdminWorld, origin: str) -> None:
    """
    Another port of this host is a foreign origin: browsers send it the cookie (SameSite is no
    help).
    """
    cookie = world.cookie()
    for site in (world.socket, world.main):
        reply = world.command(
            site, "switch", {"Origin": origin, "Cookie": cookie}, model="llama"
        )
        assert reply.status == 403
        assert "cors_origins" in reply.message
    assert world.control.told == []


def test_an_origin_that_may_use_models_may_not_command_with_the_browsers_cookie() -> None:
    """The setting C{cors_origins} holds for the data paths only."""
    world = AdminWorld()
    world.main.access = type(world.main.access)(checks_host=True, origins=["*"])  # type: ignore[misc]
    foreign = {"Origin": "http://localhost:5173", "Cookie": world.cookie()}
    assert world.command(world.main, "switch", foreign, model="llama").status == 403
    own = {**foreign, "Origin": "http://localhost:3000"}
    assert world.command(world.main, "switch", own, model="llama").status == 200
    assert world.control.told == [("switch", "llama", False, "cookie")]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:3000", "localhost.evil.example"]
)
def test_no_command_is_given_with_a_rebound_host(world: AdminWorld, host: str) -> None:
    """The page's own name resolves to 127.0.0.1: to the browser it is one origin."""
    headers = {"Host": host, "Origin": f"http://{host}"}
    for site in (world.socket, world.main):
        assert world.command(site, "sleep", headers, model="llama").status == 421
        assert world.ask(site, "/llmux/status", headers=headers).status == 421
        assert world.ask(site, "/llmux/", headers=headers).status == 421
    assert world.control.told == []


# ------------------------------------------------------------ addresses give no control


@pytest.mark.parametrize("verb", VERBS)
def test_no_command_is_given_over_tcp_without_a_key(world: AdminWorld, verb: str) -> None:
    for site in (world.main, world.public):
        reply = world.command(site, verb, model="llama")
        assert reply.status == 403
        assert reply.json["error"]["code"] == "control_denied"
        assert "llmux open" in reply.message or "socket" in reply.message
    assert world.control.told == []


def test_no_command_is_given_through_a_reverse_proxy(world: AdminWorld) -> None:
    """All clients of a reverse proxy come from 127.0.0.1, whatever their headers say."""
    said = {
        "X-Forwarded-For": "127.0.0.1",
        "X-Real-IP": "127.0.0.1",
        "Forwarded": "for=127.0.0.1;host=localhost",
        "X-Forwarded-Host": "localhost",
        "Authorization": "Bearer anything",
        "X-LLMux-Role": "control",
    }
    assert world.command(world.main, "sleep", said, model="llama").status == 403
    assert world.command(world.main, "open", said).status == 403
    assert world.control.told == []


def test_who_may_look_depends_on_the_address_and_on_the_door(world: AdminWorld) -> None:
    for path in ("/llmux/status", "/llmux/"):
        assert world.ask(world.main, path).status == 200
        assert world.ask(world.socket, path).status == 200
        assert world.ask(world.public, path).status == 401
    world.app.listen_address.is_private = False
    assert world.ask(world.main, "/llmux/status").status == 401
    assert world.ask(world.public, "/metrics").status == 200


def test_who_asks_is_told_what_it_may(world: AdminWorld) -> None:
    def roles(site: LlmuxSite, **headers: str) -> Any:
        return world.ask(site, "/llmux/whoami", headers=headers).json

    everything = ["infer", "view", "control"]
    assert roles(world.socket) == {"schema": 1, "name": "socket", "roles": everything}
    assert roles(world.main) == {"schema": 1, "name": None, "roles": ["infer", "view"]}
    assert roles(world.public) == {"schema": 1, "name": None, "roles": ["infer"]}
    cookie = world.cookie()
    assert roles(world.public, Cookie=cookie)["roles"] == everything


def test_nothing_of_it_is_where_models_are_if_it_has_a_place_of_its_own() -> None:
    world = AdminWorld(admin={"listen": "tcp:3001"})
    for path in ("/llmux/status", "/llmux/", "/llmux", "/llmux/wake"):
        assert world.ask(world.main, path).status == 404
    assert world.command(world.main, "wake", model="llama").status == 404
    assert world.ask(world.socket, "/llmux/status").status == 200


def test_no_models_are_behind_the_owners_door(world: AdminWorld) -> None:
    reply = world.command(world.socket, "../v1/chat/completions", model="llama")
    assert reply.status == 404
    assert world.ask(world.socket, "/v1/chat/completions", method="POST").status == 404
    assert world.ask(world.socket, "/v1/models").status == 200


# ------------------------------------------------------------------------- the cookie


def test_a_token_is_used_once_and_becomes_a_cookie(world: AdminWorld) -> None:
    world.app.listen_address.url = "http://127.0.0.1:3000"
    url = world.command(world.socket, "open").json["url"]
    path = url.removeprefix("http://127.0.0.1:3000")
    assert world.ask(world.public, path, method="HEAD").status == 401
    reply = world.ask(world.public, path)
    assert (reply.status, reply.headers["location"]) == (303, "/llmux/")
    cookie, *attributes = reply.headers["set-cookie"].split("; ")
    assert set(attributes) == {"Path=/llmux", "HttpOnly", "SameSite=Strict", "Max-Age=43200"}
    again = world.ask(world.public, path)
    assert again.status == 403
    assert "set-cookie" not in again.headers
    assert "llmux open" in again.message
    assert world.ask(world.public, "/llmux/status", headers={"Cookie": cookie}).status == 200
    for site in (world.main, world.public):
        reply = world.command(site, "wake", {"Cookie": cookie}, model="llama")
        assert reply.status == 200
    assert world.control.told == [("wake", "llama", "cookie")] * 2


def test_nobody_asks_for_a_token_but_on_the_socket(world: AdminWorld) -> None:
    """A client with a cookie must not get another cookie that lives on."""
    reply = world.command(world.main, "open", {"Cookie": world.cookie()})
    assert reply.status == 403


class _Time:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_good_for_a_minute() -> None:
    time = _Time()
    login = Login(time, time)
    token = login.new_token()
    time.now += TOKEN_SECS - 0.1
    assert login.use_token(token)
    assert not login.use_token(token)
    token = login.new_token()
    time.now += TOKEN_SECS
    assert not login.use_token(token)
    assert not login.use_token("")


def test_a_cookie_is_good_for_half_a_day_and_cannot_be_made_elsewhere() -> None:
    time = _Time()
    login = Login(time, time)
    name, value = login.new_cookie().partition(b";")[0].split(b"=")
    assert name.decode() == login.cookie_name
    assert login.accepts_cookie(value)
    until, rest = value.split(b".", 1)
    forged = [
        b"",
        b".",
        b"..",
        value[:-1],
        value + b"0",
        b"%d.%b" % (int(until) + 1, rest),
        b"99999999999.x." + value.rpartition(b".")[2],
        "ü.ü.ü".encode(),
    ]
    assert [other for other in forged if login.accepts_cookie(other)] == []
    assert not Login(time, time).accepts_cookie(value)
    time.now += COOKIE_SECS - 1
    assert login.accepts_cookie(value)
    time.now += 2
    assert not login.accepts_cookie(value)


def test_two_daemons_on_one_host_have_cookies_of_their_own() -> None:
    """Browsers keep cookies by host, whatever the port."""
    assert Login().cookie_name != Login().cookie_name


def test_only_so_many_tokens_are_out() -> None:
    login = Login()
    tokens = [login.new_token() for _ in range(201)]
    accepted = [login.use_token(token) for token in tokens]
    assert accepted[-1]
    assert not accepted[0]
    assert accepted.count(True) < 200


# ------------------------------------------------------------------------ what is said


def test_a_command_answers_with_the_status(world: AdminWorld) -> None:
    reply = world.command(world.socket, "wake", model="llama")
    assert reply.status == 200
    assert reply.headers["cache-control"] == "no-store"
    assert reply.json["schema"] == 1
    assert [model["name"] for model in reply.json["models"]] == ["llama", "mistral"]
    assert world.control.told == [("wake", "llama", "socket")]


@pytest.mark.parametrize(
    ("verb", "keys", "told"),
    [
        ("switch", {"model": "llama"}, ("switch", "llama", False)),
        ("switch", {"model": "llama", "abort": True}, ("switch", "llama", True)),
        ("sleep", {"model": "llama"}, ("sleep", ["llama"], False, False)),
        ("sleep", {"all": True, "abort": True}, ("sleep", None, True, False)),
        ("sleep", {"model": "llama", "force": True}, ("sleep", ["llama"], False, True)),
        ("pin", {"model": "llama"}, ("pin", "llama", None, False)),
        ("pin", {"model": "llama", "for": "2h", "others": "refuse"},
         ("pin", "llama", 7200.0, True)),
        ("pin", {"model": "llama", "for": 90, "others": "wait"}, ("pin", "llama", 90.0, False)),
        ("unpin", {}, ("unpin", None)),
        ("unpin", {"model": "llama"}, ("unpin", "llama")),
        ("pause", {}, ("pause", None, False, False)),
        ("pause", {"for": "15m", "sleep": True, "refuse": True}, ("pause", 900.0, True, True)),
        ("resume", {}, ("resume",)),
    ],
)  # fmt: skip
def test_a_verb_is_told_to_the_control_with_its_keys(
    world: AdminWorld, verb: str, keys: dict[str, Any], told: tuple[Any]
) -> None:
    assert world.command(world.socket, verb, **keys).status == 200
    assert world.control.told == [(*told, "socket")]


@pytest.mark.parametrize(
    ("verb", "body", "status", "param", "said"),
    [
        ("wake", b"{}", 422, "model", "needs the key model"),
        ("wake", b"", 422, "model", "needs the key model"),
        ("wake", b'{"model": null}', 422, "model", "string"),
        ("wake", b'{"model": 1}', 422, "model", "model is 1"),
        ("wake", b'{"model": ""}', 422, "model", "string"),
        ("wake", b'{"modle": "llama"}', 422, "modle", "did you mean model?"),
        ("wake", b'{"model": "llama", "x": 1}', 422, "x", 'Unknown key "x"'),
        ("wake", b'{"model": "lama"}', 404, "model", "Did you mean llama?"),
        ("wake", b"[]", 422, None, "no JSON object"),
        ("wake", b"{", 400, None, "no JSON"),
        ("wake", b"[" * 50_000, 400, None, "no JSON"),
        ("wake", b"\xff", 400, None, "no JSON"),
        ("wake", b'{"model": "%b"}' % (b"x" * 70_000), 413, None, "larger"),
        ("switch", b'{"model": "llama", "abort": 1}', 422, "abort", "true or false"),
        ("sleep", b"{}", 422, "model", "either"),
        ("sleep", b'{"model": "llama", "all": true}', 422, "all", "either"),
        ("pin", b'{"model": "llama", "for": "2 weeks"}', 422, "for", "duration"),
        ("pin", b'{"model": "llama", "for": 0}', 422, "for", "duration"),
        ("pin", b'{"model": "llama", "for": -1}', 422, "for", "duration"),
        ("pin", b'{"model": "llama", "for": true}', 422, "for", "duration"),
        ("pin", b'{"model": "llama", "for": 1e99}', 422, "for", "duration"),
        ("pin", b'{"model": "llama", "others": "x"}', 422, "others", '"wait" or "refuse"'),
        ("cancel", b'{"request": "x"}', 422, "request", "number"),
        ("cancel", b'{"request": 12}', 404, "request", "no request 12"),
    ],
)
def test_what_is_wrong_with_a_command_is_said_and_nothing_is_done(
    world: AdminWorld, verb: str, body: bytes, status: int, param: str | None, said: str
) -> None:
    reply = world.ask(world.socket, f"/llmux/{verb}", method="POST", headers=JSON, body=body)
    error = reply.json["error"]
    assert (reply.status, error["param"]) == (status, param)
    assert said in error["message"]
    assert world.control.told == []


def test_an_unknown_verb_is_not_found(world: AdminWorld) -> None:
    reply = world.command(world.socket, "slep", model="llama")
    assert reply.status == 404
    assert "/llmux/sleep" in reply.message


def test_commands_are_refused_while_llmux_stops(world: AdminWorld) -> None:
    guard = world.switcher.acquire("llama")
    world.advance(1)
    world.administration  # noqa: B018 # it is made by now, as by an earlier look
    world.switcher.stop()
    reply = world.command(world.socket, "wake", model="llama")
    assert reply.status == 503
    assert reply.json["error"]["code"] == "shutting_down"
    assert "retry-after" in reply.headers
    guard.addCallback(lambda guard: guard.release())
    assert world.control.told == []


def test_each_command_leaves_a_trace(world: AdminWorld, logged: LoggedEvents) -> None:
    heard: list[tuple[str, str, str]] = []
    world.administration.trace.listener = lambda *what: heard.append(what)
    world.command(world.socket, "wake", model="llama")
    world.command(world.socket, "wake", model="lama")
    world.command(world.main, "wake", model="llama")
    world.ask(world.socket, "/llmux/wake", method="POST", body=b"model=llama")
    assert heard == [("socket", "wake", "ok"), ("socket", "wake", "model_not_found")]
    lines = logged.of("command")
    assert lines[0] == 'command of socket: wake {"model": "llama"}: ok'
    assert "model_not_found (There is no model" in lines[1]
    text = world.ask(world.socket, "/metrics").body
    for result in (b"ok", b"model_not_found", b"denied", b"wrong_type"):
        assert b'llmux_commands_total{result="%b",verb="wake"} 1.0' % result in text


def test_a_control_that_breaks_leaves_a_trace_and_an_answer(
    world: AdminWorld, logged: LoggedEvents, logged_failures: Any
) -> None:
    world.control.answers.append(fail(RuntimeError("oh")))
    reply = world.command(world.socket, "wake", model="llama")
    assert reply.status == 500
    assert "oh" not in reply.message
    assert logged.of("command")[0].endswith(": broken")
    assert len(logged_failures.flush(RuntimeError)) == 1


def test_who_leaves_does_not_take_the_command_back(
    world: AdminWorld, logged: LoggedEvents
) -> None:
    done: Deferred[None] = Deferred()
    world.control.answers.append(done)
    client = world.send(
        world.socket, "/llmux/wake", method="POST", headers=JSON, body=b'{"model": "llama"}'
    )
    client.leave()
    assert logged.of("command") == []
    done.callback(None)
    assert logged.of("command") == ['command of socket: wake {"model": "llama"}: ok']


def test_in_another_application_nothing_shows_itself_but_to_who_is_let_in() -> None:
    """
    Nobody knows who can reach a Site of another application, and a stock Site checks no Origin.
    """
    world = AdminWorld()
    cookie = world.cookie()
    world.app.listen_address.is_private = False
    site: Any = Site(world.app.root, reactor=world.reactor)
    assert world.ask(site, "/llmux/status").status == 401
    assert world.ask(site, "/llmux/status", headers={"Cookie": cookie}).status == 200
    assert world.command(site, "wake", model="llama").status == 403
    foreign = {"Cookie": cookie, "Origin": "https://evil.example"}
    assert world.command(site, "wake", foreign, model="llama").status == 403
    assert world.ask(site, "/llmux/status", headers=foreign).status == 401
    assert world.command(site, "wake", {"Cookie": cookie}, model="llama").status == 200
    assert world.ask(site, "/llmux/wake").status == 405
    assert world.control.told == [("wake", "llama", "cookie")]


def test_the_log_does_not_hold_what_opens_doors(
    world: AdminWorld, logged: LoggedEvents
) -> None:
    cookie = world.cookie()
    # The first token is used for another cookie, and the second one is not used.
    urls = [world.command(world.socket, "open").json["url"] for _ in range(2)]
    assert world.ask(world.main, urls[0].removeprefix("http://127.0.0.1:3000")).status == 303
    text = json.dumps([repr(event) for event in logged.events])
    for secret in (cookie, *urls):
        assert secret.partition("=")[2]
        assert secret.partition("=")[2] not in text
