"""
This module has llmux in memory, as operators see it: listeners, clients at each, and a control
that notes its commands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer

from llmux.admin.administration import Administration
from llmux.admin.listen_address import ListenAddress
from llmux.app import App, assemble
from llmux.config import config_from_mapping
from llmux.control import IControl, Pause, Pin
from llmux.web.access import AccessRules
from llmux.web.site import LlmuxSite
from tests.fakes import FakeHookRunner
from tests.proxy_world import ClientEnd
from tests.reactor_world import ReactorWorld

__all__ = ["AdminWorld", "NotingControl", "Reply"]


class Reply:
    """This class takes the bytes of a reply apart."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        self.status = int(status.split(b" ")[1])
        self.headers = {
            name.lower().decode(): value.strip().decode()
            for name, _, value in (line.partition(b":") for line in lines)
        }

    @property
    def json(self) -> Any:
        """Return the JSON of the body."""
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """Return the sentence of an error."""
        return str(self.json["error"]["message"])


@implementer(IControl)
class NotingControl:
    """
    This control does nothing but note the commands that it is given.

    @ivar told: each command's name and arguments.
    @ivar answers: the Deferred that the next command gets, if there is one.
    """

    def __init__(self) -> None:
        self.pins: Sequence[Pin] = ()
        self.pause: Pause | None = None
        self.told: list[tuple[Any, ...]] = []
        self.answers: list[Deferred[None]] = []

    def _told(self, *what: object) -> Deferred[None]:
        self.told.append(what)
        return self.answers.pop(0) if self.answers else succeed(None)

    def wake(self, model: str, by: str) -> Deferred[None]:
        return self._told("wake", model, by)

    def switch(self, model: str, abort: bool, by: str) -> Deferred[None]:
        return self._told("switch", model, abort, by)

    def sleep(
        self, models: Sequence[str] | None, abort: bool, force: bool, by: str
    ) -> Deferred[None]:
        return self._told("sleep", models, abort, force, by)

    def pin(self, model: str, secs: float | None, refuse: bool, by: str) -> Deferred[None]:
        return self._told("pin", model, secs, refuse, by)

    def unpin(self, model: str | None, by: str) -> Deferred[None]:
        return self._told("unpin", model, by)

    def pause_switching(
        self, secs: float | None, sleep: bool, refuse: bool, by: str
    ) -> Deferred[None]:
        return self._told("pause", secs, sleep, refuse, by)

    def resume(self, by: str) -> Deferred[None]:
        return self._told("resume", by)


class AdminWorld(ReactorWorld):
    """
    This world has two models, C{llama} and C{mistral}, whose hooks take no time unless
    scripted.

    @ivar main: the site of the listener for clients, on loopback.
    @ivar socket: the site of the owner's Unix socket.
    @ivar public: the site of a listener that the whole network reaches.
    """

    def __init__(
        self,
        models: Sequence[str] = ("llama", "mistral"),
        further: Mapping[str, Mapping[str, Any]] | None = None,
        **keys: Any,
    ) -> None:
        """@param further: by model, further keys of its configuration."""
        self.reactor = MemoryReactorClock()
        self.hooks = FakeHookRunner(self.reactor)
        model = {"port": 8001, "wake": "true", "sleep": "true", "alive": "true"}
        config = config_from_mapping(
            {
                "models": {name: {**model, **(further or {}).get(name, {})} for name in models},
                "policy": {"name": "fifo"},
                **keys,
            }
        )
        self.app: App = assemble(config, self.reactor, hooks=self.hooks)
        self.control = NotingControl()
        self.app.entrance.control = self.control
        self.app.listen_address.is_private = True
        rules = AccessRules(checks_host=True, hosts=config.allowed_hosts)
        self.main = self._site(self.app.root, rules)
        self.socket = self._behind(ListenAddress(is_socket=True), rules)
        self.public = self._behind(ListenAddress(), AccessRules())
        self.switcher = self.app.switcher
        self.switcher.start()
        self.settle()

    def _site(self, root: Any, rules: AccessRules) -> LlmuxSite:
        return LlmuxSite(root, self.reactor, access=rules)

    def _behind(self, listen_address: ListenAddress, rules: AccessRules) -> LlmuxSite:
        return self._site(self.app.root_at(listen_address), rules)

    @property
    def administration(self) -> Administration:
        """Return the object behind the paths of C{/llmux/}."""
        return self.app.entrance.administration

    def send(
        self,
        site: LlmuxSite,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> ClientEnd:
        """Send a request, and return the client's end of the connection."""
        given = {"Host": "localhost:3000", **(headers or {})}
        if body or method == "POST":
            given["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in given.items() if value]
        client = ClientEnd(site)
        client.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        self.settle()
        return client

    def ask(self, site: LlmuxSite, path: str, **kinds: Any) -> Reply:
        """Send a request, and return the reply."""
        return Reply(self.send(site, path, **kinds).received)

    def command(
        self, site: LlmuxSite, verb: str, headers: Mapping[str, str] | None = None, **keys: Any
    ) -> Reply:
        """Give a command, and return the reply."""
        return self.ask(
            site,
            f"/llmux/{verb}",
            method="POST",
            headers={"Content-Type": "application/json", **(headers or {})},
            body=json.dumps({key.rstrip("_"): value for key, value in keys.items()}).encode(),
        )

    def cookie(self) -> str:
        """Let a browser in, and return its cookie."""
        self.app.listen_address.url = "http://127.0.0.1:3000"
        url = self.command(self.socket, "open").json["url"]
        reply = self.ask(self.main, url.removeprefix("http://127.0.0.1:3000"))
        assert reply.status == 303, reply.body
        return reply.headers["set-cookie"].partition(";")[0]
