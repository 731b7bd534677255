"""This module has what the fuzzer finds."""

from __future__ import annotations

from dataclasses import dataclass

from tests.fuzz.case import Case

__all__ = ["Finding"]


@dataclass
class Finding:
    """
    A finding is something that is wrong.

    @ivar kind: the defect, in words that are the same for the same defect.
    @ivar number: the number of the input, as far as it is known.
    @ivar stream: the smallest stream that was found to cause the defect.
    """

    kind: str
    detail: str
    number: int | None
    case: Case | None
    stream: bytes | None = None
    times: int = 1
    seen_alone: bool = False
