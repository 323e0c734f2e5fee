"""Values that are the same though their bytes differ: what a task only read stays, and branches of a join agree."""

from __future__ import annotations

import collections
import copy
import datetime as dt
import functools

import attrs
import numpy as np
import pandas as pd
import pytest

from flowstore.store.codecs import decode, encode
from flowstore.store.sameness import is_equal, is_unchanged
from support.flows import BRANCH, flow_source


class Point:
    """An object with parts."""

    def __init__(self, x, y):
        self.x, self.y = x, y


@attrs.define
class Pair:
    """An object that says itself when it equals another."""

    one: object
    two: object = attrs.field(default=None, eq=False)


class Slotted:
    """An object without a dict."""

    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


class Words(str):
    """A text of its own kind."""

    __slots__ = ()


class Bag(list):
    """A list with attributes."""


def bag(items, **attributes):
    made = Bag(items)
    vars(made).update(attributes)
    return made


def shared(x):
    return [x, x]


def circle(x):
    made = [x]
    made.append(made)
    return made


def forest(seed=0):
    from sklearn.ensemble import RandomForestClassifier

    x = np.random.RandomState(seed).rand(40, 3)
    return RandomForestClassifier(n_estimators=3, random_state=0).fit(x, x[:, 0] > 0.5)


def pipeline():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.random.RandomState(0).rand(40, 3)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(x, x[:, 0] > 0.5)


