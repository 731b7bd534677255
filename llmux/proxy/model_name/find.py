"""This module finds the model that a request names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Cooperator, TaskStopped

from llmux.proxy.long_work import turn_that_begins
from llmux.proxy.model_name.form import BodyScan
from llmux.proxy.model_name.lenient import BLANKS, sound_text, without_mark
from llmux.web.body import RequestBody
from llmux.web.limits import SCAN_ABOVE

__all__ = ["find_model", "scan_on_arrival"]

_SEARCH_STEP = 16 * 1024
"""This many bytes are searched between two looks at the clock."""


scan_on_arrival = partial(BodyScan, gives_up=True)
"""This is the L{ScanFactory<llmux.web.body.ScanFactory>} of a site in front of models."""


class _Named(msgspec.Struct):
    model: Any = None


_decode = msgspec.json.Decoder(_Named).decode


def find_model(
    body: RequestBody, content_type: bytes | None, cooperator: Cooperator | None = None
) -> str | Deferred[str | None] | None:
    """
    Return the value of the key C{model} at the top of a JSON object (the last, if there are
    several), or of the field C{model} of a form.

    A parser that accepts the body sees the same model in it.  For a body that is no sound JSON
    or form the answer is None; but some large bodies that are not sound are not found out (see
    L{llmux.proxy.model_name.json_scan}).

    @param cooperator: the Cooperator that searches large bodies in several turns of the
        reactor, if they were not searched as they came.
    @return: the model, or None if the body names none; for a large body, a L{Deferred} of that.
        The body must not be closed until the Deferred has fired.
    """
    data = body.in_memory()
    if data is None or len(data) > SCAN_ABOVE:
        scan = body.scan
        if isinstance(scan, BodyScan):
            return scan.finish()
        return _search_in_turns(body, content_type, cooperator or _cooperator)
    if not data:
        return None
    try:
        model = _decode(data).model
    except msgspec.ValidationError:
        # The body is JSON, but not an object.
        return None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        found: str | object | None = _search(data, content_type)
        if found is _NOT_YET:
            return _search_in_turns(body, content_type, cooperator or _cooperator)
        return cast("str | None", found)
    return model if type(model) is str else None


_NOT_YET = object()


def _search(data: bytes, content_type: bytes | None) -> str | object | None:
    """
    Search a body that is no JSON to msgspec: other parsers may accept it, or it may be a form.

    @return: the model, None, or C{_NOT_YET} if the search would take too long.
    """
    text = without_mark(data).lstrip(BLANKS)
    if text.startswith(b"{"):
        if len(data) > _SEARCH_STEP:
            return _NOT_YET
        try:
            document = json.loads(data)
        except RecursionError:
            pass
        except ValueError:
            return None
        else:
            model: object = document.get("model")
            if not isinstance(model, str):
                return None
            return sound_text(model)
    scan = BodyScan(content_type)
    scan.feed(data)
    return scan.finish()


def _search_in_turns(
    body: RequestBody, content_type: bytes | None, cooperator: Cooperator
) -> Deferred[str | None]:
    scan = BodyScan(content_type)

    def pieces() -> Iterator[None]:
        at = 0
        while piece := body.piece(at, _SEARCH_STEP):
            scan.feed(piece)
            at += len(piece)
            yield

    task = cooperator.cooperate(pieces())
    found: Deferred[str | None] = Deferred(lambda _: task.stop())
    task.whenDone().addCallbacks(
        lambda _: found.callback(scan.finish()),
        lambda failure: None if failure.check(TaskStopped) else found.errback(failure),
    )
    return found


_cooperator = Cooperator(turn_that_begins)
