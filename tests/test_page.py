"""
These tests open the page in a real browser, with a daemon that remembers what it was told.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from llmux.admin.page_resource import content_security_policy
from llmux.command.words.forewarning import forewarning
from llmux.command.words.sentence import status_sentences
from llmux.command.words.styles import plain
from tests.browser import PAGE, Browser, browser, why_not
from tests.daemon import wait_until
from tests.fake_daemon import FakeDaemon, ago, fake_daemon, model, two_models

needs_browser = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
TRIES = 3
"""What has to be quick is tried so often: a busy machine may be slow at one try."""
ENTER, ESCAPE, SPACE, TAB = "\ue007", "\ue00c", "\ue00d", "\ue004"


class TestFile:
    """These tests check what can be said of the page without a browser."""

    def test_is_small_and_asks_nobody_else(self) -> None:
        page = PAGE.read_text()
        assert len(PAGE.read_bytes()) <= 60_000
        assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}

    def test_has_nothing_that_its_policy_would_refuse(self) -> None:
        markup = re.sub(r"<(script|style)>.*?</\1>", "", PAGE.read_text(), flags=re.DOTALL)
        assert re.findall(r"\son\w+=|\sstyle=|javascript:", markup) == []
        assert re.findall(r"innerHTML|outerHTML|document\.write|eval\(", PAGE.read_text()) == []

    def test_has_a_place_for_the_table_of_who_has_no_javascript(self) -> None:
        assert re.search(r"<noscript>(?:(?!</noscript>).)*<!--TABLE-->", PAGE.read_text())


@pytest.fixture(scope="module")
def shared_browser() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as daemon:
        page = PAGE.read_bytes()
        daemon.page = (page, content_security_policy(page).decode())
        yield daemon


@pytest.fixture
def url(daemon: FakeDaemon) -> str:
    return f"http://127.0.0.1:{daemon.listen()}/llmux/"


@pytest.fixture
def tab(shared_browser: Browser, daemon: FakeDaemon, url: str) -> Browser:
    """Open the page, and wait until it shows the status of the daemon."""
    shared_browser.look_like()
    shared_browser.open(url)
    shared_browser.wait_for("#now", "llama has been awake")
    wait_until(daemon.subscribers, "the page to listen")
    return shared_browser


@needs_browser
class TestShown:
    def test_what_goes_on_in_the_words_of_the_command_line(
        self, tab: Browser, daemon: FakeDaemon
    ) -> None:
        assert (
            tab.text("#now").splitlines()[0] == "llama has been awake for 4 min, 3 in flight."
        )
        assert (
            tab.text("#now")
            .splitlines()[1]
            .startswith("mistral is next, in 9 to 58 s: 2 wait, the oldest for 6")
        )
        assert tab.driver.title == "llama, 2 waiting - llmux"
        assert "llama woke 4 s ago" in tab.text("#decision")

    def test_nothing_from_elsewhere_and_no_word_in_the_console(
        self, tab: Browser, url: str, daemon: FakeDaemon
    ) -> None:
        tab.wait_for("#log pre", "llama wake: ready")
        daemon.change("llama", state="draining")
        tab.wait_for("#now", "draining")
        assert [address for address in tab.loaded() if not address.startswith(url)] == []
        assert tab.messages() == []

    def test_a_wake_is_shown_within_a_second(self, tab: Browser, daemon: FakeDaemon) -> None:
        took = []
        for _ in range(TRIES):
            began = time.monotonic()
            daemon.change("mistral", state="waking", since=ago(0), waiters=2)
            tab.wait_for("#now", "mistral has been waking for")
            took.append(time.monotonic() - began)
            assert tab.driver.title.startswith("llama, mistral waking")
            tab.wait_for("#models", "waking")
            daemon.change("mistral", state="asleep", since=ago(0))
            tab.wait_for("#now", "mistral is next")
        assert min(took) < 1

    def test_a_queue_that_grows_is_shown_within_a_second(
        self, tab: Browser, daemon: FakeDaemon
    ) -> None:
        took = []
        for count in range(7, 7 + TRIES):
            began = time.monotonic()
            event = {"schema": 1, "model": "mistral", "waiters": count, "in_flight": 0}
            daemon.entry("mistral").update(waiters=count)
            daemon.tell("queue", event | {"oldest_wait_secs": 70.0})
            tab.wait_for("#now", f": {count} wait, the oldest for ")
            took.append(time.monotonic() - began)
        assert min(took) < 1

    def test_an_answer_that_is_older_than_an_event_undoes_nothing(
        self, tab: Browser, daemon: FakeDaemon
    ) -> None:
        asked = daemon.asked.count("/llmux/status")
        daemon.may_answer.clear()
        wait_until(lambda: daemon.asked.count("/llmux/status") > asked, "a status")
        tab.script(
            "window.seen = [];"
            "new MutationObserver(() => seen.push(document.querySelector('#now').textContent))"
            ".observe(document.querySelector('#now'), {childList: true, subtree: true})"
        )
        daemon.change("mistral", state="waking", since=ago(0))
        tab.wait_for("#now", "mistral has been waking for")
        asked = daemon.asked.count("/llmux/status")
        daemon.may_answer.set()
        wait_until(lambda: daemon.asked.count("/llmux/status") > asked, "the next status")
        tab.wait_for("#now", "mistral has been waking for 2 s")
        seen = tab.script("return window.seen")
        assert [text for text in seen if "mistral has been waking" not in text] == []

    def test_a_queue_is_told_without_asking_for_the_whole_status(
        self, tab: Browser, daemon: FakeDaemon
    ) -> None:
        # The page asks by itself every five seconds.
        wait_until(lambda: daemon.asked.count("/llmux/status") > 2, "a status")
        asked = daemon.asked.count("/llmux/status")
        daemon.entry("mistral").update(waiters=19)
        for count in range(20):
            event = {"schema": 1, "model": "mistral", "waiters": count, "in_flight": 0}
            daemon.tell("queue", event | {"oldest_wait_secs": 70.0})
        tab.wait_for("#now", ": 19 wait, the oldest for ")
        assert daemon.asked.count("/llmux/status") <= asked + 1

    def test_the_lanes_tell_which_models_were_awake(
        self, tab: Browser, daemon: FakeDaemon
    ) -> None:
        daemon.history = {
            "schema": 1,
            "models": {
                "llama": [
                    [ago(1500), "waking", {"gpu0": 20}],
                    [ago(1480), "awake", {"gpu0": 20}],
                    [ago(900), "draining", {"gpu0": 20}],
                    [ago(880), "asleep", None],
                ]
            },
            "switches": [
                {
                    "at": ago(1500),
                    "target": "llama",
                    "victims": [],
                    "reason": "starves",
                    "drain_secs": None,
                    "cost_secs": 20.0,
                    "result": "failed",
                }
            ],
        }
        tab.driver.refresh()
        tab.wait_for("#switches", "starves")
        titles = tab.script(
            "return [...document.querySelectorAll('#drawn title')].map(t => t.textContent)"
        )
        assert any(re.match(r"llama: awake from .*, 9 min", title) for title in titles)
        assert any("starves, cost 20 s, failed" in title for title in titles)

    def test_a_name_is_text_and_nothing_else(self, tab: Browser, daemon: FakeDaemon) -> None:
        name = "<img src=x onerror=alert(1)>"
        daemon.status["models"].append(model(name, state="awake", since=ago(3)))
        tab.wait_for("#now", name)
        assert tab.script("return document.images.length") == 0

    def test_a_thousand_models_are_shown_and_can_be_filtered(
        self, tab: Browser, daemon: FakeDaemon
    ) -> None:
        daemon.status["models"] += [model(f"m{i}") for i in range(1000)]
        tab.wait_for("#models", "m999")
        tab.script("document.getElementById('filter').focus()")
        tab.press("awake")
        tab.wait_until(lambda: "m999" not in tab.text("#models"), "the filter to work")
        assert "llama" in tab.text("#models")


@needs_browser
class TestTold:
    def test_a_button_says_what_it_will_do_before_it_does_it(
        self, tab: Browser, daemon: FakeDaemon
    ) -> None:
        tab.button("mistral", "Switch now").click()
        assert tab.text("dialog h2") == "Switch to mistral now"
        assert tab.text("#warning") == (
            "llama makes room: 3 in flight finish first (about 6 s), "
            "then about 21 s for the switch."
        )
        assert daemon.told == []
        tab.click("#do")
        wait_until(lambda: daemon.told, "a command")
        assert daemon.told == [("switch", {"model": "mistral"})]
        tab.wait_for("#said", "Switch to mistral now: done.")

    def test_the_keyboard_does_what_the_mouse_does(
        self, tab: Browser, daemon: FakeDaemon
    ) -> None:
        tab.script("document.querySelector('#models button:not(:disabled)').focus()")
        tab.press(TAB)
        assert tab.script("return document.activeElement.textContent") == "Pin…"
        tab.press(ENTER)
        tab.wait_for("dialog h2", "Pin llama")
        tab.press(ESCAPE)
        tab.wait_until(lambda: not tab.text("dialog h2"), "the dialog to go")
        assert daemon.told == []
        assert tab.script("return document.activeElement.textContent") == "Pin…"
        tab.press(SPACE)
        tab.wait_for("dialog h2", "Pin llama")
        tab.press(ENTER)
        wait_until(lambda: daemon.told, "a command")
        assert daemon.told == [("pin", {"model": "llama", "for": 3600})]

    def test_llmux_is_paused_and_resumed(self, tab: Browser, daemon: FakeDaemon) -> None:
        def pause(body: dict[str, Any]) -> None:
            daemon.status.update(mode="paused", paused={"until": None, "refuse": False})

        daemon.does["pause"] = pause
        tab.click("#pause")
        assert "No switch begins until you resume" in tab.text("#warning")
        tab.click("#sleep")
        tab.wait_for("#warning", "llama: 3 in flight finish first (about 6 s), then it sleeps")
        tab.click("#do")
        tab.wait_for("#now", "Paused: no switch begins")
        assert tab.driver.title.startswith("paused, llama")
        tab.click("#pause")
        tab.wait_for("dialog h2", "Resume")
        tab.click("#do")
        wait_until(lambda: len(daemon.told) == 2, "a command")
        assert daemon.told == [("pause", {"sleep": True}), ("resume", {})]

    def test_a_refusal_is_the_daemons_sentence(self, tab: Browser, daemon: FakeDaemon) -> None:
        message = "2 wait for it: pause, or --abort to send them 503"
        daemon.does["sleep"] = lambda body: (409, {"error": {"message": message}})
        tab.button("llama", "Sleep").click()
        tab.click("#do")
        tab.wait_for("#said", message)

    def test_who_may_only_look_has_no_buttons(self, tab: Browser, daemon: FakeDaemon) -> None:
        daemon.roles = ["infer", "view"]
        tab.driver.refresh()
        tab.wait_for("#now", "llama has been awake")
        buttons = "document.querySelectorAll('#models button, #pause')"
        tab.wait_until(
            lambda: tab.script(f"return [...{buttons}].every(b => b.disabled)"), "no buttons"
        )

    def test_what_is_uncertain_can_be_said_to_be_freed(
        self, tab: Browser, daemon: FakeDaemon
    ) -> None:
        daemon.change("llama", state="uncertain")
        tab.wait_for("#models", "I have freed it")
        tab.button("llama", "I have freed it").click()
        tab.click("#do")
        wait_until(lambda: daemon.told, "a command")
        assert daemon.told == [("sleep", {"model": "llama", "force": True})]


@needs_browser
class TestWithoutTheDaemon:
    def test_the_loss_of_the_daemon_is_said_and_so_is_its_return(
        self, tab: Browser, daemon: FakeDaemon, url: str
    ) -> None:
        port = int(url.split(":")[2].split("/")[0])
        daemon.stop()
        tab.wait_for("#lost", "Not connected since ")
        assert tab.driver.title == "not connected - llmux"
        background = tab.script(
            "return getComputedStyle(document.querySelector('#lost')).backgroundColor"
        )
        red, green, blue = map(int, re.findall(r"\d+", background)[:3])
        assert red > 2 * max(green, blue)
        assert tab.script(
            "return [...document.querySelectorAll('#models button')].every(b => b.disabled)"
        )
        daemon.listen(port)
        tab.wait_until(lambda: tab.text("#lost") == "", "the page to find it again")
        daemon.change("mistral", state="waking", since=ago(0))
        tab.wait_for("#now", "mistral has been waking")

    def test_the_loss_of_the_stream_alone_is_said(
        self, tab: Browser, daemon: FakeDaemon
    ) -> None:
        daemon.has_no_streams = True
        daemon.cut_streams()
        tab.wait_for("#lost", "Not connected since ")
        asked = daemon.asked.count("/llmux/status")
        wait_until(lambda: daemon.asked.count("/llmux/status") > asked, "a status")
        assert tab.text("#lost") != ""
        daemon.has_no_streams = False
        tab.wait_until(lambda: tab.text("#lost") == "", "the page to listen again")

    def test_who_may_not_look_is_asked_for_a_key(
        self, shared_browser: Browser, daemon: FakeDaemon, url: str
    ) -> None:
        tab = shared_browser
        message = "a key is needed: Authorization: Bearer KEY"
        daemon.denied = message
        tab.open(url)
        tab.wait_for("#login", message)
        assert "llmux open" in tab.text("#login")
        daemon.does["login"] = lambda body: setattr(daemon, "denied", None)
        tab.click("#key")
        tab.press("sk-0123456789abcdef", ENTER)
        tab.wait_for("#now", "llama has been awake")
        assert daemon.told == [("login", {"key": "sk-0123456789abcdef"})]
        assert tab.text("#login") == ""


STATUSES = {
    "two models": two_models(),
    "nothing is awake": two_models(models=[model("a"), model("b", waiters=1)]),
    "at start": two_models(models=[model("a", state="unknown")]),
    "a switch": two_models(
        switches=[
            {
                "target": "mistral",
                "place": {"gpu0": 20},
                "victims": ["llama"],
                "phase": "waking",
                "since": ago(5),
                "expected_secs": [14, 131],
            }
        ],
        models=[
            model("llama", state="sleeping", in_flight=1),
            model("mistral", state="waking", waiters=3, oldest_wait_secs=30.2),
        ],
    ),
    "a switch begins": two_models(
        switches=[
            {
                "target": "mistral",
                "place": {"gpu0": 20},
                "victims": ["llama"],
                "phase": "draining",
                "since": ago(5),
                "expected_secs": None,
            }
        ],
        models=[
            model("llama", state="draining", in_flight=1),
            model("mistral", waiters=3, oldest_wait_secs=30.2),
            model("other", waiters=1, oldest_wait_secs=20.2),
        ],
    ),
    "everything at once": two_models(
        mode="paused",
        paused={"until": ago(-600), "refuse": True},
        pins=[{"model": "c", "until": ago(-7000), "others": "refuse"}],
        reload={
            "at": ago(60),
            "ok": False,
            "error": "config.yaml: models.a.port: give 1 to 65535",
        },
        models=[
            model(
                "a", state="uncertain", backoff={"until": ago(-8), "tries": 3, "reason": "no."}
            ),
            model("b", state="checking", in_flight=2),
            model("c", state="awake", waiters=0),
            model("d", state="awake", in_flight=1, cost_secs={"f": 3.0}),
            model("e", state="draining", in_flight=1),
            *(
                model(f"w{i}", waiters=i + 1, oldest_wait_secs=100.0 + i, turn=turn)
                for i, turn in enumerate(
                    [
                        None,
                        {"position": 2, "secs": [9, None]},
                        {"position": None, "secs": [3, 3.4]},
                        {"position": 1, "secs": [0.4, 7300]},
                        None,
                        None,
                    ]
                )
            ),
        ],
    ),
}


@needs_browser
@pytest.mark.parametrize("name", STATUSES)
def test_the_page_and_the_command_line_say_the_same(
    name: str, shared_browser: Browser, daemon: FakeDaemon, url: str
) -> None:
    daemon.status = STATUSES[name]
    # These times are far from those where one second more would make another word.
    for entry in daemon.status["models"]:
        entry["since"] = ago(270)
    shared_browser.open(url)
    last = daemon.status["models"][-1]["name"]
    shared_browser.wait_for("#models", last)
    status = daemon.now()
    ours = [plain(line) for line in status_sentences(status)]
    theirs = shared_browser.text("#now").splitlines()

    def steady(lines: list[str]) -> list[str]:
        return [re.sub(r"(?<=for )\d+ s", "N s", line) for line in lines]

    assert steady(theirs) == steady(ours)
    for entry in status["models"][:8]:
        for verb, text in ("wake", "Wake"), ("switch", "Switch now"), ("pin", "Pin…"):
            button = shared_browser.driver.find_elements(
                "xpath", f"//tr[.//b[text()='{entry['name']}']]//button[text()='{text}']"
            )
            if not button or not button[0].is_enabled():
                continue
            button[0].click()
            assert shared_browser.text("#warning") == forewarning(status, verb, entry)
            shared_browser.press(ESCAPE)
            shared_browser.wait_until(
                lambda: not shared_browser.text("dialog h2"), "the dialog to go"
            )


CONTRAST = """
const luminance = colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const back = element => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$/.test(colour) && colour !== 'transparent') return colour;
  }
  return 'rgb(255, 255, 255)';
};
const kinds = 'b, p, td, th, h1, h2, span, button:not(:disabled), label';
return [...document.querySelectorAll(kinds)]
  .filter(e => e.offsetParent && e.textContent.trim())
  .map(e => {
    const both = [luminance(getComputedStyle(e).color), luminance(back(e))];
    const [a, b] = both.sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.textContent.trim().slice(0, 40)];
  }).filter(([ratio]) => ratio < 4.5);