VALUES = {
    "tuple": lambda: (1, 2.5, "x", b"y", None, True, 3j),
    "nested": lambda: {"a": [{"b": (1, {2, 3})}]},
    "nan": lambda: [float("nan"), {"x": float("nan")}],
    "point": lambda: Point([1], {"y": 2}),
    "pair": lambda: Pair([1]),
    "slots": lambda: Slotted([1]),
    "words": lambda: Words("x"),
    "bag": lambda: bag([1, 2], note="x"),
    "shared": lambda: shared([1]),
    "circle": lambda: circle(1),
    "counter": lambda: collections.Counter("aab"),
    "ordered": lambda: collections.OrderedDict(a=1, b=2),
    "default": lambda: collections.defaultdict(list, a=[1]),
    "padded": lambda: np.array([(1, 2.0)], np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "range": lambda: [range(3), (range(5, 5), pd.RangeIndex(0, 9, 2))],
    "deque": lambda: collections.deque([1, 2], 5),
    "date": lambda: [dt.date(2020, 1, 1), dt.datetime(2020, 1, 1, tzinfo=dt.UTC)],
    "partial": lambda: functools.partial(int, base=2),
    "array": lambda: np.arange(6.0).reshape(2, 3),
    "fortran": lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "objects": lambda: np.array([1, "x", None], dtype=object),
    "structured": lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "masked": lambda: np.ma.array([1, 2, 3], mask=[0, 1, 0]),
    "scalar": lambda: np.float32(1.5),
    "rng": lambda: np.random.default_rng(3),
    "frame": lambda: pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [0.5, np.nan]}),
    "frames": lambda: {"x": [pd.DataFrame({"a": pd.Categorical(["u", "v"])}), pd.Series([1, 2], name="n")]},
    "index": lambda: [pd.PeriodIndex(["2020-01"], freq="M"), pd.MultiIndex.from_product([[1, 2], ["a"]])],
    "forest": forest,
    "pipeline": pipeline,
    "function": lambda: [len, Point],
    "lambda": lambda: eval("lambda x: x + 1"),
}
CHANGES = {  # two values that are not the same, whichever way one looks
    "another type": (lambda: 1, lambda: True),
    "a float for an int": (lambda: [1], lambda: [1.0]),
    "a zero's sign": (lambda: [0.0], lambda: [-0.0]),
    "a number": (lambda: [1, 2], lambda: [1, 3]),
    "a length": (lambda: (1,), lambda: (1, 2)),
    "a key": (lambda: {"a": 1}, lambda: {"b": 1}),
    "a key's type": (lambda: {1: 1}, lambda: {True: 1}),
    "an item's type": (lambda: {1}, lambda: {1.0}),
    "nothing and nan": (lambda: [None], lambda: [float("nan")]),
    "an attribute": (lambda: Point(1, 2), lambda: Point(1, 3)),
    "one attribute more": (lambda: bag([1]), lambda: bag([1], note=1)),
    "an object's type": (lambda: Words("x"), lambda: "x"),
    "a default": (lambda: collections.defaultdict(list), lambda: collections.defaultdict(set)),
    "a dtype": (lambda: np.arange(3), lambda: np.arange(3.0)),
    "a shape": (lambda: np.zeros((2, 3)), lambda: np.zeros((3, 2))),
    "a cell": (lambda: np.array([1, True], object), lambda: np.array([1, 1], object)),
    "a mask": (lambda: np.ma.array([1, 2], mask=[0, 1]), lambda: np.ma.array([1, 2], mask=[0, 0])),
    "an order that counts": (
        lambda: collections.OrderedDict(a=1, b=2),
        lambda: collections.OrderedDict(b=2, a=1),
    ),
    "a frame's cell": (lambda: pd.DataFrame({"a": [1]}), lambda: pd.DataFrame({"a": [2]})),
    "a frame's dtype": (lambda: pd.DataFrame({"a": [1]}), lambda: pd.DataFrame({"a": [1.0]})),
    "a frame's objects": (lambda: pd.DataFrame({"a": [1, "x"]}), lambda: pd.DataFrame({"a": [True, "x"]})),
    "a frame's index": (lambda: pd.DataFrame({"a": [1]}, [1]), lambda: pd.DataFrame({"a": [1]}, [2])),
    "a frame's names": (lambda: pd.DataFrame({"a": [1]}), lambda: pd.DataFrame({"a": [1]}).rename_axis("i")),
    "a frame's attrs": (lambda: pd.DataFrame({"a": [1]}), lambda: with_attrs(pd.DataFrame({"a": [1]}), u=1)),
    "a series' name": (lambda: pd.Series([1], name="a"), lambda: pd.Series([1], name="b")),
    "a model": (forest, lambda: forest(1)),
    "a parameter of a model": (forest, lambda: forest().set_params(n_jobs=2)),
    "a generator's state": (lambda: np.random.default_rng(3), lambda: drawn(np.random.default_rng(3))),
    "a function": (lambda: eval("lambda x: x + 1"), lambda: eval("lambda x: x + 2")),
    "a class": (lambda: Point, lambda: Pair),
}
LOOSE = {  # equal, but changed: the order of a dict, and what is one object
    "the order of a dict": (lambda: {"a": 1, "b": [2]}, lambda: {"b": [2], "a": 1}),
    "the order of a dict of another kind": (
        lambda: collections.defaultdict(list, a=1, b=2),
        lambda: collections.defaultdict(list, b=2, a=1),
    ),
    "the order of a nested dict": (lambda: Point({"a": 1, "b": 2}, 0), lambda: Point({"b": 2, "a": 1}, 0)),
    "two objects for one": (lambda: shared([1]), lambda: [[1], [1]]),
    "one object for two": (lambda: [[1], [1]], lambda: shared([1])),
    "what does not count": (lambda: Pair(1, "seen"), lambda: Pair(1, "unseen")),
    "the bounds of a range": (lambda: range(0, 10, 20), lambda: range(0, 5, 20)),
    "the bounds of an empty range": (lambda: [range(0)], lambda: [range(5, 5)]),
    "the bounds of an index": (lambda: pd.RangeIndex(0, 10, 20), lambda: pd.RangeIndex(0, 5, 20)),
    "the memory's order": (lambda: np.ones((2, 3)), lambda: np.asfortranarray(np.ones((2, 3)))),
}


def with_attrs(frame, **attributes):
    frame.attrs.update(attributes)
    return frame


def drawn(generator):
    generator.random()
    return generator


MODELS = {"forest", "pipeline", "a model", "a parameter of a model"}  # of a library that takes a second to import


def cases(values):
    return [pytest.param(name, marks=[pytest.mark.long] * (name in MODELS)) for name in values]


