"""
C{llmux demo}: two real models behind one port.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llmux.demo.directory import DemoDirectory, DemoError, check_port_free, free_ports
from llmux.demo.models import MODELS, gguf_of, install_commands

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """
    Run the demo until SIGINT or SIGTERM.

    @param argv: the arguments after C{llmux demo}.
    @return: the exit status.
    """
    options = _parse(argv)
    try:
        return _demo(options)
    except DemoError as error:
        print(f"llmux demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="llmux demo",
        description="Serve two small language models, on the CPU, through one port.",
    )
    parser.add_argument(
        "-p", "--port", type=int, default=3000, help="listen here (default: 3000)"
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("llmux-demo"),
        metavar="DIR",
        help="write here and nowhere else (default: ./llmux-demo)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log debug messages")
    options = parser.parse_args(argv)
    if not 1 <= options.port <= 65535:
        parser.error(f"argument -p/--port: {options.port} is not a port; give 1 to 65535")
    return options


def _demo(options: argparse.Namespace) -> int:
    commands = install_commands(shlex.quote(sys.executable))
    if commands:
        raise DemoError(f"it needs more packages; install them: {' && '.join(commands)}")
    check_port_free(options.port)
    directory = DemoDirectory(options.directory)
    directory.claim()
    print(f"llmux demo: everything is in {directory.path}", flush=True)
    _prepare(directory, options.port)
    try:
        return _run(
            directory,
            options.verbose,
            lambda: print(_introduction(options.port), flush=True),
        )
    finally:
        # Nothing is left to stop when llmux has ended as it should.
        directory.stop_servers()


def _prepare(directory: DemoDirectory, port: int) -> None:
    """Stop what an earlier demo has left, and write all that llmux needs."""
    directory.write_scripts()
    for stale in directory.stop_servers():
        print(f"stopped the server on port {stale}, which an earlier demo had left", flush=True)
    for model in MODELS.values():
        try:
            gguf = gguf_of(model, directory.models)
        except OSError as error:
            raise DemoError(f"{model.name}'s file: {error}") from error
        print(
            f"  {model.name:<8} {model.title:<34} {gguf.stat().st_size / 1e6:.0f} MB",
            flush=True,
        )
    ports = dict(zip(MODELS, free_ports(len(MODELS)), strict=True))
    directory.write_config(sys.executable, port, ports)


def _run(directory: DemoDirectory, verbose: bool, up: Callable[[], None]) -> int:
    """
    Run llmux until it is told to stop.

    @param up: called when it listens.
    @return: its exit status.
    """
    from llmux.config import ConfigError, load_config
    from llmux.daemon.foreground import serve

    try:
        return serve(load_config(str(directory.config)), verbose=verbose, up=up)
    except ConfigError as error:
        raise DemoError(str(error)) from error


_INTRODUCTION = """
Listening on http://127.0.0.1:{port}.  From another terminal, try

  curl {url} -d '{plain}'

and then, as it is written, by the other model (the switch shows here):

  curl -N {url} -d '{streaming}'

They are very small: do not believe what they say.  Ctrl-C stops everything.
"""


def _introduction(port: int) -> str:
    messages = [{"role": "user", "content": "Write one sentence about the sea."}]
    return _INTRODUCTION.format(
        port=port,
        url=f"http://127.0.0.1:{port}/v1/chat/completions",
        plain=json.dumps({"model": "smollm2", "messages": messages}),
        streaming=json.dumps({"model": "gemma3", "stream": True, "messages": messages}),
    )
