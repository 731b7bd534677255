"""
This module runs an episode of the soak: a daemon with one configuration, its models, clients
and faults for a minute or so, then a time without faults in which everything has to come to an
end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from tests.daemon import ROOT, environment, free_port
from tests.fuzz.daemon import WatchedDaemon, get
from tests.soak.clients import Outcome, converse
from tests.soak.leftovers import left_behind, processes_of
from tests.soak.scripts import FAULTS, hooks, write_scripts
from tests.soak.story import Life, Violation
from tests.turns import LIMIT

__all__ = ["Episode"]

_STORM = 50.0
"""Load and faults last so many seconds."""

_CALM = 60.0
"""Within so many seconds without faults, all who wait have been answered."""

_CLIENTS = 12

_TOGETHER = (
    # The server takes the memory and loads on, though wake and clean-up have failed.
    {"wake": "fail-after", "sleep": "fail", "load": "3"},
    {"wake": "hang-after", "sleep": "kill", "load": "4"},
    # Nobody can tell whether the model is asleep.
    {"sleep": "hang-after", "alive": "hang"},
    {"sleep": "fail-after", "alive": "unknown"},
    {"sleep": "fail", "alive": "kill"},
)
"""These faults of one model's hooks are worse together than each alone."""

_SPOOL = 6
"""The small disk has so many MiB."""


