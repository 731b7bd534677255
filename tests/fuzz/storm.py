"""
This module has a daemon, its backends, and a crowd of clients that send what the seed says.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h11

from tests.daemon import free_port
from tests.fuzz.case import Case, Leaving, departures, make_case
from tests.fuzz.daemon import WatchedDaemon, get
from tests.fuzz.finding import Finding
from tests.fuzz.parsing import Reply, Unparsable, replies_in
from tests.fuzz.parties import Backend, Expected, Heard, Registry, speak
from tests.turns import LIMIT

__all__ = ["Storm"]

_AT_ONCE = 64
_ROUND = 10.0
"""A round lasts so many seconds; after each round the daemon has to come to rest."""

_REST = 15.0
"""The daemon has to come to rest within so many seconds."""

_IDLE_BACKENDS = 200
"""So many connections to backends may be kept for later."""

_GROWTH = 60.0
"""
The resident memory may be larger at the end than after the first two rounds by so many MiB.
"""

_SHRINKING = 25.0
"""The fuzzer spends so many seconds on making the input of a finding small."""

_STATUS_LINE = re.compile(rb"HTTP/1\.1 [0-9]{3} ")

HOOKS = {"wake": "true", "sleep": "true", "alive": "true"}


class Storm:
    """
    A storm sends one input after the other to a daemon, and collects findings.

    @ivar figures: counts since the beginning, by name.
    @ivar findings: the findings, by kind.
    @ivar longest_turn: the seconds of CPU that the daemon's longest turn took.
    @ivar longest_neighbour: the most seconds for which the neighbour waited for an answer.
    @ivar longest_lag: the most seconds by which the fuzzer itself was late.
    """

    def __init__(self, seed: int, directory: Path, say: Callable[[str], None]) -> None:
        self.seed = seed
        self.findings: dict[str, Finding] = {}
        self.figures: Counter[str] = Counter()
        self.longest_turn = 0.0
        self.longest_neighbour = 0.0
        self.longest_lag = 0.0
        self._say = say
        self._directory = directory
        self._registry = Registry(self._found)
        self._backend = Backend(self._registry)
        self._calm = Backend(self._registry)
        self._lives = 0
        self._recent: deque[tuple[float, float, Case]] = deque(maxlen=2000)
        self._alone: set[str] | None = None
        self._base_resident: float | None = None
        self._repeats = 0
        self._storming = False
        self._lag = 0.0
        self._candidates: dict[str, list[Case]] = {}
        self.daemon: WatchedDaemon

    @property
    def forwarded(self) -> int:
        """Return how many requests have reached a backend."""
        return self._registry.forwarded

    # ------------------------------------------------------------- life

    async def start(self) -> None:
        """Start the backends and the daemon."""
        await self._backend.start(free_port())
        await self._calm.start(free_port())
        await self._start_daemon()

    async def _start_daemon(self) -> None:
        models = {
            "a": {"port": self._backend.port, **HOOKS},
            "b": {"port": self._backend.port, **HOOKS},
            "calm": {"port": self._calm.port, **HOOKS},
        }
        self._lives += 1
        self._base_resident = None
        policy: dict[str, object] = {"name": "fifo"}
        if self.seed % 2:
            policy = {"name": "cost_aware", "max_wait_secs": 2}
        self.daemon = WatchedDaemon(
            self._directory / str(self._lives),
            models,
            client_stall_timeout_secs=2,
            policy=policy,
        )
        self.daemon.start()
        if not await self.daemon.up():
            raise RuntimeError(f"the daemon does not start: see {self.daemon.directory}/log")

    async def stop(self) -> None:
        """End the daemon and the backends."""
        self.daemon.kill()
        await self._backend.stop()
        await self._calm.stop()

    # --------------------------------------------------------- findings

    def _found(self, kind: str, detail: str, case: Case | None) -> None:
        if self._alone is not None:
            self._alone.add(kind)
            return
        known = self.findings.get(kind)
        if known is not None:
            known.times += 1
            if known.case is None and case is not None:
                known.case, known.number, known.detail = case, case.number, detail
            return
        number = None if case is None else case.number
        self.findings[kind] = Finding(kind, detail, number, case)
        self._say(f"FINDING {kind} (input {number}): {detail[:2000]}")

    def _around(self, moment: float) -> list[Case]:
        """Return the inputs that were under way at this moment, the latest first."""
        found = [
            case for began, ended, case in self._recent if began - 1 <= moment <= ended + 1
        ]
        found += [one.case for one in self._registry.active.values()]
        return found[::-1]

    def _look_at_daemon(self, final: bool = False) -> None:
        for turn in self.daemon.turns():
            self.longest_turn = max(self.longest_turn, turn["cpu"])
            if turn["cpu"] > LIMIT:
                where = turn["stack"].strip().splitlines() or ["nobody looked"]
                kind = f"a turn over {LIMIT * 1000:.0f} ms of CPU"
                if not turn["ended"]:
                    kind = "a turn that does not end"
                ours = [x for x in where if "/llmux/" in x and "reactor.py" not in x]
                place = ours[-1].strip().rpartition("/llmux/")[2] if ours else where[-1].strip()
                file, _, name = place.partition('", line')
                kind += f", in {file}: {name.partition(', in ')[2]}"
                around = self._around(turn["at"])
                detail = f"{turn['cpu']:.3f} s\n{turn['stack']}"
                self._found(kind, detail, None)
                if self._alone is None and self.findings[kind].times == 1:
                    self._candidates[kind] = around
        for last, text in self.daemon.trouble(final):
            kind = f"in the log: {last}"
            self._found(kind, text[:2500], None)
            if self._alone is None and self.findings[kind].times == 1:
                self._candidates[kind] = self._around(time.monotonic())

    # ------------------------------------------------------------- cases

    async def _send(self, case: Case, longest: float = 30.0) -> None:
        expected = self._registry.begin(case)
        began = time.monotonic()
        wanted = len(expected.requests) + (expected.ending == "bad")
        methods = [r.method for r in expected.requests]

        def enough(data: bytes) -> bool:
            # To look closely at each piece would take too long.
            if len(_STATUS_LINE.findall(data)) < wanted:
                return False
            try:
                replies = replies_in(data, methods, closed=False)
            except Unparsable:
                return True
            return sum(r.whole for r in replies) >= wanted

        try:
            heard = await speak(self.daemon.port, case, enough, longest)
            self.figures["connections"] += 1
            self.figures["requests"] += len(expected.requests)
            self._check(case, expected, heard)
        finally:
            self._recent.append((began, time.monotonic(), case))
            # What has been sent may still be on its way to a backend.
            expected.left = time.monotonic()
            asyncio.get_running_loop().call_later(90.0, self._registry.end, expected)

    def _check(self, case: Case, expected: Expected, heard: Heard) -> None:
        if not heard.connected:
            self._found("no connection", "connect() failed or timed out", case)
            return
        requests = expected.requests
        try:
            replies = replies_in(heard.data, [r.method for r in requests], heard.closed)
        except Unparsable as error:
            kind = "an answer that is no HTTP"
            if "after the last reply: b'{\"err" in str(error):
                if "Too many requests were sent" in str(error):
                    # This reply answers no request in particular, and so has a body.
                    return
                kind = "a refused HEAD gets a body"
            self._found(kind, str(error)[:2500], case)
            return
        self.figures["replies"] += len(replies)
        stays = case.leaving is Leaving.STAYS
        if stays and not heard.patient and not heard.closed:
            missing = f"{len(replies)} replies to {len(requests)} requests"
            if expected.ending != "partial" and len(replies) < len(requests):
                self._found("no answer", missing, case)
            elif expected.ending == "bad" and len(replies) == len(requests):
                # llmux may wait for more where h11 has seen enough.
                self.figures["waits on after what h11 refuses"] += 1
        for number, reply in enumerate(replies):
            self.figures[f"status {reply.status}"] += 1
            if reply.status == 500 and b'"internal_error"' in reply.body:
                self._found("an internal error", repr(reply.body)[:500], case)
            if number >= len(requests):
                if reply.status < 400:
                    self._found(
                        "answered what h11 does not find",
                        f"reply {number + 1}: {reply.status} {reply.fields!r}",
                        case,
                    )
                break
            self._compare(case, expected, number, reply)

    def _compare(self, case: Case, expected: Expected, number: int, reply: Reply) -> None:
        key = expected.keys[number]
        scripts = expected.scripts.get(key, [])
        echo = reply.get(b"x-echo")
        tainted = any(s.tainted for s in scripts)
        if echo is None or tainted:
            return
        if echo.decode("latin-1") != key:
            if all(s.sound for s in scripts):
                self._found(
                    "another request's reply",
                    f"reply {number + 1} is to {echo!r}, not {key}: {reply.fields!r}",
                    case,
                )
            return
        sound = [s for s in scripts if s.sound]
        if len(sound) != len(scripts) or not reply.whole or not sound:
            honest = bool(sound) and len(sound) == len(scripts)
            # The rest may still be on its way to a client that goes.
            if honest and not reply.whole and case.leaving is Leaving.STAYS:
                self._found("a whole reply cut off", f"reply {number + 1}", case)
            return
        if not any(s.status == reply.status and s.body == reply.body for s in sound):
            self._found(
                "a reply that was changed",
                f"reply {number + 1}: {reply.status}, {len(reply.body)} bytes; "
                f"the backend's: {[(s.status, len(s.body)) for s in sound]}",
                case,
            )

    # ---------------------------------------------------------- neighbours

    async def _neighbour(self) -> None:
        """Run a client on a connection of its own, which has to be answered all the time."""
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while self._storming:
            began = time.monotonic()
            try:
                if streams is None:
                    streams = await asyncio.wait_for(
                        asyncio.open_connection("127.0.0.1", self.daemon.port), 10
                    )
                reader, writer = streams
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                length = int(head.lower().partition(b"content-length: ")[2].split()[0])
                await asyncio.wait_for(reader.readexactly(length), 10)
                if not head.startswith(b"HTTP/1.1 200 "):
                    self._found("a neighbour is answered wrongly", repr(head), None)
            except (OSError, EOFError, TimeoutError) as error:
                if self._lag > 5:
                    # The fuzzer itself may have been late.
                    self.figures["neighbour's failures while the fuzzer was late"] += 1
                else:
                    self._found("a neighbour is not answered", repr(error), None)
                self._candidates.setdefault(
                    "a neighbour is not answered", self._around(time.monotonic())
                )
                streams = None
                await asyncio.sleep(0.2)
            self.longest_neighbour = max(self.longest_neighbour, time.monotonic() - began)
            await asyncio.sleep(0.03)

    async def _calm_neighbour(self) -> None:
        """Run a client of a model whose backend is honest."""
        number = 0
        while self._storming:
            number += 1
            nonce = f"calm{self.seed}x{self._lives}x{number}x"
            body = b'{"model": "calm", "n": "%b"}' % nonce.encode()
            data = (
                b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nX-Nonce: %b\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (nonce.encode(), len(body), body)
            )
            case = Case(self.seed, -number, data, (), 0.0, Leaving.STAYS, len(data), calm=True)
            expected = self._registry.begin(case)
            heard = await speak(
                self.daemon.port,
                case,
                lambda data: any(r.whole for r in replies_in(data, [b"POST"], False)),
            )
            self._registry.end(expected)
            replies = replies_in(heard.data, [b"POST"], heard.closed)
            if self._lag > 5:
                self.figures["neighbour's failures while the fuzzer was late"] += 1
            elif not replies or replies[0].status != 200 or not replies[0].whole:
                self._found("an honest model's client is not answered", repr(heard)[:800], None)
            else:
                self._compare(case, expected, 0, replies[0])
                self.figures["answers of the honest model"] += 1
            await asyncio.sleep(0.7)

    # --------------------------------------------------------------- rounds

    async def round(self, first: int, until: float, most: int | None = None) -> int:
        """
        Send inputs from this number on, and wait for the daemon to come to rest.

        @param until: the time (L{time.monotonic}) at which the sending ends at the latest.
        @param most: the most inputs that are sent; None for no limit.
        @return: the number of the next input.
        """
        self._candidates = {}
        leaving = departures(self.seed, first)
        next_number = first
        ends = min(time.monotonic() + _ROUND, until)

        async def work() -> None:
            nonlocal next_number
            while time.monotonic() < ends and (most is None or next_number < first + most):
                number = next_number
                next_number += 1
                self.figures["inputs"] += 1
                await self._send(make_case(self.seed, number))
            while leaving:
                self.figures["departures, one at each byte"] += 1
                await self._send(leaving.pop())

        async def watch() -> None:
            while self._storming:
                before = time.monotonic()
                await asyncio.sleep(0.25)
                lag = time.monotonic() - before - 0.25
                self._lag = self._registry.lag = max(self._lag, lag)
                self.longest_lag = max(self.longest_lag, lag)
                self._look_at_daemon()
                if self.daemon.process is None or self.daemon.process.poll() is not None:
                    return

        self._storming = True
        self._lag = 0.0
        neighbours = [
            asyncio.create_task(one)
            for one in (self._neighbour(), self._calm_neighbour(), watch())
        ]
        workers = [asyncio.create_task(work()) for _ in range(_AT_ONCE)]
        await asyncio.gather(*workers)
        # wait_for() may swallow a cancellation: the flag ends them then.
        self._storming = False
        for task in neighbours:
            task.cancel()
        for outcome in await asyncio.gather(*neighbours, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        await self._rest(first, next_number)
        self._look_at_daemon(final=True)
        for kind in [k for k, f in self.findings.items() if f.stream is None]:
            await self._shrink(kind)
        return next_number

    async def _rest(self, first: int, end: int) -> None:
        """Check that nothing of the round is left."""
        daemon = self.daemon
        span = f"inputs {first} to {end - 1}"
        if daemon.process is None or daemon.process.poll() is not None:
            self._found("the daemon died", f"{span}; see {daemon.directory}/log", None)
            await self._start_daemon()
            return
        until = time.monotonic() + _REST
        while True:
            try:
                state = await daemon.state()
            except (OSError, EOFError, TimeoutError) as error:
                self._found("the daemon does not answer", f"{span}: {error!r}", None)
                self._look_at_daemon()
                daemon.kill()
                await self._start_daemon()
                return
            left = {
                "exchange or waiter": state.busy > 0,
                "client's connection": state.clients > 1,
                "backend's connection": state.backends > _IDLE_BACKENDS,
                "descriptor": state.others > 40,
            }
            if not any(left.values()):
                break
            if time.monotonic() > until:
                what = vars(state)
                for name, is_left in left.items():
                    if is_left:
                        self._found(f"left behind: {name}", f"{span}: {what}", None)
                daemon.kill()
                await self._start_daemon()
                return
            await asyncio.sleep(0.2)
        before = daemon.cpu()
        await asyncio.sleep(0.5)
        if daemon.cpu() - before > 0.3:
            self._found("busy though nobody asks", f"{span}: {daemon.cpu() - before} s", None)
        if self._alone is not None:
            return
        self._repeats += 1
        self.figures["MiB resident"] = round(state.resident)
        if self._repeats == 2 or self._base_resident is None:
            self._base_resident = state.resident
        elif state.resident > self._base_resident + _GROWTH:
            self._found(
                "memory grows", f"{self._base_resident:.0f} to {state.resident:.0f} MiB", None
            )
            self._base_resident = state.resident

    # ------------------------------------------------------------ shrinking

    async def _shows(self, case: Case, kind: str) -> bool:
        """Tell whether this input, alone, causes a finding of that kind."""
        self._look_at_daemon()
        self._alone = found = set[str]()
        try:
            await self._send(case, longest=4.0)
            await asyncio.sleep(0.05)
            try:
                await get(self.daemon.port, "/health", 8.0)
            except (OSError, EOFError, TimeoutError):
                found |= {"a neighbour is not answered", "the daemon does not answer"}
            if kind.startswith("left behind"):
                await self._rest(case.number, case.number)
            self._look_at_daemon(final=True)
            if "the daemon does not answer" in found:
                self.daemon.kill()
                await self._start_daemon()
        finally:
            self._alone = None
        return kind in found

    async def _shrink(self, kind: str) -> None:
        finding = self.findings[kind]
        finding.stream = b""
        until = time.monotonic() + _SHRINKING
        candidates = self._candidates.get(kind, [])[:60]
        if finding.case is not None:
            candidates = [finding.case]
        for case in candidates:
            if time.monotonic() > until:
                return
            if await self._shows(case, kind):
                break
        else:
            if finding.case is not None:
                finding.stream = finding.case.data
            return
        finding.case, finding.number, finding.seen_alone = case, case.number, True
        until = time.monotonic() + _SHRINKING
        size = max(1, len(case.data) // 2)
        while size and time.monotonic() < until:
            at = 0
            while at < len(case.data) and time.monotonic() < until:
                smaller = case.with_data(case.data[:at] + case.data[at + size :])
                if len(smaller.data) < len(case.data) and await self._shows(smaller, kind):
                    case = smaller
                else:
                    at += size
            size //= 2
        finding.case, finding.stream = case, case.data[: case.leaves_at]
        with suppress(h11.ProtocolError):
            self._say(
                f"  smallest for {kind!r} (input {finding.number}): {finding.stream!r}"[:3000]
            )
