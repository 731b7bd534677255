"""These tests check the places of models: what hooks are told, and what outlives llmux."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from llmux.config import Config, config_from_mapping
from llmux.config.room import room_of
from llmux.hooks.persistence.places import PlaceKeeping, Places
from llmux.hooks.persistence.state import StateDirectory
from llmux.hooks.runs.environment import HookEnvironment
from llmux.interfaces import HookKind, IHookRunner, IPlaceNotes
from tests.fakes import FakeHookRunner
from tests.world import RememberedPlaces

CHAT = [{"gpu0": 20.5}, {"gpu1": 20}]


def configured(chat: object = CHAT) -> Config:
    model = {"wake": "true", "sleep": "true"}
    return config_from_mapping(
        {
            "resources": {"gpu0": 24, "gpu1": 24},
            "models": {
                "chat": model | {"port": 1, "needs": chat},
                "big": model | {"port": 2, "needs": {"gpu0": 22, "gpu1": 22}},
                "cpu": model | {"port": 3, "needs": {}},
            },
        }
    )


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(str(tmp_path / "state"))


def told(config: Config, places: Places, model: str) -> dict[str, str]:
    variables = HookEnvironment(config.models, places=places).variables(model, "sleep")
    return {
        name.decode(): value.decode()
        for name, value in variables.items()
        if name in (b"LLMUX_RESOURCES", b"LLMUX_NEEDS", b"LLMUX_PLACE")
    }


def test_the_places_provide_their_interface() -> None:
    assert verifyObject(IPlaceNotes, Places(room_of(configured())))
    assert verifyObject(IPlaceNotes, RememberedPlaces({}))


def test_hooks_are_told_where_their_model_is() -> None:
    config = configured()
    places = Places(room_of(config))
    assert told(config, places, "big") == {
        "LLMUX_RESOURCES": "gpu0,gpu1",
        "LLMUX_NEEDS": "gpu0=22 gpu1=22",
        "LLMUX_PLACE": "1",
    }
    assert told(config, places, "chat") == {
        "LLMUX_RESOURCES": "gpu0,gpu1",
        "LLMUX_NEEDS": "gpu0=20.5 gpu1=20",
    }
    places.choose_place("chat", 1)
    assert told(config, places, "chat") == {
        "LLMUX_RESOURCES": "gpu1",
        "LLMUX_NEEDS": "gpu1=20",
        "LLMUX_PLACE": "2",
    }
    assert told(config, places, "cpu") == {
        "LLMUX_RESOURCES": "",
        "LLMUX_NEEDS": "",
        "LLMUX_PLACE": "1",
    }


def test_without_resources_hooks_are_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMUX_PLACE", "of another llmux")
    variables = HookEnvironment(configured().models).variables("chat", "wake")
    names = {b"LLMUX_RESOURCES", b"LLMUX_NEEDS", b"LLMUX_PLACE"}
    assert names.isdisjoint(variables)


def test_a_place_outlives_llmux_until_the_model_has_slept(state: StateDirectory) -> None:
    room = room_of(configured())
    first = Places(room, state)
    first.choose_place("chat", 1)
    assert Places(room, state).place_of("chat") is None, "it was chosen, but no hook has run"
    first.woke("chat")
    assert Places(room, state).place_of("chat") == 1
    turned = room_of(configured(CHAT[::-1]))
    assert Places(turned, state).place_of("chat") == 0, "by what it needs, not by its number"
    other = room_of(configured([{"gpu0": 3}, {"gpu1": 3}]))
    assert Places(other, state).place_of("chat") is None
    first.slept("chat")
    assert Places(room, state).place_of("chat") is None


def test_a_model_with_one_place_leaves_no_note(state: StateDirectory) -> None:
    places = Places(room_of(configured()), state)
    places.woke("big")
    assert not (Path(state.path) / "models").exists()
    assert places.place_of("big") == 0


def test_the_place_is_remembered_from_a_wake_to_the_sleep_after_it(
    state: StateDirectory,
) -> None:
    room = room_of(configured())
    places = Places(room, state)
    clock = Clock()
    hooks = FakeHookRunner(clock)
    keeping = PlaceKeeping(hooks, places)
    assert verifyObject(IHookRunner, keeping)
    places.choose_place("chat", 1)
    keeping.start("chat", HookKind.WAKE)
    assert Places(room, state).place_of("chat") == 1, "before the hook has ended"
    clock.advance(1)
    hooks.once("chat", HookKind.SLEEP, 1.0, 1)
    keeping.start("chat", HookKind.SLEEP)
    clock.advance(1)
    assert Places(room, state).place_of("chat") == 1, "the sleep hook has failed"
    keeping.start("chat", HookKind.SLEEP)
    clock.advance(1)
    assert Places(room, state).place_of("chat") is None
