"""
This module changes a request's body as the name in it asks: at once if that is quick, else in
several turns of the reactor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from time import perf_counter

from twisted.internet.defer import Deferred
from twisted.internet.task import Cooperator, TaskStopped

from llmux.proxy.model_name.form import FORM_TYPE
from llmux.proxy.model_name.lenient import BLANKS, without_mark
from llmux.proxy.naming.body_plan import BodyPlan
from llmux.proxy.naming.form_values import model_cuts
from llmux.proxy.naming.json_members import NoObject, TooManyMembers, find_members
from llmux.proxy.refusals import BodyNotEdited
from llmux.web.body import RequestBody
from llmux.web.error_reply import ApiError
from llmux.web.limits import TURN
from llmux.web.splicing import Cut, splice

__all__ = ["edit_body"]

_LOOKED_AT = 4096
"""In this many bytes the first one that is no blank shows whether a body is JSON."""
_MEMBER = re.compile(rb'"model"[ \t\r\n]*:([ \t\r\n]*"(?:[^"\\]|\\.)*"[ \t\r\n]*)')


def edit_body(
    plan: BodyPlan, body: RequestBody, content_type: bytes | None, cooperator: Cooperator
) -> RequestBody | Deferred[RequestBody]:
    """
    Return the body that the backend gets.  The old body must not be closed until this has been
    returned, and must not be read afterwards.

    In a JSON object all changes are made; in a form only that of C{model}.

    @param cooperator: the Cooperator that does this in several turns of the reactor if it takes
        longer.
    @raise BodyNotEdited: the body cannot be changed.  The L{Deferred} may fail
        with this as well.
    """
    data = body.in_memory()
    if data is not None and plan.names_only and plan.model is not None:
        cut = _only_name(data, plan.model)
        if cut is not None:
            return splice(body, (cut,))
    steps = _cuts(plan, body, content_type or b"")
    end = perf_counter() + TURN
    try:
        while perf_counter() < end:
            next(steps)
    except StopIteration as stop:
        return splice(body, stop.value)
    return _in_turns(steps, body, cooperator)


def _in_turns(
    steps: Generator[None, None, list[Cut]], body: RequestBody, cooperator: Cooperator
) -> Deferred[RequestBody]:
    cuts: list[Cut] = []

    def rest() -> Iterator[None]:
        cuts.extend((yield from steps))

    task = cooperator.cooperate(rest())
    edited: Deferred[RequestBody] = Deferred(lambda _: task.stop())
    task.whenDone().addCallbacks(
        lambda _: edited.callback(splice(body, cuts)),
        lambda failure: None if failure.check(TaskStopped) else edited.errback(failure),
    )
    return edited


def _only_name(data: bytes, model: str) -> Cut | None:
    """
    Find the name in an object, if there is no doubt where it is; else return None.  A model has
    been found in the object, so if C{"model"} occurs once, and nothing is written as C{\\u},
    that is the key.
    """
    if b"\\u" in data or data.count(b'"model"') != 1:
        return None
    member = _MEMBER.match(data, data.index(b'"model"'))
    return member and Cut(*member.span(1), json.dumps(model).encode())


def _cuts(
    plan: BodyPlan, body: RequestBody, content_type: bytes
) -> Generator[None, None, list[Cut]]:
    """Find out what to change, with a pause wherever others may have a turn."""
    is_form = content_type[: len(FORM_TYPE)].lower() == FORM_TYPE
    start = without_mark(body.piece(0, _LOOKED_AT)).lstrip(BLANKS)
    if is_form and start and not start.startswith(b"{"):
        if plan.model is None:
            return []
        return (yield from model_cuts(body, content_type, plan.model))
    try:
        members, total, close = yield from find_members(body, plan.fates.keys())
    except NoObject:
        raise BodyNotEdited(
            ApiError(400, "The body is no JSON object: it cannot be read to its end.")
        ) from None
    except TooManyMembers:
        raise BodyNotEdited(
            ApiError(
                400,
                "The body has too many keys, or too often the same one, to be changed as this "
                "model's configuration wants: send a JSON object without them.",
            )
        ) from None
    return plan.cuts(members, total, close)