@pytest.mark.parametrize("name", cases(VALUES))
def test_a_value_is_what_it_was(name):
    """A value equals itself, a copy, another one made alike, and what comes back from its bytes, in both ways."""
    value, alike = VALUES[name](), VALUES[name]()
    encoded = encode(value)
    loaded = decode(encoded.codec, iter([encoded.content]), encoded.size_bytes)
    for other in (value, alike, loaded, copy.deepcopy(value)):
        assert is_equal(value, other)
        assert is_equal(other, value)
        assert is_unchanged(other, value)


@pytest.mark.parametrize("name", cases(CHANGES))
def test_a_changed_value_is_changed(name):
    """Whatever differs in type or content is neither equal nor unchanged, at any depth."""
    one, two = (make() for make in CHANGES[name])
    for wrap in (lambda x: x, lambda x: {"deep": [(x,)]}):
        for first, second in ((one, two), (two, one)):
            assert not is_equal(wrap(first), wrap(second))
            assert not is_unchanged(wrap(first), wrap(second))


@pytest.mark.parametrize("name", LOOSE)
def test_what_is_equal_may_have_changed(name):
    """Branches agree on equal values; a task that changed one has changed it, which is stored."""
    one, two = (make() for make in LOOSE[name])
    assert is_equal(one, two)
    assert not is_unchanged(one, two)


def test_what_cannot_be_compared_differs():
    """A value whose own methods raise is neither equal nor unchanged; a generator has no parts to look at."""
    assert not is_equal(iter([1].__iter__, 1), object.__new__(Slotted))
    assert not is_unchanged((x for x in ()), (x for x in ()))
    deep = functools.reduce(lambda inner, _: [inner], range(100_000), [])
    assert not is_equal(deep, functools.reduce(lambda inner, _: [inner], range(100_000), []))


MODEL = """
import numpy as np
from sklearn.ensemble import RandomForestClassifier
def model():
    x = np.random.RandomState(0).rand(40, 3)
    return RandomForestClassifier(n_estimators=3).fit(x, x[:, 0] > 0.5)
class Cached:
    def __init__(self): self.words = ["one", "two", "one" + ""]
    def use(self): return sorted(self.words)
"""
METHODS = [[], ["--start-method", "spawn"], ["--reuse-workers"]]


@pytest.mark.parametrize("options", METHODS)
@pytest.mark.quick("options0")
def test_a_model_that_was_only_used_is_stored_once(options, flow):
    """A branch that only predicts leaves the model as it was: the join agrees, and there is one artifact row."""
    source = flow_source(
        BRANCH,
        head=MODEL,
        start="self.model = model(); self.cached = Cached(); self.names = {'b': (1, 2), 'a': {3, 4}}",
        a="self.model.predict(np.zeros((1, 3))); self.cached.use(); self.names['a']",
        join="self.merge_artifacts(inputs)",
        end="assert self.model.predict(np.zeros((1, 3))).shape == (1,)",
    )
    script = flow(source)
    script("run", *options, timeout=300)
    rows = script.sql("select name, count(*) from artifact_values group by name order by name")
    assert rows == [("cached", 1), ("model", 1), ("names", 1)]


def test_a_model_that_was_changed_is_stored_as_changed(flow):
    """One attribute is enough: the branches disagree then, and the join's own choice is stored."""
    source = flow_source(
        BRANCH,
        head=MODEL,
        start="self.model = model()",
        a="self.model.note = 'mine'",
        b="self.model.predict(np.zeros((1, 3)))",
        join="self.model = inputs.a.model",
        end="assert self.model.note == 'mine'",
    )
    script = flow(source)
    script("run")
    assert script.sql("select step from artifact_values where name = 'model' order by step") == ["a", "start"] or (
        script.sql("select step from artifact_values where name = 'model' order by step") == ["a", "join", "start"]
    )
    script.rewrite(source.replace("self.model = inputs.a.model", "self.merge_artifacts(inputs)"))
    assert "disagree on model" in script("run", expect=1).stdout


