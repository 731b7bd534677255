"""
This module finds the policies that are installed, by their names.

Policies are Twisted plugins, those of llmux as well as those of others: a module
under C{twisted/plugins} holds an instance of an L{ISwitchPolicyFactory}.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.plugin import getPlugins

from llmux.interfaces import ISwitchPolicyFactory
from llmux.similar_names import most_similar

__all__ = ["PolicyLookupError", "find_policy", "known_policies", "policies_with_setting"]


class PolicyLookupError(LookupError):
    """
    No policy has this name, or more than one policy has it.

    @ivar remedy: a sentence that says what the user can do.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


def find_policy(name: str) -> ISwitchPolicyFactory:
    """
    Find the factory that has this name.

    @raise PolicyLookupError: no factory has the name, or several have.
    """
    # Without a writable dropin.cache getPlugins imports every plugin that is installed,
    # Twisted's own included, which takes longer than all the rest of starting up.  So our own
    # policies are tried first.
    for factory in _our_factories():
        if factory.name == name:
            return factory
    found = [factory for factory in _all_factories() if factory.name == name]
    if len(found) > 1:
        modules = " and ".join(sorted(type(factory).__module__ for factory in found))
        raise PolicyLookupError(
            f'two policies are called "{name}", in {modules}',
            "uninstall one of the two",
        )
    if not found:
        known = known_policies()
        close = most_similar(name, known)
        meant = f"did you mean {close}? " if close else ""
        raise PolicyLookupError(
            f'no policy is called "{name if name.isprintable() else ascii(name)}"',
            f"{meant}known: {', '.join(known)}",
        )
    return found[0]


def known_policies() -> list[str]:
    """Return the names of all policies that are installed, sorted."""
    return sorted({factory.name for factory in _all_factories()})


def policies_with_setting(key: str) -> list[str]:
    """Return the names of the policies that have a setting of this name, sorted."""
    return sorted(
        factory.name
        for factory in _all_factories()
        if factory.settings is not None and key in factory.settings.__struct_encode_fields__
    )


def _our_factories() -> Iterable[ISwitchPolicyFactory]:
    from twisted.plugins import llmux_policies

    for value in vars(llmux_policies).values():
        if ISwitchPolicyFactory.providedBy(value):
            yield value


def _all_factories() -> list[ISwitchPolicyFactory]:
    return list(getPlugins(ISwitchPolicyFactory))
