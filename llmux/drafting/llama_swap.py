"""
This module makes a configuration of llmux from one of llama-swap: its models, and what it says
of all of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from llmux.config import ConfigError
from llmux.config.document import read_document
from llmux.config.error import printable, shown
from llmux.drafting.coexistence import NeedsDraft
from llmux.drafting.draft import Draft, DraftError, ModelDraft
from llmux.drafting.llama_swap_model import ModelConversion, Notes, number
from llmux.drafting.llama_swap_rules import UnknownRule, needs_of_groups, needs_of_matrix

__all__ = ["draft_of_llama_swap"]

_NOT_NEEDED = {
    "startPort": "a free port is found for each model when it wakes",
    "logLevel": "llmux -v logs more",
    "logRequests": "llmux logs what it refuses; request_log is a file of all requests",
    "logTimeFormat": "the log has one form, or JSON: --log-format",
    "logToStdout": "llmux logs all to its standard output",
    "metricsMaxInMemory": "/metrics is for Prometheus",
    "captureBuffer": "llmux keeps no bodies",
    "performance": "llmux does not watch GPUs",
    "store": "llmux keeps no activity log; request_log is a file",
    "ui": "llmux has a page of its own",
    "upstream": "llmux has no such paths",
}
_LEAST_HEALTH_TIMEOUT = 15
"""llama-swap uses this many seconds where the configuration says fewer."""


def draft_of_llama_swap(file: str, environment: Mapping[str, str] | None = None) -> Draft:
    """
    Return a draft that does what a configuration of llama-swap does.

    @param environment: where macros like C{${env.HOME}} are looked up; C{os.environ} if None.
    @raise DraftError: the file cannot be read, or holds no such configuration.
    """
    try:
        with open(file, "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode & 0o666
            document = read_document(stream.read(), file)
    except ConfigError as e:
        raise DraftError(str(e)) from None
    except OSError as e:
        raise DraftError(
            f"{printable(file)} cannot be read: {(e.strerror or str(e)).lower()}; name "
            "llama-swap's configuration"
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("models"), dict):
        raise DraftError(
            f"{printable(file)} holds no models: is it llama-swap's configuration?"
        )
    if not document["models"]:
        raise DraftError(f"{printable(file)} has no model")
    environment = os.environ if environment is None else environment
    draft = _LlamaSwapConversion(document, environment).draft(file)
    # llama-swap's file may hold secrets, which are copied: whoever may not read that file may
    # not read ours.
    draft.mode = mode
    return draft


class _LlamaSwapConversion:
    """This class converts one document of llama-swap."""

    def __init__(self, document: dict[str, Any], environment: Mapping[str, str]) -> None:
        self._document = document
        self._environment = environment
        self._notes = Notes()
        self._draft = Draft([], left_out=self._notes.sentences)
        self._needs: NeedsDraft | None = None

    def draft(self, file: str) -> Draft:
        document = self._document
        self._draft.remarks = [
            f"Made by llmux init from {os.path.abspath(file)}, a configuration of llama-swap.",
            "Commands run in the directory of this file, and not where llama-swap was started.",
            "llmux listens on port 3000 of this machine, unless port and host say otherwise; "
            "llama-swap, unless its command line did, on port 8080 of every interface.",
        ]
        models = self._models()
        self._draft.models = list(models.values())
        self._draft.keys["port"] = 3000
        self._together(models)
        self._preload(models)
        self._keys(document.get("apiKeys"))
        self._peers(document.get("peers"))
        for key, value in document.items():
            if key in _NOT_NEEDED:
                self._notes.add((key,), _NOT_NEEDED[key])
            elif key not in _HANDLED:
                self._notes.add((key,), f"{shown(value)} has no counterpart")
        if document.get("sendLoadingState"):
            self._notes.add(("sendLoadingState",), "replies are passed on as they are")
        if document.get("includeAliasesInList"):
            self._notes.add(("includeAliasesInList",), "an alias stands in its model's entry")
        return self._draft

    def _models(self) -> dict[str, ModelDraft]:
        document = self._document
        defaults: dict[str, Any] = {}
        if limit := number(document.get("healthCheckTimeout")):
            defaults["wake_timeout_secs"] = max(limit, _LEAST_HEALTH_TIMEOUT)
        if limit := number(document.get("unloadTimeout")):
            defaults["stop_secs"] = limit
        if limit := number(document.get("globalTTL")):
            defaults["idle_sleep_secs"] = limit
        macros = document.get("macros")
        models = {}
        for name, raw in document["models"].items():
            if not isinstance(raw, dict):
                self._notes.add(("models", name), f"{shown(raw)} is not a model")
                continue
            shared = macros if isinstance(macros, dict) else {}
            model = ModelConversion(name, raw, shared, self._environment, self._notes)
            draft = model.draft(defaults)
            if draft is not None:
                models[name] = draft
        if not models:
            raise DraftError(
                "none of the models could be carried over: " + "; ".join(self._notes.sentences)
            )
        self._unique_names(models)
        return models

    def _unique_names(self, models: dict[str, ModelDraft]) -> None:
        """Leave out each alias that is also a model's name, or another model's alias."""
        taken = set(models)
        for name, model in models.items():
            for key in "aliases", "variants":
                given = model.keys.get(key)
                if given is None:
                    continue
                for alias in list(given):
                    if alias in taken:
                        self._notes.add(("models", name, key), f"{shown(alias)} is taken")
                        if isinstance(given, list):
                            given.remove(alias)
                        else:
                            del given[alias]
                    taken.add(alias)
                if not given:
                    del model.keys[key]

    # ------------------------------------------------------------ together

    def _together(self, models: dict[str, ModelDraft]) -> None:
        """
        Write the rule about which models may be awake together as C{resources} and C{needs}.
        """
        place, kind, rule = self._rule()
        if rule is None:
            return
        names = list(models)
        try:
            if kind == "matrix":
                result, remarks = needs_of_matrix(names, rule)
            else:
                result, remarks = needs_of_groups(names, rule)
        except UnknownRule as e:
            self._notes.add(place, f"{e}; one model is awake at a time")
            return
        self._needs = result
        for sentence in remarks:
            self._notes.add(place, sentence)
        if len(names) == 1 or (result.capacities == {"gpu": 1} and all(result.needs.values())):
            # All models exclude each other, which is how llmux behaves without resources.
            return
        self._draft.suggestions += [
            f"Units that only say which models may be awake together, as {kind} did. With the",
            "real amounts (memory of the GPUs, of each model) llmux finds all that fits.",
        ]
        # A file without resources would mean that each model is awake alone.
        self._draft.keys["resources"] = dict(result.capacities) or {"gpu": 1}
        for name, model in models.items():
            model.keys["needs"] = dict(result.needs[name])

    def _rule(self) -> tuple[tuple[str, ...], str, Any]:
        """
        Return where the rule stands, the kind of the rule, and the rule; None as the rule if
        there is none.
        """
        document = self._document
        routing = document.get("routing")
        if isinstance(routing, dict):
            for key in routing:
                if key != "router":
                    self._notes.add(("routing", key), "it has no counterpart")
            router = routing.get("router")
            settings = router.get("settings") if isinstance(router, dict) else None
            if isinstance(router, dict) and isinstance(settings, dict):
                chosen = "matrix" if router.get("use") == "matrix" else "groups"
                if settings.get(chosen):
                    place = ("routing", "router", "settings", chosen)
                    return place, chosen, settings[chosen]
        for key in "matrix", "groups":
            if document.get(key):
                return (key,), key, document[key]
        return (), "", None

    # -------------------------------------------------------------- others

    def _preload(self, models: dict[str, ModelDraft]) -> None:
        hooks = self._document.get("hooks")
        startup = hooks.get("on_startup") if isinstance(hooks, dict) else None
        preload: Any = startup.get("preload") if isinstance(startup, dict) else None
        if not isinstance(preload, list) or not preload:
            return
        names = {
            alias: name for name, m in models.items() for alias in m.keys.get("aliases", ())
        }
        names |= {name: name for name in models}
        found: list[str] = []
        place = ("hooks", "on_startup", "preload")
        for wanted in preload:
            name = names.get(wanted.strip()) if isinstance(wanted, str) else None
            if name is None:
                self._notes.add(
                    ("hooks", "on_startup", "preload"), f"{shown(wanted)} is no model"
                )
            elif name not in found:
                found.append(name)
        kept: list[str] = []
        for name in reversed(found):
            # In llama-swap each preloaded model unloads those that it does not fit with, so
            # that the last one stays.
            together = [name, *kept]
            if self._needs.fit(together) if self._needs is not None else not kept:
                kept = together
            else:
                self._notes.add(place, f"{shown(name)} does not fit with those after it")
        if kept:
            self._draft.keys["preload"] = kept

    def _keys(self, keys: Any) -> None:
        if isinstance(keys, list) and keys:
            # The keys themselves are secrets: they are not copied.
            self._notes.add(
                ("apiKeys",),
                f"{len(keys)} key{'s' if len(keys) > 1 else ''}: who can connect may use every "
                "model; let llmux listen on loopback, behind a proxy that asks for keys",
            )

    def _peers(self, peers: Any) -> None:
        for name, peer in peers.items() if isinstance(peers, dict) else ():
            served = peer.get("models") if isinstance(peer, dict) else None
            count = len(served) if isinstance(served, list) else 0
            self._notes.add(
                ("peers", name), f"its {count} models are elsewhere: llmux serves its own only"
            )


_HANDLED = {
    "models",
    "macros",
    "groups",
    "matrix",
    "routing",
    "hooks",
    "apiKeys",
    "peers",
    "healthCheckTimeout",
    "unloadTimeout",
    "globalTTL",
    "sendLoadingState",
    "includeAliasesInList",
}
