"""These tests compare edits of a body with json.loads and plain dictionaries."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable
from time import thread_time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Cooperator
from twisted.trial.unittest import SynchronousTestCase

from llmux.proxy.model_name.find import find_model
from llmux.proxy.naming import json_members
from llmux.proxy.naming.body_edit import edit_body
from llmux.proxy.naming.body_plan import BodyPlan, EditStep, body_plan
from llmux.proxy.refusals import BodyNotEdited
from llmux.web.body import BodyStorage, RequestBody
from tests.conftest import measures_time

case = SynchronousTestCase()

Pairs = list[tuple[str, Any]]

KEYS = ["model", "top_k", "t", "a\u00e9", "\U0001f600", 'q"\\', "n"]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.text(max_size=6)
    | st.sampled_from(['"', "\\", '\\"', "model", '{"model": 1}', "]", "}{", "\u00e9"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=12,
)
BLANKS = st.sampled_from(["", " ", "\n\t", "   "])


def edited(
    plan: BodyPlan | None, body: RequestBody, content_type: bytes | None = None
) -> RequestBody:
    """Return the edited body, whether it is made at once or in turns."""
    assert plan is not None
    turns: list[Callable[[], None]] = []
    later: Any = turns.append
    result = edit_body(plan, body, content_type, Cooperator(lambda: lambda: True, later))
    if isinstance(result, Deferred):
        while turns:
            turns.pop()()
        return case.successResultOf(result)
    return result


def whole(body: RequestBody) -> bytes:
    with body.open() as reader:
        data = reader.read()
    assert len(data) == body.length
    body.close()
    return data


def in_both_places(data: bytes) -> list[RequestBody]:
    return [RequestBody.of(data), RequestBody.from_file(BodyStorage().spool(data), len(data))]


def changed(data: bytes, steps: list[EditStep], model: str | None) -> bytes:
    memory, file = (
        whole(edited(body_plan(steps, model), body)) for body in in_both_places(data)
    )
    assert memory == file
    return memory


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Draw an object as text: keys may be there twice, and be spelt in any way."""

    def blank() -> str:
        return draw(BLANKS)

    def spelt(text: str) -> str:
        if draw(st.booleans()):
            return json.dumps(text, ensure_ascii=draw(st.booleans()))
        units = text.encode("utf-16-be")
        numbers = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
        return '"' + "".join(f"\\u{number:04x}" for number in numbers) + '"'

    pairs: Pairs = draw(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=6))
    pairs.insert(draw(st.integers(0, len(pairs))), ("model", draw(st.sampled_from("ab"))))
    members = (
        f"{blank()}{spelt(key)}{blank()}:{blank()}"
        f"{json.dumps(value, ensure_ascii=draw(st.booleans()))}{blank()}"
        for key, value in pairs
    )
    return blank() + "{" + ",".join(members) + "}" + blank()


STEPS = st.lists(
    st.builds(
        EditStep,
        strip=st.lists(st.sampled_from(KEYS[1:]), max_size=2),
        defaults=st.dictionaries(st.sampled_from(KEYS[1:]), VALUES, max_size=2),
        set=st.dictionaries(st.sampled_from(KEYS[1:]), VALUES, max_size=2),
    ),
    max_size=2,
)


def plainly(document: dict[str, Any], steps: list[EditStep], model: str | None) -> Any:
    """Make the same edits on a dictionary."""
    document = dict(document)
    for step in steps:
        for key in step.strip:
            document.pop(key, None)
        document = {**step.defaults, **document, **step.set}
    if model is not None:
        document["model"] = model
    return document


def first_of_each(pairs: Pairs) -> dict[str, Any]:
    """Take the first of several members with the same key, as some parsers do."""
    return dict(reversed(pairs))


@given(
    st.sampled_from([1, 60, 70, 8192]),
    documents(),
    STEPS,
    st.none() | st.sampled_from(["Qwen/Q", '"\u00e9']),
)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_an_edited_object_is_what_a_dictionary_would_be(
    piece: int, document: str, steps: list[EditStep], model: str | None
) -> None:
    """
    This holds however the document is cut into pieces, and whichever of several members counts.
    """
    plan = body_plan(steps, model)
    if plan is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        # The pieces are no smaller than the longest key that is looked for.
        longest = 6 * max(map(len, plan.fates)) + 3
        patch.setattr(json_members, "_MEMBERS_STEP", max(piece, longest))
        text = changed(document.encode(), steps, model)
    assert json.loads(text) == plainly(json.loads(document), steps, model)
    if model is not None:
        first = json.loads(document, object_pairs_hook=first_of_each)
        again = json.loads(text, object_pairs_hook=first_of_each)
        assert again["model"] == model
        assert again.keys() == plainly(first, steps, model).keys()


