"""Orders and reports as plain values: everything in them comes back, whatever carries them."""

from __future__ import annotations

import attrs
import pytest

from flowstore.flow.decorators import Catch
from flowstore.run.orders import (
    Failure,
    Inline,
    OpenSplit,
    Order,
    Report,
    RunFacts,
    decode_order,
    decode_report,
    encode_order,
    encode_report,
)
from flowstore.run.plan import Outcome
from flowstore.store.cards import RenderedCard
from flowstore.store.codecs import encode
from flowstore.store.description import NewBlob

RUN = RunFacts(
    flow="F",
    run_id=7,
    store="/somewhere/flowstore.db",
    trusted=True,
    max_num_splits=9,
    parameters={"small": Inline("json", b"1"), "large": None},
    constants=["C"],
    current={"namespace": None, "project_name": "p"},
    with_=["card:type=blank"],
)
FOREACH = OpenSplit("foreach", 3, 4, "xs", 2, Inline("json", b'"x"'))
ORDER = Order(
    run=RUN,
    step="body",
    task_id=12,
    attempt=1,
    last_attempt=False,
    base_id=4,
    splits=[FOREACH],
    inputs=[(5, "a"), (6, "b")],
    joined=OpenSplit("gang", 2, 3),
    node_index=1,
    num_nodes=2,
    first_node_id=11,
    main_ip="10.0.0.1",
    tags=["t"],
    environment={"A": "b"},
    secrets={"TOKEN": "t"},
    timeout_s=1.5,
    catch=Catch(var="why", print_exception=False),
    fallback=Failure("TaskDied", "it died", "it died"),
    values={"rate": ("json", b"0.1")},
)
REPORT = Report(
    status="successful",
    outcome=Outcome(("a", "b"), 3, gang=True, items_from="xs"),
    items=[Inline("json", b"1"), Inline("pickle", b"\x80")],
    shown=["1", None],
    artifacts={
        "small": NewBlob(encode({"score": 0.5}).description, data=b'{"score": 0.5}'),
        "large": NewBlob(encode(b"x" * 100_000).description, sha=b"\x00" * 32),
    },
    merged={"m": 3},
    deleted=["d"],
    failure=Failure("ValueError", "no", "Traceback …"),
    died=True,
    imported={"numpy": "2.3"},
    cards=[RenderedCard(1, "blank", "id", NewBlob(encode(b"<p>").description, data=b"<p>"), b"{}")],
)


def as_lists(value):
    """What a format makes of plain values that has no tuples; fails for what is not plain."""
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        return {key: as_lists(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_lists(item) for item in value]
    assert value is None or type(value) in (bool, int, float, str, bytes), value
    return value


def parts(value):
    """A value, and the values in it, as lists and dicts that can be compared."""
    if attrs.has(type(value)):
        return {field.name: parts(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, dict):
        return {key: parts(item) for key, item in value.items()}
    return [parts(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("carry", [lambda plain: plain, as_lists], ids=["as it is", "without tuples"])
def test_an_order_comes_back(carry):
    """An order is the same after it was encoded and decoded, each field of it."""
    assert parts(decode_order(carry(encode_order(ORDER)))) == parts(ORDER)
    plain = Order(run=RUN, step="start", task_id=1)
    assert parts(decode_order(carry(encode_order(plain)))) == parts(plain)


@pytest.mark.parametrize("carry", [lambda plain: plain, as_lists], ids=["as it is", "without tuples"])
def test_a_report_comes_back(carry):
    """A report is the same after it was encoded and decoded, each field of it."""
    assert parts(decode_report(carry(encode_report(REPORT)))) == parts(REPORT)
    assert parts(decode_report(carry(encode_report(Report(status="stopped"))))) == parts(Report(status="stopped"))


def test_every_field_is_tried():
    """The examples above give each field another value than its default."""
    for example in (ORDER, REPORT, FOREACH):
        for field in attrs.fields(type(example)):
            default = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default
            assert parts(getattr(example, field.name)) != parts(default), field.name


@pytest.mark.parametrize("damage", [{}, ["failed"], "artifacts", "more", 7], ids=str)
def test_what_is_not_a_report(damage):
    """A message of another form is refused with one kind of error."""
    plain = encode_report(REPORT)
    plain = {"artifacts": [*plain[:4], [1], *plain[5:]], "more": [*plain, 1]}.get(str(damage), damage)
    with pytest.raises(ValueError, match="this is not a report"):
        decode_report(plain)
