"""This module runs the hooks of an example, with stand-ins of an API or of a program."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.web.resource import IResource
from twisted.web.server import Request, Site
from zope.interface import implementer

from llmux.config import ModelConfig, load_config
from llmux.hooks.runner import HookRunner
from llmux.interfaces import HookKind, HookResult

__all__ = ["EXAMPLES", "SLEEP", "WAKE", "Api", "Example", "program", "programs_first"]


EXAMPLES = Path(__file__).parent.parent / "examples"

WAKE, SLEEP, ALIVE = HookKind.WAKE, HookKind.SLEEP, HookKind.ALIVE


@pytest.fixture
def programs_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a directory of programs that hooks find before all others."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def program(path: Path, script: str) -> None:
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


class Example:
    """An example has its hooks, with another port for its backends."""

    def __init__(self, name: str, port: int, **renamed: str) -> None:
        """@param renamed: by new name of a model, its name in the example."""
        from twisted.internet import reactor

        self.config = load_config(str(EXAMPLES / name / "config.yaml"))
        self.models: dict[str, ModelConfig] = {
            name: msgspec.structs.replace(model, port=port)
            for name, model in self.config.models.items()
        }
        self.models |= {new: self.models[old] for new, old in renamed.items()}
        typed_reactor: Any = reactor
        self._runner = HookRunner(typed_reactor, self.models, str(EXAMPLES / name))

    async def run(self, model: str, hook: HookKind) -> HookResult:
        return await self._runner.start(model, hook).exited

    async def is_awake(self, model: str) -> bool:
        result = await self.run(model, ALIVE)
        assert result.ok or result.says_no
        return result.ok


@implementer(IResource)
class Api:
    """This is a stand-in for a backend's API, which listens from the call of C{listen} on."""

    isLeaf = True
    server = None

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._port: Any = None

    def putChild(self, path: bytes, child: object) -> None:
        raise NotImplementedError

    def getChildWithDefault(self, name: bytes, request: Request) -> IResource:
        raise NotImplementedError

    def listen(self, port: int = 0) -> int:
        from twisted.internet import reactor

        typed_reactor: Any = reactor
        self._port = typed_reactor.listenTCP(port, Site(self), interface="127.0.0.1")
        number: int = self._port.getHost().port
        return number

    def close(self) -> None:
        if self._port is not None:
            pytest_twisted.blockon(self._port.stopListening())

    def render(self, request: Request) -> bytes:
        self.requests.append(f"{request.method.decode()} {request.uri.decode()}")
        status, value = self.answer(request)
        request.setResponseCode(status)
        request.setHeader("connection", "close")
        return b"" if value is None else json.dumps(value, separators=(",", ":")).encode()

    def answer(self, request: Request) -> tuple[int, Any]:
        """Return the status and the JSON value of the answer."""
        raise NotImplementedError
