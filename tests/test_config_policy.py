"""These tests check that policies are found by name, and that their settings are checked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llmux.app import build_policy
from llmux.config import Config, ConfigError, config_from_mapping
from llmux.interfaces import ONE_SLOT, ISwitchPolicy, ISwitchPolicyFactory, PolicyContext
from llmux.policy.catalog import PolicyLookupError, find_policy, known_policies
from llmux.policy.cost_aware import CostAwarePolicy
from llmux.policy.fifo import FifoPolicy, FifoPolicyFactory
from twisted.plugins import llmux_policies


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The policy of these tests takes these settings."""

    patience: float = 2.0
    mode: str = "quick"
    levels: list[int] = []


@implementer(ISwitchPolicyFactory)
class ThoughtfulFactory:
    """This factory makes FIFO policies, and is strict about its settings."""

    name = "thoughtful"
    settings = Settings

    def __init__(self) -> None:
        self.built: list[tuple[PolicyContext, Any]] = []

    def build(self, context: PolicyContext, settings: Any) -> ISwitchPolicy:
        if settings.patience < 1:
            raise ValueError(f"patience must be at least 1, not {settings.patience:g}")
        if settings.mode == "odd":
            raise ValueError("this cannot be; think again")
        self.built.append((context, settings))
        return FifoPolicy()


@pytest.fixture
def thoughtful(monkeypatch: pytest.MonkeyPatch) -> ThoughtfulFactory:
    factory = ThoughtfulFactory()
    monkeypatch.setattr(llmux_policies, "thoughtful", factory, raising=False)
    return factory


def configure(**policy: object) -> Config:
    a = {"port": 1, "wake": "w", "sleep": "s", "alive": "l", "weight": 3}
    return config_from_mapping({"models": {"a": a}, "policy": policy})


def complaint(**policy: object) -> str:
    with pytest.raises(ConfigError) as caught:
        configure(**policy)
    return str(caught.value).removeprefix("configuration: ")


def test_a_policy_of_llmux_is_found_by_its_name() -> None:
    factory = find_policy("fifo")
    verifyObject(ISwitchPolicyFactory, factory)
    assert isinstance(factory, FifoPolicyFactory)
    assert "fifo" in known_policies()
    assert isinstance(build_policy(configure(name="fifo")), FifoPolicy)


def test_the_default_policy_is_cost_aware() -> None:
    """
    The default policy is the same, whether a configuration comes from a file or is made by
    hand.
    """
    assert isinstance(build_policy(configure()), CostAwarePolicy)
    by_hand = Config(models=configure().models)
    assert isinstance(build_policy(by_hand), CostAwarePolicy)


def test_settings_are_handed_to_the_policy(thoughtful: ThoughtfulFactory) -> None:
    config = configure(name="thoughtful", patience=5, levels=[1, 2], min_active_secs=4)
    assert config.policy.settings == Settings(patience=5.0, levels=[1, 2])
    context, settings = thoughtful.built[-1]
    assert settings is config.policy.settings
    assert context == PolicyContext(
        weights={"a": 3.0}, places={"a": (ONE_SLOT,)}, min_active=4.0
    )


def test_settings_that_are_left_out_have_defaults(thoughtful: ThoughtfulFactory) -> None:
    assert configure(name="thoughtful").policy.settings == Settings()


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            {"patience": 0.5},
            "policy.patience: must be at least 1, not 0.5; "
            "change it, or leave it out for the default",
        ),
        ({"mode": "odd"}, "policy: this cannot be; think again"),
        (
            {"patience": "long"},
            'policy.patience: the string "long" is not a number; '
            "change it, or leave it out for the default",
        ),
        (
            {"patience": "5"},
            'policy.patience: the string "5" is not a number; write it without quotes: 5.0',
        ),
        (
            {"levels": [1, "x"]},
            "policy.levels: what is at [1] is not a whole number; "
            "change it, or leave it out for the default",
        ),
        ({"patiense": 1}, "policy.patiense: unknown key; did you mean patience?"),
        (
            {"request_timeout": 1},
            "policy.request_timeout: unknown key; did you mean request_timeout_secs?",
        ),
    ],
)
def test_a_bad_setting_is_told(
    thoughtful: ThoughtfulFactory, policy: dict[str, object], expected: str
) -> None:
    assert complaint(name="thoughtful", **policy) == expected


def test_a_setting_of_another_policy_is_told() -> None:
    assert complaint(name="fifo", patience=5).startswith("policy.patience: unknown key")


def test_an_unknown_policy_is_told_with_those_known() -> None:
    known = ", ".join(known_policies())
    assert complaint(name="lifo") == (
        f'policy.name: no policy is called "lifo"; did you mean fifo? known: {known}'
    )
    assert complaint(name="shortest job first") == (
        f'policy.name: no policy is called "shortest job first"; known: {known}'
    )


PLUGIN = """
from zope.interface import implementer
from llmux.interfaces import ISwitchPolicyFactory
from llmux.policy.fifo import FifoPolicyFactory

class Theirs(FifoPolicyFactory):
    name = {name!r}
    __module__ = {module!r}

theirs = Theirs()
"""


@pytest.fixture
def plugin_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a directory where a third party's distribution would put its plugins."""
    import twisted.plugins

    directory = tmp_path / "twisted" / "plugins"
    directory.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        twisted.plugins, "__path__", [str(directory), *twisted.plugins.__path__]
    )
    before = set(sys.modules)
    yield directory
    for name in set(sys.modules) - before:
        if name.startswith("twisted.plugins."):
            del sys.modules[name]


def test_a_policy_of_another_package_is_found(plugin_directory: Path) -> None:
    text = PLUGIN.format(name="theirs", module="their.policies")
    (plugin_directory / "their_policies.py").write_text(text)
    assert "theirs" in known_policies()
    assert type(find_policy("theirs")).__name__ == "Theirs"
    assert configure(name="theirs").policy.name == "theirs"


def test_two_policies_of_one_name_are_told(plugin_directory: Path) -> None:
    for module in "first", "second":
        text = PLUGIN.format(name="twin", module=f"{module}.policies")
        (plugin_directory / f"{module}_policies.py").write_text(text)
    with pytest.raises(PolicyLookupError) as caught:
        find_policy("twin")
    assert str(caught.value) == (
        'two policies are called "twin", in first.policies and second.policies'
    )
    assert complaint(name="twin").endswith("second.policies; uninstall one of the two")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            {"quantum": -1},
            "policy.quantum: must be 0 or more, not -1; "
            "change it, or leave it out for the default",
        ),
        ({"max_wait": 5}, "policy.max_wait: unknown key; did you mean max_wait_secs?"),
    ],
)
def test_a_bad_setting_of_cost_aware_is_told(policy: dict[str, object], expected: str) -> None:
    assert complaint(name="cost_aware", **policy) == expected