"""


@needs_browser
class TestLook:
    @pytest.mark.parametrize("dark", [False, True])
    def test_text_stands_out_from_its_background(
        self, tab: Browser, daemon: FakeDaemon, dark: bool
    ) -> None:
        daemon.status = STATUSES["everything at once"]
        tab.look_like(dark=dark)
        tab.driver.refresh()
        tab.wait_for("#now", "Paused")
        background = tab.script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark
        assert tab.script(CONTRAST) == []

    @pytest.mark.parametrize("name", ["two models", "everything at once"])
    def test_nothing_sticks_out_of_a_phone(
        self, tab: Browser, daemon: FakeDaemon, name: str
    ) -> None:
        daemon.status = STATUSES[name]
        daemon.requests = [
            {"id": "r", "at": ago(3), "model": "llama", "method": "POST", "status": 200}
            | {"path": "/v1/chat/completions", "waited_secs": 1.0, "outcome": "answered"}
        ]
        tab.look_like(width=360, height=740)
        tab.driver.refresh()
        tab.wait_for("#rows", "/v1/chat")
        assert tab.script("return document.documentElement.scrollWidth") <= 360
        out = tab.script(
            "return [...document.querySelectorAll('button, b, p, input, select')]"
            ".filter(e => e.offsetParent && e.getBoundingClientRect().right > 360)"
            ".map(e => e.textContent)"
        )
        assert out == []
        size = tab.script("return parseFloat(getComputedStyle(document.body).fontSize)")
        assert size >= 14
