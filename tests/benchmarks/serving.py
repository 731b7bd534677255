"""
This module has the measurements of a model that is awake: requests, streams, bodies, start.

CPU is that of the contestant's whole process tree, read before and after a
stretch of work, never during it.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time

from tests.benchmarks import load
from tests.benchmarks.bench import Bench, Figures, quiet
from tests.benchmarks.contestants import HERE, Contestant, Daemon
from tests.benchmarks.load import Client, LoadError, Streams, quick_post
from tests.benchmarks.processes import peak_memory, reset_peak, resident_memory, tree_cpu

__all__ = ["bodies", "cpu_per_request", "crowd", "huge", "latency", "plain", "start", "streams"]

MiB = 1 << 20


def _script(varied: bool) -> str:
    """
    Return the script that says what wrk sends: the same bytes each time, or with a header that
    is never the same.
    """
    body = load.json_body("a").decode()
    if not varied:
        return (
            'wrk.method = "POST"\n'
            'wrk.headers["Content-Type"] = "application/json"\n'
            f"wrk.body = [[{body}]]\n"
        )
    first, _, rest = load.quick_post("a").decode().partition("\r\n")
    return (
        "local count = 0\n"
        f"local first, rest = {_lua(first)}, {_lua(rest)}\n"
        "request = function()\n"
        "  count = count + 1\n"
        '  return first .. "\\r\\nX-Request-Id: " .. count .. "\\r\\n" .. rest\n'
        "end\n"
    )


def _lua(text: str) -> str:
    return '"' + text.replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n") + '"'


def _closed_loop(
    bench: Bench, port: int, connections: int, seconds: float, varied: bool
) -> subprocess.Popen[str]:
    if bench.wrk is None:
        command = [sys.executable, str(HERE / "load.py"), "closed"]
        command += [str(port), str(connections), str(seconds)]
    else:
        script = bench.directory / "post.lua"
        script.write_text(_script(varied))
        command = [bench.wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command += ["--timeout", "30s", "-s", str(script)]
        command += [f"http://127.0.0.1:{port}{load.PATH}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def cpu_per_request(
    bench: Bench, daemon: Daemon, connections: int, *, varied: bool = False
) -> float:
    """
    Return the seconds of CPU for each plain request that the backend has answered, in the
    middle of a closed loop: connecting and closing are left out.
    """
    effort = bench.effort
    # wrk counts whole seconds.
    whole = effort.warm_up + effort.seconds + 0.5
    generator = _closed_loop(bench, daemon.port, connections, max(1.0, round(whole)), varied)
    try:
        time.sleep(effort.warm_up)
        cpu, count = tree_cpu(daemon.pid), bench.counter[0]
        time.sleep(effort.seconds)
        cpu, count = tree_cpu(daemon.pid) - cpu, bench.counter[0] - count
        said, _ = generator.communicate(timeout=60)
    finally:
        generator.kill()
        generator.wait()
    if generator.returncode or "Non-2xx" in said or not count:
        raise LoadError(f"the load went wrong ({count} requests): {said}")
    return cpu / count / 1e9


def plain(bench: Bench, contestant: Contestant) -> Figures:
    with bench.start(contestant) as daemon:
        daemon.ready()
        return {"plain": cpu_per_request(bench, daemon, 16)}


def varied(bench: Bench, contestant: Contestant) -> Figures:
    if bench.wrk is None:
        return {}
    with bench.start(contestant) as daemon:
        daemon.ready()
        return {"varied": cpu_per_request(bench, daemon, 16, varied=True)}


def crowd(bench: Bench, contestant: Contestant) -> Figures:
    with bench.start(contestant) as daemon:
        daemon.ready()
        return {"crowd": cpu_per_request(bench, daemon, bench.effort.connections)}


def latency(bench: Bench, contestant: Contestant) -> Figures:
    request = quick_post("a")
    with bench.start(contestant, pinned=False) as daemon:
        daemon.ready()
        client = Client(daemon.port)
        for _ in range(bench.effort.asked // 10):
            client.ask(request)
        found = []
        for _ in range(bench.effort.asked):
            begun = time.perf_counter()
            client.ask(request)
            found.append(time.perf_counter() - begun)
        client.close()
    cuts = statistics.quantiles(found, n=100)
    return {"latency_p50": cuts[49], "latency_p99": cuts[98]}


# ------------------------------------------------------------------ streams, bodies


def streams(bench: Bench, contestant: Contestant) -> Figures:
    with bench.start(contestant) as daemon:
        daemon.ready()
        readers = Streams(daemon.port, "a", 50)
        readers.read_for(bench.effort.warm_up)
        cpu = tree_cpu(daemon.pid)
        count = readers.read_for(bench.effort.seconds)
        cpu = tree_cpu(daemon.pid) - cpu
        readers.close()
    if not count:
        raise LoadError("no event came")
    return {"event": cpu / count / 1e9}


def large_body(size: int) -> bytes:
    """
    Return a chat request of C{size} bytes with an image in it, and with the model's name at the
    end.
    """
    before = (
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": '
        b'{"url": "data:image/png;base64,'
    )
    after = b'"}}]}], "model": "a"}'
    alphabet = bytes(range(65, 91)) + bytes(range(97, 123)) + b"0123456789+/"
    image = size - len(before) - len(after)
    return before + (alphabet * (image // len(alphabet) + 1))[:image] + after


def bodies(bench: Bench, contestant: Contestant) -> Figures:
    request = load.post(large_body(bench.effort.body_bytes))
    seconds = bench.effort.warm_up + bench.effort.bodies * 0.5
    with bench.start(contestant, pinned=False) as daemon:
        daemon.ready()
        client = Client(daemon.port)
        client.ask(request)
        neighbour = subprocess.Popen(
            [sys.executable, str(HERE / "load.py"), "gaps", str(daemon.port), str(seconds)],
            stdout=subprocess.PIPE,
        )
        try:
            time.sleep(bench.effort.warm_up)
            spans = []
            for _ in range(bench.effort.bodies):
                begun = time.perf_counter()
                client.ask(request)
                spans.append((begun, time.perf_counter()))
                # The neighbour's stream has its usual pace again after that.
                time.sleep(0.1)
            said, _ = neighbour.communicate(timeout=60 + seconds)
        finally:
            neighbour.kill()
            neighbour.wait()
        client.close()
    stamps: list[float] = json.loads(said)
    gaps = list(itertools.pairwise(stamps))
    worst = []
    for begun, ended in spans:
        near = [after - before for before, after in gaps if after > begun and before < ended]
        if near:
            worst.append(max(near))
    return {
        "body": statistics.median(ended - begun for begun, ended in spans),
        "gap": statistics.median(worst),
    }


def huge(bench: Bench, contestant: Contestant) -> Figures:
    """Measure by how much the peak of memory grows for a body and a reply of 1 GiB each."""
    size = bench.effort.huge_bytes
    before, after = b'{"prompt": "', b'", "model": "a"}'
    filler = b"lorem ipsum dolor sit amet, consectetur " * (MiB // 40)
    count, rest = divmod(size - len(before) - len(after), len(filler))
    pieces = [before, *([filler] * count), filler[:rest], after]
    with bench.start(contestant, settings={"max_body_mb": 2048}) as daemon:
        daemon.ready()
        client = Client(daemon.port)
        client.socket.settimeout(300.0)
        reset_peak(daemon.pid)
        idle = resident_memory(daemon.pid)
        client.send_body(load.head(size), pieces)
        client.read_reply()
        up = peak_memory(daemon.pid) - idle
        reset_peak(daemon.pid)
        idle = resident_memory(daemon.pid)
        client.ask(quick_post("a", reply_bytes=size))
        down = peak_memory(daemon.pid) - idle
        client.close()
    return {"upload": up, "download": down}


def start(bench: Bench, contestant: Contestant) -> Figures:
    found, memory = [], []
    for _ in range(bench.effort.starts):
        with bench.start(contestant, pinned=False) as daemon:
            found.append(daemon.started)
            quiet(daemon.pid)
            memory.append(resident_memory(daemon.pid))
    return {"start": statistics.median(found), "idle": statistics.median(memory)}
