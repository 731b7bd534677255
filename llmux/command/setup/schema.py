"""
C{llmux schema} prints the JSON schema of the configuration.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from twisted.python import usage

__all__ = ["SchemaOptions", "schema_text"]


class SchemaOptions(usage.Options):
    """This class parses the options that stand after C{llmux schema}."""

    longdesc = (
        "Print the JSON schema of the configuration, which editors complete from: write it to "
        "a file beside the configuration, and begin the configuration with the line "
        '"# yaml-language-server: $schema=FILE".'
    )
    parent: Any = None

    def __init__(self) -> None:
        usage.Options.__init__(self)

    def getSynopsis(self) -> str:
        """Return the first line of the help."""
        return "Usage: llmux schema [options]"

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        self.parent.opt_version()
        raise AssertionError("it has not exited")

    def run(self) -> int:
        """Print the schema, and return the exit status 0."""
        print(schema_text(), end="")
        return 0


def schema_text() -> str:
    """Return the schema as the text of a file."""
    from llmux.config.json_schema import configuration_schema

    return json.dumps(configuration_schema(), indent=2) + "\n"
