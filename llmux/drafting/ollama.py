"""
This module drafts a configuration for the models of an Ollama.

Ollama's server keeps running: a model is woken by having the server load it, and put to sleep
by having the server unload it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from llmux.config.error import printable
from llmux.drafting.draft import Draft, DraftError, ModelDraft, size_in_words

__all__ = ["draft_of_ollama"]

DEFAULT_PORT = 11434
LIMIT = 5.0
"""A server has this many seconds to answer."""

_ADDRESS = re.compile(r"(?:http://)?(\[[^]]+\]|[^:/]+)(?::([0-9]+))?/?\Z")
_DIRECTORIES = (
    "~/.ollama/models",
    "/usr/share/ollama/.ollama/models",
    "/var/lib/ollama/models",
)
_OWN_REGISTRY = ("registry.ollama.ai", "library")

# The scripts are the same for each model, because LLMUX_MODEL holds the model's name.  Ollama
# takes names in any case, and lists them as they were pulled.  A model that is for embeddings
# only is refused by api/generate, so that api/embed is tried next.
_WAKE = """\
load() {
  curl -sS --noproxy '*' --fail-with-body "http://$LLMUX_HOST:$LLMUX_PORT/api/$1" \\
    -H 'Content-Type: application/json' \\
    -d '{"model": "'"$LLMUX_MODEL"'", "input": "", "keep_alive": -1, "stream": false}'
}
answer=$(load generate || load embed) || { echo "$answer" >&2; exit 1; }
"""
_ALIVE = """\
curl -sf --noproxy '*' "http://$LLMUX_HOST:$LLMUX_PORT/api/ps" |
  tr -d ' ' | grep -Fiq '"name":"'"$LLMUX_MODEL"'"'
"""
_SLEEP = """\
loaded() {
  curl -sf --noproxy '*' "http://$LLMUX_HOST:$LLMUX_PORT/api/ps" |
    tr -d ' ' | grep -Fiq '"name":"'"$LLMUX_MODEL"'"'
}
loaded || exit 0
curl -sS --noproxy '*' --fail-with-body "http://$LLMUX_HOST:$LLMUX_PORT/api/generate" \\
  -H 'Content-Type: application/json' -o /dev/null \\
  -d '{"model": "'"$LLMUX_MODEL"'", "keep_alive": 0, "stream": false}' || exit 1
