"""
C{llmux demo} serves two real models through one port.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from twisted.python import usage

from llmux.demo.directory import DemoDirectory, DemoError, check_port_free
from llmux.demo.models import MODELS, gguf_of, install_commands

__all__ = ["DemoOptions"]


class DemoOptions(usage.Options):
    """This class parses the options that stand after C{llmux demo}."""

    longdesc = "Serve two small language models, on the CPU, through one port."
    optParameters: ClassVar[Any] = [
        ["port", "p", "3000", "Listen here."],
        ["directory", None, "llmux-demo", "Write here and nowhere else."],
    ]
    optFlags: ClassVar[Any] = [["verbose", "v", "Log debug messages."]]
    parent: Any = None

    def __init__(self) -> None:
        usage.Options.__init__(self)

    def getSynopsis(self) -> str:
        """Return the first line of the help."""
        return "Usage: llmux demo [options]"

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        self.parent.opt_version()
        raise AssertionError("it has not exited")

    def postOptions(self) -> None:
        """Check the port, and raise L{usage.UsageError} if it is none."""
        text = self["port"]
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
            raise usage.UsageError(f"-p takes a port from 1 to 65535, not {text!r}")

    def run(self) -> int:
        """
        Run the demo until SIGINT or SIGTERM.

        @return: the exit status.
        """
        try:
            return _demo(int(self["port"]), Path(self["directory"]), bool(self["verbose"]))
        except DemoError as error:
            print(f"llmux demo: {error}", file=sys.stderr)
            return 1


def _demo(port: int, path: Path, verbose: bool) -> int:
    commands = install_commands(shlex.quote(sys.executable))
    if commands:
        raise DemoError(f"it needs more packages; install them: {' && '.join(commands)}")
    check_port_free(port)
    directory = DemoDirectory(path)
    directory.claim()
    print(f"llmux demo: everything is in {directory.path}", flush=True)
    _prepare(directory, port)
    return _run(directory, verbose, lambda: print(_introduction(port), flush=True))


def _prepare(directory: DemoDirectory, port: int) -> None:
    """Write all files that llmux needs for the demo."""
    for model in MODELS.values():
        try:
            gguf = gguf_of(model, directory.models)
        except OSError as error:
            raise DemoError(f"{model.name}'s file: {error}") from error
        print(
            f"  {model.name:<8} {model.title:<34} {gguf.stat().st_size / 1e6:.0f} MB",
            flush=True,
        )
    directory.write_config(sys.executable, port)


def _run(directory: DemoDirectory, verbose: bool, up: Callable[[], None]) -> int:
    """
    Run llmux until it is told to stop.

    @param up: a function that is called when llmux listens.
    @return: the exit status of llmux.
    """
    from llmux.config import ConfigError, load_config
    from llmux.daemon.foreground import serve

    try:
        return serve(load_config(str(directory.config)), verbose=verbose, up=up)
    except ConfigError as error:
        raise DemoError(str(error)) from error


_INTRODUCTION = """
Listening on http://127.0.0.1:{port}.  From another terminal, try

  curl {url} -H 'Content-Type: application/json' -d '{plain}'

and then, as it is written, by the other model (the switch shows here):

  curl -N {url} -H 'Content-Type: application/json' -d '{streaming}'

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
