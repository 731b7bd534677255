"""
These tests send hundreds of requests for three models, one awake at a time or as many as fit,
through real sockets and real hooks, which take their time and fail, while clients leave and
backends die.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h11
import pytest
import pytest_twisted
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from llmux.app import assemble
from llmux.config import config_from_mapping
from llmux.config.room import room_of
from llmux.hooks.persistence.places import Places
from llmux.hooks.runner import HookRunner
from llmux.interfaces import HookKind, IHookRunner, IPlaceNotes, IRunningHook
from llmux.proxy.model_name.find import scan_on_arrival
from llmux.switching.switcher import ModelSwitcher
from llmux.web.site import LlmuxSite
from tests.invariants import check_invariants

reactor: Any = installed

MODELS = "abc"
RANDOM_NEEDS = 3
"""The tests with random needs have so many resources."""

FIFO = {"name": "fifo"}
COST_AWARE = {"name": "cost_aware", "initial_switch_cost_secs": 0.1}
REQUESTS = 150
AT_ONCE = 24

WAKE = """
read -r delay fails < $LLMUX_MODEL.wake
sleep $delay
for resource in $(echo "${LLMUX_RESOURCES-gpu}" | tr , ' '); do
  if ls *.awake.$resource >/dev/null 2>&1; then touch two-awake; fi
  touch $LLMUX_MODEL.awake.$resource
