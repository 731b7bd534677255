"""
This module is a small backend: llama.cpp's HTTP server with one of the demo's models.

    python -m llmux.demo.model_server --model smollm2 --port 8101

The server answers C{/health}, C{/v1/chat/completions} and all other paths of llama.cpp's server
from the time when the model is loaded (about a second on a CPU) until SIGTERM or SIGINT comes,
and then exits with status 0.  If the port is taken, or the file is no model, the exit status is
1, with a line on stderr.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from llmux.demo.models import MODELS, DemoModel, NotInstalled, gguf_of

__all__ = ["main", "stop_with_holder"]

_CONTEXT = 2048
"""All requests in progress together have this many tokens of context."""

_SLOTS = 4
"""This many requests are in progress at once; others wait in the server's queue."""

_ERRORS = 1
_INFORMATION = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one model until a signal stops the server, and return the exit status."""
    options = _parse(argv)
    model = MODELS[options.model]
    began = time.monotonic()
    if options.lock is not None:
        stop_with_holder(options.lock)
    try:
        gguf = options.gguf or gguf_of(model, options.models)
        server = _serve(model, gguf, options)
    except (NotInstalled, OSError, RuntimeError, ImportError) as error:
        print(f"{model.name}: cannot serve: {error}", file=sys.stderr)
        return 1
    print(
        f"{model.name}: ready on {server.listening_address} "
        f"after {time.monotonic() - began:.1f} s, process {os.getpid()}",
        flush=True,
    )
    _wait_for_a_signal()
    # The destructor aborts what is in progress and joins the server's threads.
    del server
    print(f"{model.name}: stopped", flush=True)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m llmux.demo.model_server",
        description="Serve one of the demo's models with llama.cpp's HTTP server.",
    )
    parser.add_argument("--model", required=True, choices=sorted(MODELS))
    parser.add_argument("--port", required=True, type=int, help="0 picks a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--gguf", type=Path, help="serve this file instead of the package's")
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("models"),
        help="where to put gemma3's file together (default: ./models)",
    )
    parser.add_argument(
        "--lock", type=Path, help="stop when the process ends that holds this file's lock"
    )
    parser.add_argument(
        "--threads", type=int, help="default: 4, or one less than there are cores"
    )
    parser.add_argument(
        "--embeddings", action="store_true", help="answer /v1/embeddings, and nothing else"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log each request")
    return parser.parse_args(argv)


def stop_with_holder(lock: Path) -> None:
    """
    Send SIGTERM to this process when the process that has locked this file (flock(2)) has
    ended, for whatever reason.  If the file is not locked now, nothing is done.
    """
    try:
        descriptor = os.open(lock, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        threading.Thread(target=_outlast, args=(descriptor,), daemon=True).start()
    except OSError:
        return
    else:
        os.close(descriptor)


def _outlast(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.close(descriptor)
    os.kill(os.getpid(), signal.SIGTERM)


def _serve(model: DemoModel, gguf: Path, options: argparse.Namespace) -> Any:
    """
    Load the model, and listen.

    @return: the running server, which ends when the object is deleted.
    @raise RuntimeError: the model could not be loaded or served; llama.cpp has said why on
        stderr.
    """
    xllamacpp = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = os.fspath(gguf)
    params.model_alias = {model.name}
    params.hostnames = [options.host]
    params.port = options.port
    params.ui = False
    params.verbosity = _INFORMATION if options.verbose else _ERRORS
    params.n_ctx = _CONTEXT
    params.n_parallel = _SLOTS
    params.kv_unified = True
    params.cache_ram_mib = 0
    # With this option llama.cpp would load the model once more, to find how much of it fits on
    # a GPU.
    params.fit_params = False
    # Models this small are slower on many cores than on a few; and on a busy machine, where
    # threads wait for a core and so for each other, they are ten times slower.
    threads = options.threads or max(1, min(4, len(_cores()) - 1))
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.sampling.temp = model.temperature
    params.sampling.penalty_repeat = 1.1
    if options.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    if model.chat_template:
        params.chat_template = model.chat_template
        params.antiprompt = list(model.stop)
    return xllamacpp.Server(params)


def _cores() -> Sequence[int]:
    if hasattr(os, "sched_getaffinity"):
        return list(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def _wait_for_a_signal() -> None:
    """
    Return when SIGTERM or SIGINT has come.  Before that the signals end the process at once,
    which is right while the model loads.

    The kernel may hand the signal to one of llama.cpp's threads, and then C{signal.pause} does
    not return; the wake-up descriptor is written to in any case.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _noted)
        reader.recv(1)
        signal.set_wakeup_fd(-1)


def _noted(number: int, frame: object) -> None:
    """Do nothing, because the wake-up descriptor has been written to."""


if __name__ == "__main__":
    sys.exit(main())