while loaded; do sleep 0.1; done
"""


@dataclass(frozen=True)
class _Server:
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def draft_of_ollama(where: str | None, environment: Mapping[str, str] | None = None) -> Draft:
    """
    Return a draft with the models of an Ollama: those that its server lists or, if no server
    answers, those that its directory holds.

    @param where: the address of the server, or the directory; None for the server at
        C{$OLLAMA_HOST} or at the default address, and the usual directories.
    @raise DraftError: there is no server and no directory, or no model.
    """
    environment = os.environ if environment is None else environment
    server = _server(environment.get("OLLAMA_HOST", ""))
    directories = [*filter(None, [environment.get("OLLAMA_MODELS")]), *_DIRECTORIES]
    if where is not None:
        if os.path.isdir(where):
            sizes = _in_directory(where)
            if not sizes:
                raise DraftError(f"{printable(where)} holds no model of Ollama's")
            return _draft(sizes, server, where)
        match = _ADDRESS.match(where)
        if match is None:
            raise DraftError(
                f"{printable(where)} is neither an address nor a directory; give one as in "
                f"127.0.0.1:{DEFAULT_PORT}, or ~/.ollama/models"
            )
        if match[2] and _port(match[2]) is None:
            raise DraftError(
                f"the port of {printable(where)} is not a number from 1 to 65535; give an "
                f"address as in 127.0.0.1:{DEFAULT_PORT}"
            )
        server, directories = _server(where), []
    try:
        sizes = _listed(server)
    except (OSError, HTTPException, ValueError) as e:
        for directory in map(os.path.expanduser, directories):
            if sizes := _in_directory(directory):
                return _draft(sizes, server, directory)
        why = getattr(e, "strerror", None) or str(e) or type(e).__name__
        why = printable(why.lower())
        raise DraftError(
            f"no Ollama answers at {server} ({why}), and no directory of its models is found; "
            "start Ollama, or say where: --from ollama ADDRESS or DIRECTORY"
        ) from None
    if not sizes:
        raise DraftError(f"the Ollama at {server} has no model; ollama pull one first")
    return _draft(sizes, server, f"the Ollama at {server}")


def _server(text: str) -> _Server:
    match = _ADDRESS.match(text.strip())
    if match is None:
        return _Server()
    host = match[1].strip("[]")
    if host in ("0.0.0.0", "localhost", "::"):
        host = "127.0.0.1"
    # An Ollama whose OLLAMA_HOST has a port that does not exist listens at the usual port.
    return _Server(host, _port(match[2] or "") or DEFAULT_PORT)


def _port(digits: str) -> int | None:
    """Return the port that these digits stand for; None if there is no such port."""
    digits = digits.lstrip("0")
    # Python reads no number of thousands of digits.
    return int(digits) if 0 < len(digits) <= 5 and int(digits) < 65536 else None


def _listed(server: _Server) -> dict[str, int]:
    """
    Ask a server for its models, with their sizes in bytes.

    @raise OSError: no server answers.
    @raise ValueError: the server that answers is no Ollama.
    """
    connection = HTTPConnection(server.host, server.port, timeout=LIMIT)
    try:
        connection.request("GET", "/api/tags")
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise ValueError(f"it says {response.status}")
    listed = json.loads(body)
    models = listed.get("models") if isinstance(listed, dict) else None
    if not isinstance(models, list):
        raise ValueError("what answers there is no Ollama")
    return {
        model["name"]: _whole(model.get("size"))
        for model in models
        if isinstance(model, dict) and isinstance(model.get("name"), str) and model["name"]
    }


def _in_directory(directory: str) -> dict[str, int]:
    """Return the models that a directory's manifests name, with their sizes in bytes."""
    manifests = Path(directory) / "manifests"
    found = {}
    for path in sorted(manifests.rglob("*")):
        parts = path.relative_to(manifests).parts
        if len(parts) < 4 or not path.is_file():
            continue
        try:
            layers = json.loads(path.read_bytes())["layers"]
            size = sum(_whole(layer.get("size")) for layer in layers)
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            continue
        *namespace, model, tag = parts
        if namespace[0] == _OWN_REGISTRY[0]:
            namespace = namespace[1:]
            if namespace == [_OWN_REGISTRY[1]]:
                namespace = []
        found["/".join([*namespace, model]) + f":{tag}"] = size
    return found


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _draft(sizes: Mapping[str, int], server: _Server, source: str) -> Draft:
    models = []
    for name, size in sorted(sizes.items()):
        keys: dict[str, Any] = {
            "port": server.port,
            "wake": _WAKE,
            "sleep": _SLEEP,
            "alive": _ALIVE,
        }
        if server.host != "127.0.0.1":
            keys = {"host": server.host} | keys
        short = name.removesuffix(":latest")
        if short != name:
            keys["aliases"] = [short]
        remarks = [f"{size_in_words(size)} of weights."] if size else []
        models.append(ModelDraft(name, keys, remarks=remarks))
    return Draft(
        models,
        remarks=[
            f"The models of {source}, under the names that Ollama has for them.",
            "Ollama's server must be running; llmux has it load and unload models. "
            "OLLAMA_MAX_LOADED_MODELS must admit as many as are awake here at once, and "
            "clients ask llmux, not Ollama.",
        ],
        keys={"port": 3000},
        suggestions=[
            "One model is awake at a time. For several at once, say what there is, in any",
            "unit, and what each model needs:",
            "resources: {gpu0: 24}",
        ],
    )
