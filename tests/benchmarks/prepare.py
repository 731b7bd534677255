"""
This script measures what a C{prepare} hook saves, with the demo's two models.

    python tests/benchmarks/prepare.py [--rounds 8]

Two models wake by turns: while one still answers a long request, a request for the other comes,
whose weights are not in the page cache.  The weights are put out of the cache by
C{posix_fadvise(POSIX_FADV_DONTNEED)} on copies of the files that nobody else uses; C{mincore}
says how much is left.  The measured time is that of the wake hook: from the end of the sleep
hook to the server's being ready.  Three configurations take turns: no C{prepare}, with it
(C{cat FILE >/dev/null}), and with the weights in the page cache already.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import re
import shutil
import statistics
import sys
import tempfile
import threading
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from llmux.demo.models import MODELS, gguf_of
from tests.daemon import Daemon, free_port, wait_until

__all__: list[str] = []

NAMES = ("smollm2", "gemma3")
KINDS = ("cold", "cold, with prepare", "warm")


def put_out_of_cache(file: Path) -> None:
    """Put the file out of the page cache, so that its next reader reads it from the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def share_in_cache(file: Path) -> float:
    """Return how much of the file is in the page cache, from 0 to 1."""
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        buffer = (ctypes.c_char * len(mapped)).from_buffer(mapped)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mincore(ctypes.byref(buffer), ctypes.c_size_t(len(mapped)), found):
            raise OSError(ctypes.get_errno(), "mincore")
        del buffer
        return sum(flag & 1 for flag in found) / pages


def ask(port: int, model: str, tokens: int, *, began: threading.Event | None = None) -> None:
    """Ask for so many tokens, and read the reply to its end."""
    request = {
        "model": model,
        "max_tokens": tokens,
        "stream": True,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": "Write about the sea."}],
    }
    with closing(HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(request),
            {"Content-Type": "application/json"},
        )
        reply = connection.getresponse()
        assert reply.status == 200, reply.read()
        reply.read(1)
        if began is not None:
            began.set()
        reply.read()


class Measurement:
    """
    A measurement has one directory with the models' files and, for each configuration, a
    daemon.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = {}
        for name in NAMES:
            self.files[name] = directory / f"{name}.gguf"
            shutil.copyfile(gguf_of(MODELS[name], directory), self.files[name])

    def wake_times(self, kind: str, rounds: int) -> list[float]:
        """Measure so many switches, and return the seconds of each wake hook."""
        port = free_port()
        models = {}
        for name, file in self.files.items():
            command = f"{sys.executable} -m llmux.demo.model_server --model {name}"
            models[name] = {"serve": f'{command} --port "$LLMUX_PORT" --gguf {file}'}
            if kind == "cold, with prepare":
                models[name]["prepare"] = f"cat {file} >/dev/null"
        document = {
            "port": port,
            "state_dir": "state",
            "sleep_on_exit": True,
            "policy": {"name": "fifo"},
            "models": models,
        }
        (self.directory / "config.json").write_text(json.dumps(document))
        with Daemon(["-c", "config.json"], self.directory) as daemon:
            ask(port, NAMES[1], 1)
            for number in range(rounds):
                target, other = NAMES[number % 2], NAMES[1 - number % 2]
                if kind != "warm":
                    put_out_of_cache(self.files[target])
                    left = share_in_cache(self.files[target])
                    assert left < 0.05, f"{left:.0%} of {target} is still in the page cache"
                began = threading.Event()
                busy = threading.Thread(
                    target=ask, args=(port, other, 60), kwargs={"began": began}
                )
                busy.start()
                began.wait(60)
                ask(port, target, 1)
                busy.join()
            times = re.compile(r"wake hook of \w+ completed in ([0-9.]+) s")
            wait_until(
                lambda: sum(bool(times.search(line)) for line in daemon.lines) > rounds,
                "the last wake",
            )
            found = [m[1] for line in daemon.lines if (m := times.search(line))]
            daemon.process.terminate()
            daemon.wait()
        return [float(text) for text in found[1:]]


def main() -> None:
    """Measure, and print a line for each configuration and model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        measurement = Measurement(Path(name))
        for kind in KINDS:
            found = measurement.wake_times(kind, rounds)
            for at, model in enumerate(NAMES):
                times = found[at::2]
                size = measurement.files[model].stat().st_size / 1e6
                print(
                    f"{model:<8} {size:4.0f} MB  {kind:<19} median "
                    f"{statistics.median(times):5.2f} s  "
                    f"({min(times):.2f} to {max(times):.2f}, n {len(times)})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