AGREE = {
    "dicts in another order": ("{'x': 1, 'y': [2]}", "{'y': [2], 'x': 1}"),
    "pickled dicts in another order": ("{'x': {1}, 'y': len}", "{'y': len, 'x': {1}}"),
    "sets filled in another order": ("set(map(str, range(50)))", "set(map(str, reversed(range(50))))"),
    "nan": ("float('nan')", "-float('nan')"),
    "objects": ("Cached()", "Cached()"),
    "arrays with nan": ("np.array([1, np.nan])", "np.array([1, np.nan])"),
    "arrays in another memory order": ("{'x': np.ones((2, 2))}", "{'x': np.ones((2, 2)) * 1.0}"),
}
DISAGREE = {
    "another type": ("1", "True"),
    "another number": ("{'x': {1}}", "{'x': {2}}"),
    "lists in another order": ("[1, 2]", "[2, 1]"),
    "what can't be loaded": ("Unloadable(1)", "Unloadable(2)"),
}


@pytest.mark.parametrize("options", [[], ["--start-method", "spawn"]])
@pytest.mark.quick("options0")
def test_equal_values_agree(options, flow):
    """A join carries over what is of one type and equal in all branches, whatever its bytes are."""
    names = {f"v{at}": pair for at, pair in enumerate(AGREE.values())}
    script = flow(
        flow_source(
            BRANCH,
            head=MODEL,
            a="; ".join(f"self.{name} = {one}" for name, (one, _) in names.items()),
            b="; ".join(f"self.{name} = {two}" for name, (_, two) in names.items()),
            join="self.merge_artifacts(inputs)",
        )
    )
    script("run", *options, timeout=300)
    assert {artifact.id for artifact in script.client().end_task} == set(names)


def test_other_values_disagree(flow):
    """The message names each artifact on which the branches differ, and no other."""
    head = """
    class Unloadable:
        def __init__(self, x): self.x = x
        def __reduce__(self): return failing, (self.x,)
    def failing(x): raise RuntimeError
    """
    names = {f"v{at}": pair for at, pair in enumerate(DISAGREE.values())}
    script = flow(
        flow_source(
            BRANCH,
            head=head,
            a="self.same = {'x': 1, 'y': 2}; " + "; ".join(f"self.{name} = {one}" for name, (one, _) in names.items()),
            b="self.same = {'y': 2, 'x': 1}; " + "; ".join(f"self.{name} = {two}" for name, (_, two) in names.items()),
            join="self.merge_artifacts(inputs)",
        )
    )
    assert "the branches disagree on v0, v1, v2, v3." in script("run", expect=1).stdout


SELECTED = {
    "exclude='the_same'": ["same", "x"],
    "exclude=['the_same']": ["same", "x"],
    "exclude={'the_same', 'x'}": ["same"],
    "exclude=(name for name in ['the_same', 'x'])": ["same"],
    "exclude=None": ["same", "the_same", "x"],
    "exclude=''": ["same", "the_same", "x"],
    "include='same'": ["same"],
    "include=['x', 'same']": ["same", "x"],
    "include=[]": ["same", "the_same", "x"],
}
MISTAKEN = {
    "exclude=b'x'": "takes names of artifacts, not 120",
    "exclude=[1]": "takes names of artifacts, not 1",
    "include=[self]": "takes names of artifacts, not ",
    "include=['nowhere']": "no branch has nowhere",
    "include='x', exclude='same'": "not both",
}


@pytest.mark.parametrize("options", [*SELECTED, *MISTAKEN])
def test_names_to_merge(options, flow):
    """One text is one name; what is no text is a mistake that says so."""
    script = flow(
        flow_source(
            BRANCH,
            start="self.same = 1; self.the_same = 2; self.x = 3",
            join=f"self.merge_artifacts(inputs, {options})",
        )
    )
    result = script("run", expect=0 if options in SELECTED else 1)
    if options in SELECTED:
        assert sorted(artifact.id for artifact in script.client().end_task) == SELECTED[options]
    else:
        assert MISTAKEN[options] in result.stdout