def test_what_does_not_change_stays_byte_for_byte() -> None:
    data = (
        b'\xef\xbb\xbf {"x": 1e999, "big": 123456789012345678901234567890.10, "top_k":\t5,'
        b' "s": "\\u00e9\\/\xc3\xa9", "n": NaN , "model": "a", "x" : -0.0}\n'
    )
    step = EditStep(["top_k"], {"max_tokens": 7}, {"t": 0.5})
    assert changed(data, [step], "b") == (
        b'\xef\xbb\xbf {"x": 1e999, "big": 123456789012345678901234567890.10,'
        b' "s": "\\u00e9\\/\xc3\xa9", "n": NaN , "model":"b", "x" : -0.0'
        b',"max_tokens":7,"t":0.5}\n'
    )


@pytest.mark.parametrize(
    ("data", "step", "model", "expected"),
    [
        (b'{"model":"a"}', EditStep([], {}, {}), "b", b'{"model":"b"}'),
        (b'{"model" : "a\\"","x":1}', EditStep([], {}, {}), "b", b'{"model" :"b","x":1}'),
        # There is a single such word, but it is not the key.
        (b'{"\\u006dodel":"a","x":"model"}', None, "b", b'{"\\u006dodel":"b","x":"model"}'),
        (b'{"model":1,"model":"a"}', None, "b", b'{"model":"b","model":"b"}'),
        (b'{"x":1,"y":2,"model":"a"}', EditStep("xy", {}, {}), None, b'{"model":"a"}'),
        (b'{"model":"a","x":1,"y":2}', EditStep("xy", {}, {}), None, b'{"model":"a"}'),
        (b'{"x":1,"model":"a","x":[2]}', EditStep("x", {}, {}), None, b'{"model":"a"}'),
        (
            b'{"model":"a","x":null}',
            EditStep([], {"x": 1}, {}),
            None,
            b'{"model":"a","x":null}',
        ),
        (b'{"x":2,"model":"a"}', EditStep("x", {"x": 1}, {}), None, b'{"x":1,"model":"a"}'),
    ],
)
def test_an_edit_changes_the_keys_it_names_and_nothing_else(
    data: bytes, step: EditStep | None, model: str | None, expected: bytes
) -> None:
    assert changed(data, [] if step is None else [step], model) == expected


def test_a_variants_steps_come_after_the_models() -> None:
    base = EditStep(["a"], {"b": 1, "c": 1}, {"d": 1})
    variant = EditStep(["c"], {"a": 2}, {"d": 2, "b": None})
    text = changed(b'{"model":"m","a":0,"d":0}', [base, variant], None)
    assert json.loads(text) == {"model": "m", "a": 2, "b": None, "d": 2}


def test_no_steps_and_no_name_are_no_plan() -> None:
    assert body_plan([EditStep([], {}, {})], None) is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"a","x":1' + b',"model":"a"' * 2000 + b"}",
        b'{"model":"a","\\u0078":1' + b',"y":1' * 100_001 + b"}",
        b'{"model":"a","x":1,}',
        b'{"model":"a","x"',
        b'{"model":"a","x":[1}' + b" " * 9000,
        b'["model","a"]',
        b"   ",
        b'{"model":"a\\',
    ],
)
def test_what_cannot_be_edited_is_refused(data: bytes) -> None:
    plan = body_plan([EditStep(["x"], {}, {})], "b")
    for body in in_both_places(data):
        with pytest.raises(BodyNotEdited) as refused:
            failed = edited_or_failure(plan, body)
            raise failed
        assert refused.value.error.status == 400
        body.close()


def edited_or_failure(plan: BodyPlan | None, body: RequestBody) -> BaseException:
    assert plan is not None
    turns: list[Callable[[], None]] = []
    later: Any = turns.append
    result = edit_body(plan, body, None, Cooperator(lambda: lambda: True, later))
    assert isinstance(result, Deferred)
    while turns:
        turns.pop()()
    error: BaseException = case.failureResultOf(result).value
    return error


def test_a_client_that_leaves_ends_the_edit() -> None:
    data = b'{"model":"a","x":[' + b"[]," * 3_000_000 + b"1]}"
    body = RequestBody.from_file(BodyStorage().spool(data), len(data))
    plan = body_plan([EditStep(["x"], {}, {})], None)
    assert plan is not None
    turns: list[Callable[[], None]] = []
    later: Any = turns.append
    result = edit_body(plan, body, None, Cooperator(lambda: lambda: True, later))
    assert isinstance(result, Deferred)
    result.cancel()
    case.failureResultOf(result, CancelledError)
    body.close()
    while turns:
        turns.pop()()


_BRACKETS = re.compile(rb"[][{},:]")
_YARDSTICK = b'"a":[],' * 4000


def yardstick() -> float:
    """
    Return the CPU seconds of some work that is like the work of an edit, so that limits hold on
    machines of any speed, and while others slow this one down.
    """
    began = thread_time()
    depth = 0
    for match in _BRACKETS.finditer(_YARDSTICK):
        bracket = match.group()
        if bracket == b"[":
            depth += 1
        elif bracket == b"]":
            depth -= 1
        elif not depth:
            match.start()
    return thread_time() - began