done
if [ "$fails" = 1 ]; then echo "cannot wake" >&2; exit 3; fi
touch $LLMUX_MODEL.awake
"""
SLEEP = """
read -r delay fails < $LLMUX_MODEL.sleep
sleep $delay
if [ "$fails" = 1 ]; then exit 4; fi
rm -f $LLMUX_MODEL.awake $LLMUX_MODEL.awake.*
"""
ALIVE = "test -e $LLMUX_MODEL.awake"


class Backend(Factory):
    """
    This is one model's server: it replies in pieces while its model is awake, and closes the
    connection of every client when it is not.
    """

    noisy = False

    def __init__(self, model: str, directory: Path, random: Random) -> None:
        self.model = model
        self.random = random
        self.file = directory / f"{model}.awake"
        self.connections: set[BackendConnection] = set()
        self.while_asleep = 0

    def buildProtocol(self, addr: IAddress | None) -> BackendConnection:
        return BackendConnection(self)

    @property
    def awake(self) -> bool:
        return self.file.exists()

    def die(self) -> None:
        """Die at once, in the middle of everything."""
        self.file.unlink(missing_ok=True)
        for file in self.file.parent.glob(f"{self.model}.awake.*"):
            file.unlink()
        for connection in list(self.connections):
            connection.transport.abortConnection()


class BackendConnection(Protocol):
    transport: Any

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.http = h11.Connection(h11.SERVER)
        self.busy = False
        self.body = b""
        self.call: Any = None

    def connectionMade(self) -> None:
        self.backend.connections.add(self)
        if not self.backend.awake:
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self.http.receive_data(data)
        while True:
            event = self.http.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED):
                return
            if isinstance(event, h11.Data):
                self.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                if not self.backend.awake:
                    self.backend.while_asleep += 1
                self.answer()

    def answer(self) -> None:
        self.busy = True
        asked = json.loads(self.body)
        self.body = b""
        assert asked["model"] == self.backend.model
        said = f"{asked['n']}:".encode() * 200
        pieces = [said[i : i + 300] for i in range(0, len(said), 300)]
        self.send(h11.Response(status_code=200, headers=[("X-Model", self.backend.model)]))
        self.go_on(pieces)

    def go_on(self, pieces: list[bytes]) -> None:
        self.call = None
        if pieces:
            self.send(h11.Data(data=pieces.pop(0)))
            self.call = reactor.callLater(
                self.backend.random.choice([0, 0, 0.002, 0.01]), self.go_on, pieces
            )
        else:
            self.send(h11.EndOfMessage())
            self.http.start_next_cycle()
            self.busy = False

    def send(self, event: Any) -> None:
        data = self.http.send(event)
        if data:
            self.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.busy = False
        self.backend.connections.discard(self)
        if self.call is not None:
            self.call.cancel()


class Client(Protocol):
    """This client sends one request; C{over} fires with what became of it."""

    transport: Any

    def __init__(self, n: int, model: str, leaves_after: float | None) -> None:
        self.n = n
        self.model = model
        self.leaves_after = leaves_after
        self.over: Deferred[str] = Deferred()
        self.http = h11.Connection(h11.CLIENT)
        self.status = 0
        self.body = b""
        self.complete = False
        self.left = False
        self.timer: Any = None

    def connectionMade(self) -> None:
        body = json.dumps({"n": self.n, "model": self.model}).encode()
        head = [("Host", "x"), ("Connection", "close"), ("Content-Length", str(len(body)))]
        for event in (
            h11.Request(method="POST", target="/v1/chat/completions", headers=head),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.http.send(event))
        if self.leaves_after is not None:
            self.timer = reactor.callLater(self.leaves_after, self.leave)

    def leave(self) -> None:
        self.timer = None
        self.left = True
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self.http.receive_data(data)
        self.events()

    def events(self) -> None:
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Response):
                assert self.status == 0, "two replies to one request"
                self.status = event.status_code
            elif isinstance(event, h11.Data):
                self.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.complete = True
            else:
                return

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.over.callback(self.outcome())

    def outcome(self) -> str:
        if self.left:
            return "left"
        if not self.complete:
            assert self.status in (0, 200)
            return "cut off" if self.status else "no answer"
        if self.status == 200:
            assert self.body == f"{self.n}:".encode() * 200
            return "answered"
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "code", "param"}
        assert "cannot wake" not in error["message"]
        assert self.status in (502, 503, 504), error
        return "refused"


@implementer(IHookRunner, IPlaceNotes)
class Watched:
    """
    This runner has real hooks, and checks what must not be when they begin.

    @ivar most: the largest number of models that were awake at a time.
    """

    def __init__(
        self, hooks: IHookRunner, backends: dict[str, Backend], places: Places | None
    ) -> None:
        self.hooks = hooks
        self.places = places
        self.most = 0
        self.backends = backends
        self.switcher: ModelSwitcher
        self.running = 0
        self.wrongs: list[str] = []

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        flying = {name: n for name, _, n, _ in self.switcher.readings.per_model()}
        if hook is HookKind.SLEEP and flying[model]:
            self.wrongs.append(
                f"the sleep hook of {model} began with {flying[model]} in flight"
            )
        check_invariants(self.switcher)
        self.most = max(self.most, sum(backend.awake for backend in self.backends.values()))
        self.running += 1
        run = self.hooks.start(model, hook)
        run.exited.addBoth(self._exited)
        return run

    def _exited(self, result: Any) -> Any:
        self.running -= 1
        return result

    def place_of(self, model: str) -> int | None:
        return 0 if self.places is None else self.places.place_of(model)

    def choose_place(self, model: str, place: int) -> None:
        if self.places is not None:
            self.places.choose_place(model, place)


async def until(what: Callable[[], Any]) -> None:
    """Wait for a condition, a turn of the reactor at a time."""
    for _ in range(6000):
        if what():
            return
        await deferLater(reactor, 0.005)
    raise AssertionError("waited in vain")


def needs_of(random: Random) -> dict[str, Any]:
    """Draw the needs of each model, of resources of which there is one each."""
    resources = [f"gpu{n}" for n in range(RANDOM_NEEDS)]

    def place() -> dict[str, int]:
        return dict.fromkeys(random.sample(resources, random.choice([1, 1, 2, 3])), 1)

    needs: dict[str, Any] = {}
    for model in MODELS:
        first, second = place(), place()
        needs[model] = {"needs": [first, second] if first != second else first}
    return needs


class Chaos:
    def __init__(
        self, directory: Path, seed: int, policy: dict[str, Any], several: bool = False
    ) -> None:
        self.directory = directory
        self.random = random = Random(seed)
        needs = needs_of(random) if several else {model: {} for model in MODELS}
        room: dict[str, Any] = {}
        if several:
            room["resources"] = [f"gpu{n}" for n in range(RANDOM_NEEDS)]
        self.backends = {model: Backend(model, directory, random) for model in MODELS}
        self.ports = [
            reactor.listenTCP(0, backend, interface="127.0.0.1")
            for backend in self.backends.values()
        ]
        config = config_from_mapping(
            {
                "models": {
                    model: {
                        "port": port.getHost().port,
                        "wake": WAKE,
                        "sleep": SLEEP,
                        "alive": ALIVE,
                        "wake_timeout_secs": 10,
                        **needs[model],
                    }
                    for model, port in zip(MODELS, self.ports, strict=True)
                },
                "policy": {**policy, "request_timeout_secs": 20},
                "shutdown_timeout_secs": 10,
                "sleep_on_exit": True,
                **room,
            },
            directory=str(directory),
        )
        places = Places(room_of(config)) if several else None
        runner = HookRunner(reactor, config.models, str(directory), places=places)
        self.hooks = Watched(runner, self.backends, places)
        app = assemble(config, reactor, hooks=self.hooks)
        resource, self.switcher = app.root, app.switcher
        self.app = app
        self.hooks.switcher = self.switcher
        self.site = LlmuxSite(resource, reactor, scan=scan_on_arrival)
        self.ports.append(reactor.listenTCP(0, self.site, interface="127.0.0.1"))
        self.outcomes: dict[str, int] = {}
        self.roll(0.0)

    def roll(self, failing: float) -> None:
        """Choose at random what the hooks do from now on."""
        for model in MODELS:
            for hook in ("wake", "sleep"):
                delay = self.random.choice(["0", "0.01", "0.05"])
                fails = int(self.random.random() < failing)
                (self.directory / f"{model}.{hook}").write_text(f"{delay} {fails}\n")

    def two_awake(self) -> bool:
        """Tell whether a wake hook has found another model awake."""
        return (self.directory / "two-awake").exists()

    async def request(self, n: int, well_behaved: bool = False) -> str:
        leaves = None
        if not well_behaved and self.random.random() < 0.15:
            leaves = self.random.choice([0.0, 0.01, 0.1])
        client = Client(n, self.random.choice("aabc"), leaves)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.ports[-1].getHost().port)
        await endpoint.connect(Factory.forProtocol(lambda: client))
        outcome = await client.over
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        return outcome

    async def storm(self) -> None:
        flying: list[Deferred[str]] = []
        for n in range(REQUESTS):
            flying.append(Deferred.fromCoroutine(self.request(n)))
            flying = [request for request in flying if not request.called]
            if n % 10 == 0:
                self.roll(0.1)
            if self.random.random() < 0.03:
                self.random.choice(list(self.backends.values())).die()
            await deferLater(reactor, self.random.choice([0, 0.002, 0.02]))
            while len(flying) >= AT_ONCE:
                await deferLater(reactor, 0.005)
                flying = [request for request in flying if not request.called]
        # The hooks fail no more, so that all who wait can be served.
        self.roll(0.0)
        await DeferredList(flying, fireOnOneErrback=True)

    async def end(self) -> None:
        await self.switcher.stop()
        rows = self.app.entrance.administration.request_rows()
        assert len(rows) > 100
        still_open = [row for row in rows if row["outcome"] in ("waiting", "in_flight")]
        assert still_open == []
        for port in self.ports:
            await port.stopListening()
        self.site.stop_accepting_requests()
        await self.site.all_closed()
        for backend in self.backends.values():
            backend.die()
        await until(lambda: not any(b.connections for b in self.backends.values()))


@pytest.mark.parametrize(
    ("seed", "policy", "several"),
    [
        (1, FIFO, False),
        (2, COST_AWARE, False),
        (3, FIFO, True),
        (4, COST_AWARE, True),
    ],
    ids=["fifo", "cost_aware", "fifo, random needs", "cost_aware, random needs"],
)
@pytest_twisted.ensureDeferred
async def test_all_promises_hold_under_random_traffic(
    tmp_path: Path, seed: int, policy: dict[str, Any], several: bool
) -> None:
    chaos = Chaos(tmp_path, seed, policy, several)
    await chaos.storm()
    for n in range(6):
        assert await chaos.request(REQUESTS + n, well_behaved=True) == "answered"
    await chaos.end()

    assert sum(chaos.outcomes.values()) == REQUESTS + 6, chaos.outcomes
    assert chaos.outcomes["answered"] > REQUESTS / 4, chaos.outcomes
    assert "no answer" not in chaos.outcomes
    assert chaos.hooks.wrongs == []
    assert not chaos.two_awake()
    assert chaos.hooks.most > 1 or not several, "never were two awake at a time"
    assert [b.while_asleep for b in chaos.backends.values()] == [0, 0, 0]
    assert chaos.hooks.running == 0
    assert not [m for m in MODELS if chaos.backends[m].awake], "put to sleep on exit"
    assert [row[1:3] for row in chaos.switcher.readings.per_model()] == [(0, 0)] * 3