class Episode:
    """
    An episode is a daemon with one configuration, its models, clients and faults.

    @ivar violations: the promises that were broken.
    @ivar figures: counts, by name.
    @ivar faults: for each fault, the time (ns), the fault, and whom it concerned.
    @ivar outcomes: what became of each request.
    """

    def __init__(self, seed: int, number: int, directory: Path) -> None:
        self.random = random = Random(f"episode {seed} {number}")
        self.directory = directory
        self.mark = f"{seed}-{number}-{os.getpid()}"
        self.violations: list[Violation] = []
        self.figures: Counter[str] = Counter()
        self.faults: list[tuple[int, str, str]] = []
        self.outcomes: list[Outcome] = []
        self.lives: list[Life] = []
        self.stopped: list[tuple[int, int]] = []
        self.kinds = {
            name: random.choice(("process", "process", "resident")) for name in ("a", "b", "c")
        }
        self.policy = random.choice(("fifo", "cost_aware"))
        self.draining = random.random() < 0.75
        self.few_descriptors = random.random() < 0.25
        self.small_disk = random.random() < 0.4
        self.restarts = random.random() < 0.5
        self.request_timeout = random.choice((None, 15.0))
        self.drain_timeout = random.choice((None, None, 4.0))
        self.faulty = random.choice((0.0, 0.15, 0.4))
        self.daemon: WatchedDaemon
        self._residents: dict[str, subprocess.Popen[bytes]] = {}
        self._calm = False
        self._hooks_killed = False
        self._number = 0
        self._restarting = asyncio.Lock()

    def describe(self) -> str:
        """Describe the configuration in a line."""
        return (
            f"{self.policy}, draining {self.draining}, kinds {self.kinds}, "
            f"few descriptors {self.few_descriptors}, small disk {self.small_disk}, "
            f"restarts {self.restarts}, request timeout {self.request_timeout}, "
            f"drain timeout {self.drain_timeout}, hooks fail {self.faulty}"
        )

    def broken(self, kind: str, detail: str, at: int | None = None) -> None:
        """Note a violation."""
        self.violations.append(Violation(kind, detail, at or time.time_ns()))

    # ------------------------------------------------------------ running

    async def run(self) -> None:
        """Run the whole episode, and clean up after it."""
        self.directory.mkdir(parents=True)
        write_scripts(self.directory)
        self.ports = {name: free_port() for name in self.kinds}
        mounted = self.small_disk and self._mount()
        tasks: list[asyncio.Task[None]] = []
        try:
            for name, kind in self.kinds.items():
                if kind == "resident":
                    self._start_resident(name)
            self._make_daemon()
            await self._start_daemon()
            start = self.mark.rpartition("-")[0]
            clients = [
                asyncio.create_task(self._client(Random(f"client {start} {i}")))
                for i in range(_CLIENTS)
            ]
            tasks = [asyncio.create_task(self._forever(self._supervise))]
            until = time.monotonic() + _STORM
            await self._wreck(until)
            self._calm = True
            self._heal()
            done, pending = await asyncio.wait(clients, timeout=_CALM + 20)
            for task in done:
                task.result()
            if pending:
                self.broken("somebody waits for ever", f"{len(pending)} clients after the calm")
                for task in pending:
                    task.cancel()
                await asyncio.gather(*pending, return_exceptions=True)
            await self._rest()
            await self._end_daemon()
            self._left_behind()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._clean_up()
            if mounted:
                self._unmount()

    async def _forever(self, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            await what()
            await asyncio.sleep(0.3)

    def _mount(self) -> bool:
        done = subprocess.run(
            [
                *("mount", "-t", "tmpfs", "-o", f"size={_SPOOL}m,mode=700", "none"),
                str(self.directory / "spool"),
            ],
            check=False,
            capture_output=True,
        )
        self.small_disk = done.returncode == 0
        return self.small_disk

    def _unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.directory / "spool")], check=False)

    @property
    def _environ(self) -> dict[str, str]:
        return {
            "SOAK": self.mark,
            "TMPDIR": str(self.directory / "spool"),
            "XDG_STATE_HOME": str(self.directory / "state"),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
        }

    def _make_daemon(self) -> None:
        models = {
            name: hooks(self.directory, kind)
            | {
                "port": self.ports[name],
                "wake_timeout_secs": 6,
                "sleep_timeout_secs": 5,
                "alive_timeout_secs": 3,
            }
            for name, kind in self.kinds.items()
        }
        policy: dict[str, Any] = {
            "name": self.policy,
            "drain_before_switch": self.draining,
            "request_timeout_secs": self.request_timeout,
            "drain_timeout_secs": self.drain_timeout,
            "min_active_secs": 0.2 if self.draining else 1.0,
        }
        if self.policy == "cost_aware":
            policy["max_wait_secs"] = 10
        prefix: tuple[str, ...] = ()
        if self.few_descriptors:
            prefix = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
        self.daemon = WatchedDaemon(
            self.directory,
            models,
            prefix,
            policy=policy,
            client_stall_timeout_secs=2,
            shutdown_timeout_secs=5,
        )

    async def _start_daemon(self) -> None:
        self.lives.append(Life(len(self.lives), time.time_ns()))
        self.daemon.start(self._environ)
        self.figures["lives of the daemon"] += 1
        if not await self.daemon.up(60):
            self.broken("the daemon does not start", "see the log")
            raise RuntimeError("the daemon does not start")
        self.lives[-1].up = time.time_ns()

    def _start_resident(self, name: str) -> None:
        self._residents[name] = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.soak.server", name, str(self.ports[name])),
                *(str(self.directory), "resident"),
            ],
            stdin=subprocess.DEVNULL,
            env=environment() | {"PYTHONPATH": str(ROOT), "SOAK": self.mark},
            cwd=ROOT,
        )

    async def _supervise(self) -> None:
        """Start a resident server that has died again, asleep."""
        for name, process in self._residents.items():
            if process.poll() is not None:
                self._start_resident(name)
        daemon = self.daemon.process
        if (
            daemon is not None
            and daemon.poll() is not None
            and not self._restarting.locked()
            and not (self.lives[-1].told or self.lives[-1].ended)
        ):
            self.broken("the daemon died", f"exit status {daemon.returncode}")
            self.lives[-1].ended = time.time_ns()
            await self._start_daemon()

    # ------------------------------------------------------------- faults

    def _fault(self, what: str, whom: str) -> None:
        self.faults.append((time.time_ns(), what, whom))
        self.figures[f"fault: {what}"] += 1

    def _server_pid(self, name: str) -> int | None:
        if self.kinds[name] == "resident":
            return self._residents[name].pid
        try:
            pid = int((self.directory / f"{name}.pid").read_text())
            # Another process may have got the number meanwhile.
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            return pid if b"tests.soak.server" in command else None
        except (OSError, ValueError):
            return None

    async def _wreck(self, until: float) -> None:
        random = self.random
        waking: list[asyncio.Task[None]] = []
        while time.monotonic() < until:
            await asyncio.sleep(random.uniform(0.2, 1.2))
            name = random.choice(list(self.kinds))
            if random.random() < self.faulty:
                self._arm(name)
            chance = random.random()
            if chance < 0.08:
                pid = self._server_pid(name)
                if pid is not None:
                    self._fault("kill -9 of a server", name)
                    _send(pid, signal.SIGKILL)
            elif chance < 0.16:
                pid = self._server_pid(name)
                if pid is not None:
                    waking.append(self._halt("server", name, pid, random.uniform(0.1, 3)))
            elif chance < 0.22:
                self._hook(random.choice(("kill", "stop")), name, waking)
            elif chance < 0.25:
                waking.append(
                    self._halt("daemon", "", self.daemon.pid, random.uniform(0.1, 1.5))
                )
            elif chance < 0.30 and self.small_disk:
                waking.append(asyncio.create_task(self._fill_disk(random.uniform(0.5, 3))))
            elif chance < 0.36 and self.few_descriptors:
                waking.append(asyncio.create_task(self._crowd(random.uniform(0.5, 4))))
            elif chance < 0.39 and self.restarts:
                await self._restart(kill=random.random() < 0.5)
        await asyncio.gather(*waking)

    def _arm(self, name: str) -> None:
        random = self.random
        together = random.choice(_TOGETHER)
        if random.random() < 0.6:
            hook = random.choice(list(FAULTS))
            together = {hook: random.choice(FAULTS[hook].split())}
        for hook, what in together.items():
            if hook == "load":
                (self.directory / f"{name}.load").write_text(what)
            else:
                (self.directory / "faults" / f"{name}.{hook}").write_text(what)
        self._fault("hooks told to fail", f"{name}: {together}")

    def _halt(self, what: str, name: str, pid: int, seconds: float) -> asyncio.Task[None]:
        async def halt() -> None:
            self._fault(f"STOP of a {what}", name)
            began = time.time_ns()
            _send(pid, signal.SIGSTOP)
            await asyncio.sleep(seconds)
            _send(pid, signal.SIGCONT)
            self.stopped.append((began, time.time_ns()))
            self.faults.append((time.time_ns(), f"CONT of a {what}", name))

        return asyncio.create_task(halt())

    def _hook(self, what: str, name: str, waking: list[asyncio.Task[None]]) -> None:
        for hook in ("wake", "sleep", "alive"):
            try:
                pid = int((self.directory / "running" / f"{name}.{hook}").read_text())
                environ = Path(f"/proc/{pid}/environ").read_bytes()
            except (OSError, ValueError):
                continue
            if f"LLMUX_HOOK={hook}".encode() not in environ:
                continue
            if what == "kill":
                self._hooks_killed = True
                self._fault(f"kill -9 of a {hook} hook", name)
                _send(pid, signal.SIGKILL)
            else:
                waking.append(self._halt(f"{hook} hook", name, pid, 1.0))
            return

    async def _fill_disk(self, seconds: float) -> None:
        filler = self.directory / "spool" / "filler"
        self._fault("full disk", "")
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        await asyncio.sleep(seconds)
        filler.unlink(missing_ok=True)
        self.faults.append((time.time_ns(), "disk has room again", ""))

    async def _crowd(self, seconds: float) -> None:
        self._fault("crowd", "")
        writers = []
        for _ in range(70):
            with suppress(OSError, TimeoutError):
                _, writer = await asyncio.wait_for(
                    asyncio.open_connection("127.0.0.1", self.daemon.port), 1
                )
                writers.append(writer)
        await asyncio.sleep(seconds)
        for writer in writers:
            writer.close()
        self.faults.append((time.time_ns(), "crowd has left", ""))

    async def _restart(self, kill: bool) -> None:
        async with self._restarting:
            life = self.lives[-1]
            life.told = time.time_ns()
            process = self.daemon.process
            assert process is not None
            if kill:
                self._fault("kill -9 of the daemon", "")
                life.killed = True
                process.kill()
                await asyncio.to_thread(process.wait)
                life.survivors = processes_of(self.mark)
            else:
                self._fault("TERM of the daemon", "")
                process.terminate()
                await self._await_exit()
            life.ended = time.time_ns()
            await self._start_daemon()

    async def _await_exit(self) -> None:
        process = self.daemon.process
        assert process is not None
        began = time.monotonic()
        # Requests have shutdown_timeout_secs; then a sleep hook ends, or a wake hook is ended
        # and cleaned up: TERM, 5 s, KILL, and as much again for the sleep hook.
        patience = 5 + 5 + 6 + 5 + 5 + 15
        try:
            await asyncio.to_thread(process.wait, patience)
        except subprocess.TimeoutExpired:
            self.broken("the daemon does not stop", f"{patience} s after TERM")
            process.kill()
            await asyncio.to_thread(process.wait)
        self.figures["longest stop, s"] = max(
            self.figures["longest stop, s"], round(time.monotonic() - began)
        )

    def _heal(self) -> None:
        for file in (self.directory / "faults").iterdir():
            file.unlink()
        for name in self.kinds:
            (self.directory / f"{name}.load").unlink(missing_ok=True)

    # ------------------------------------------------------------ clients

    async def _client(self, random: Random) -> None:
        while not self._calm:
            await asyncio.sleep(random.choice((0, 0.05, 0.3, 1.5)) * random.random())
            self._number += 1
            life = self.lives[-1]
            model = random.choices(list(self.kinds), (5, 3, 1))[0]
            patience = _STORM + _CALM
            outcomes = await converse(
                self.daemon.port, model, f"{self.mark}-{self._number}", random, patience
            )
            for outcome in outcomes:
                outcome.life = life.number
                outcome.last_life = self.lives[-1].number
                self.outcomes.append(outcome)
                self.figures[f"requests: {outcome.short}"] += 1
                if outcome.first_on_connection and not (outcome.status or outcome.sent):
                    # The daemon does not listen just now.
                    await asyncio.sleep(0.3)

    # ---------------------------------------------------------- afterwards

    async def _rest(self) -> None:
        """Check that nothing is in flight and no descriptor is held, as no client is left."""
        until = time.monotonic() + 20
        while True:
            try:
                state = await self.daemon.state()
            except (OSError, EOFError, TimeoutError) as error:
                if time.monotonic() > until:
                    self.broken("the daemon does not answer after the calm", repr(error))
                    return
                await asyncio.sleep(0.3)
                continue
            if not state.busy and state.clients <= 1 and state.others <= 40:
                break
            if time.monotonic() > until:
                self.broken("left behind in the daemon", repr(vars(state)))
                break
            await asyncio.sleep(0.2)
        self.figures["MiB resident, most"] = max(
            self.figures["MiB resident, most"], round(state.resident)
        )
        text = (await get(self.daemon.port, "/metrics")).decode()
        counters = {}
        for line in text.splitlines():
            if line.startswith("llmux_requests_total{"):
                labels, _, value = line.partition("{")[2].rpartition(" ")
                pairs = dict(x.split("=") for x in labels.rstrip("}").split(","))
                counters[pairs["model"].strip('"'), pairs["status"].strip('"')] = float(value)
        self.lives[-1].counters = counters

    async def _end_daemon(self) -> None:
        assert self.daemon.process is not None
        self.lives[-1].told = time.time_ns()
        self.daemon.process.terminate()
        await self._await_exit()
        self.lives[-1].ended = time.time_ns()
        for turn in self.daemon.turns():
            self.figures["longest turn, ms"] = max(
                self.figures["longest turn, ms"], round(turn["cpu"] * 1000)
            )
            if turn["cpu"] > LIMIT:
                where = [x for x in turn["stack"].splitlines() if "/llmux/" in x]
                name = where[-1].strip().rpartition("/llmux/")[2] if where else ""
                self.broken(f"a turn over {LIMIT * 1000:.0f} ms: {name}", turn["stack"])
        for last, text in self.daemon.trouble(final=True):
            self.broken(f"in the log: {last}", text)

    def _left_behind(self) -> None:
        survivors = set().union(*(life.survivors for life in self.lives))
        until = time.monotonic() + 8
        while True:
            left = left_behind(self.mark, survivors, self._hooks_killed)
            if not left or time.monotonic() > until:
                break
            time.sleep(0.1)
        if left:
            self.broken("a process left behind", repr(left))
        files = [p.name for p in (self.directory / "spool").iterdir() if p.name != "filler"]
        if files:
            self.broken("a file left behind", repr(files))

    def _clean_up(self) -> None:
        self.daemon.kill()
        for pid in processes_of(self.mark):
            _send(pid, signal.SIGKILL)
        for process in self._residents.values():
            process.wait()


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