def steps_of_an_edit(plan: BodyPlan, data: bytes) -> list[float]:
    """Edit a body, one step a turn, and return the CPU seconds of each step."""
    turns: list[Callable[[], None]] = []
    later: Any = turns.append
    edit = edit_body(plan, RequestBody.of(data), None, Cooperator(lambda: lambda: True, later))
    assert isinstance(edit, Deferred)
    taken = []
    # A collection would come in the same step each time, and take the longer the more objects
    # earlier tests have left.
    gc.disable()
    try:
        while turns:
            began = thread_time()
            turns.pop()()
            taken.append(thread_time() - began)
    finally:
        gc.enable()
    case.successResultOf(edit)
    return taken


@measures_time
@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (b'{"model":"q","a":"' + b"QUJD" * 250_000 + b'"}', 0.17),
        (b'{"model":"q","a":[' + b"[]," * 340_000 + b"1]}", 1.2),
        (b'{"model":"q","a":' + b"[" * 500_000 + b"]" * 500_000 + b"}", 2.3),
        (b'{"model":"q","a":[' + b"[[[[[[[[[[]]]]]]]]]]," * 50_000 + b"1]}", 1.6),
        (b'{"model":"q"' + b',"a":[]' * 90_000 + b"}", 2.0),
        (b'{"model":"q","a":"' + b"\\\\" * 500_000 + b'"}', 0.12),
        (b'{"model":"q","a":[' + b'"",' * 340_000 + b'""]}', 1.1),
    ],
)
def test_a_mebibyte_holds_nobody_up(
    data: bytes, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A turn of the reactor lasts at most L{TURN} and one step, and so no step may be long.

    Each step does the same work in each round, so its fastest round counts.

    @param limit: how often the yardstick's time the longest step may take: some 1.5 times what
        was measured, so that a step of twice the time fails.
    """
    # No step is made before the first turn.
    monkeypatch.setattr("llmux.proxy.naming.body_edit.TURN", -1.0)
    plan = body_plan([EditStep(["top_k"], {}, {"t": 1})], "b")
    assert plan is not None
    unit = min(yardstick() for _ in range(5))
    fastest = steps_of_an_edit(plan, data)
    for done in range(1, 20):
        unit = min(unit, *(yardstick() for _ in range(5)))
        fastest = list(map(min, fastest, steps_of_an_edit(plan, data)))
        if done >= 2 and max(fastest) < limit * unit:
            return
    pytest.fail(f"a step takes {max(fastest) / unit:.2f} times the yardstick's {unit * 1e3} ms")


# ---------------------------------------------------------------------- forms

FORM = b"multipart/form-data; boundary=xyz"
NAMES = ["model", "file", "Model", "prompt"]


def part(name: str, value: bytes, filename: bool = False, charset: str | None = None) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"'
    head += '; filename="f"' if filename else ""
    head += f"\r\nContent-Type: text/plain; charset={charset}" if charset else ""
    return b"--xyz\r\n" + head.encode() + b"\r\n\r\n" + value + b"\r\n"


PARTS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from([b"", b"a", b"\r\n--xy", b"\r\n", b"--xyz", b"x" * 70_000]),
        st.booleans(),
        st.sampled_from([None, "utf-8", "iso-8859-1"]),
    ),
    max_size=5,
)


@given(PARTS, st.sampled_from([b"", b"preamble\r\n"]))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_forms_model_is_replaced_and_nothing_else(
    parts: list[tuple[str, bytes, bool, str | None]], preamble: bytes
) -> None:
    model = "org/m\u00e9"

    def form(put: bool) -> bytes:
        text = preamble
        for name, value, filename, charset in parts:
            if put and name == "model" and not filename:
                value = model.encode("latin-1" if charset == "iso-8859-1" else "utf-8")
            text += part(name, value, filename, charset)
        return text + b"--xyz--\r\n"

    for body in in_both_places(form(False)):
        told = whole(edited(body_plan([EditStep(["file"], {}, {})], model), body, FORM))
        assert told == form(True)
        if parts and any(name == "model" and not filename for name, _, filename, _ in parts):
            assert find_model(RequestBody.of(told), FORM) == model


def test_of_a_form_only_the_model_is_changed() -> None:
    form = part("top_k", b"1") + part("model", b"a") + b"--xyz--"
    plan = body_plan([EditStep(["top_k"], {"x": 1}, {"y": 1})], None)
    assert whole(edited(plan, RequestBody.of(form), FORM)) == form


@pytest.mark.parametrize("cut", range(1, 90))
def test_a_broken_form_is_looked_at_up_to_where_it_breaks(cut: int) -> None:
    form = (part("model", b"a") + part("x", b"1") + b"--xyz--")[:cut]
    told = whole(edited(body_plan([], "b"), RequestBody.of(form), FORM))
    value = form.find(b"\r\n\r\na\r\n--xyz")
    assert told == (form if value < 0 else form[: value + 4] + b"b" + form[value + 5 :])


def test_a_body_that_begins_like_json_is_json_whatever_its_type() -> None:
    assert whole(edited(body_plan([], "b"), RequestBody.of(b' {"model": "a"}'), FORM)) == (
        b' {"model":"b"}'
    )
