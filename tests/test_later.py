"""Classes of `flowstore.later` are as attrs makes them, once there is an object of them."""

from __future__ import annotations

import functools
import inspect
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from flowstore import later
from support.cli import ended, started
from support.flows import LINEAR, flow_source


def classes():
    """A class and one that derives from it, new each time."""

    @later.frozen
    class Base:
        number: int
        names: list = later.field(factory=list)

        def __attrs_post_init__(self):
            if self.number < 0:
                raise ValueError("negative")

    @later.frozen(kw_only=True)
    class Derived(Base):
        text: str = "none"

    return Base, Derived


def a_point():
    """A class that can be compared and printed, new each time."""

    @later.frozen(eq=True, repr=True)
    class Point:
        x: int
        y: int = 0
        seen: list = later.field(factory=list, repr=False)

    return Point


def test_an_object_is_as_attrs_makes_it():
    """It takes arguments, has defaults and is frozen."""
    _, derived = classes()
    one, other = derived(number=1, text="one"), derived(number=2)
    assert (one.number, one.names, one.text, other.text) == (1, [], "one", "none")
    assert one.names is not other.names
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.number = 3
    assert attrs.evolve(one, number=4).number == 4


def test_objects_are_the_same_before_attrs_and_after():
    """Also after attrs has completed their class they are equal, and frozen."""
    point = a_point()
    first = [point(1), point(x=1, y=2), point(1, y=2, seen=[3])]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        first[0].x = 3
    later.complete(point)
    after = [point(1), point(x=1, y=2), point(1, y=2, seen=[3])]
    assert [vars(one) for one in first] == [vars(one) for one in after]
    assert first == after
    assert first[0].seen is not after[0].seen
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        first[0].x = 3


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda point: point(1) == point(1), True),
        (lambda point: point(1) != point(2), True),
        (lambda point: repr(point(1)), "Point(x=1, y=0)"),
        (lambda point: attrs.asdict(point(1)), {"x": 1, "y": 0, "seen": []}),
        (lambda point: later.as_dict(point(1)), {"x": 1, "y": 0, "seen": []}),
        (lambda point: vars(later.evolve(point(1), y=3)), {"x": 1, "y": 3, "seen": []}),
        (lambda point: [*later.names(point)], ["x", "y", "seen"]),
        (lambda point: [*inspect.signature(point).parameters], ["x", "y", "seen"]),
        (attrs.has, True),
    ],
)
def test_what_attrs_adds_is_there_at_once(ask, answer):
    """Comparing and printing, and what attrs' own functions and others read."""
    assert ask(a_point()) == answer


@pytest.mark.parametrize(
    ("args", "given", "error"),
    [
        ((), {}, "missing 1 required positional argument: 'x'"),
        ((1, 2, [], 4), {}, "takes from 2 to 4 positional arguments but 5 were given"),
        ((1,), {"x": 2}, "got multiple values for argument 'x'"),
        ((1,), {"z": 2}, "got an unexpected keyword argument 'z'"),
    ],
)
def test_wrong_calls_are_told_as_attrs_does(args, given, error):
    """Also where attrs has not completed the class yet."""
    with pytest.raises(TypeError, match=error):
        a_point()(*args, **given)


def test_what_an_object_has_computed_is_no_field():
    """A copy computes it again."""

    @later.frozen
    class Text:
        text: str

        @functools.cached_property
        def length(self):
            return len(self.text)

    text = Text("four")
    assert text.length == 4
    assert later.evolve(text, text="three").length == 5


def test_attrs_completes_a_class_that_makes_many_objects():
    """Since each costs less then."""
    point = a_point()
    objects = [point(number) for number in range(later.WORTHWHILE + 1)]
    assert isinstance(vars(point)["__attrs_attrs__"], tuple)
    assert [one.x for one in objects] == [*range(later.WORTHWHILE + 1)]


def test_wrong_arguments_are_errors_of_the_class():
    """The first call fails as later ones do, and completes the class as well."""
    base, _ = classes()
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        base(1, other=2)
    with pytest.raises(ValueError, match="negative"):
        base(-1)
    assert base(1).number == 1


def test_what_a_class_has_is_known_before():
    """Its fields can be asked for without an object."""
    base, derived = classes()
    assert later.is_value(derived)
    assert not later.is_value(int)
    assert [field.name for field in later.fields(derived)] == ["number", "names", "text"]
    assert base(1).number == 1
    assert later.fields(int) == ()


def test_threads_that_make_the_first_object_at_once():
    """Each gets a whole one."""
    for _ in range(20):
        base, derived = classes()
        with ThreadPoolExecutor(8) as pool:
            objects = [*pool.map(lambda n, of=(base, derived): of[n % 2](number=n), range(16))]
        assert [one.number for one in objects] == [*range(16)]


def test_a_class_that_another_thread_completes():
    """At each moment its objects are compared and shown by their fields, and a process may fork."""
    points = [a_point() for _ in range(400)]
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(later.complete, *points)
        at = 0
        while not done.done():
            while at < len(points) - 1 and vars(points[at])["__attrs_attrs__"].__class__.__name__ == "PointAttributes":
                at += 1
            one, other = points[at](1), points[at](1)
            assert (one == other, "x=1" in repr(one), len(later.fields(type(one)))) == (True, True, 3)
            if at % 20 == 0:
                assert child(lambda: later.complete(*points)) == 0
    assert all(isinstance(vars(point)["__attrs_attrs__"], tuple) for point in points)


def child(work):
    """The exit code of a forked process that does some work within 20 s."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        work()
        os._exit(0)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize("words", [("flow.py", "run"), ("-m", "flowstore", "runs"), ("-m", "flowstore", "show", "F/1")])
def test_attrs_is_not_imported_for_a_few_objects(flow, words):
    """Importing it takes a seventh of what `flowstore tags` takes."""
    script = flow(flow_source(LINEAR).replace("import *", "import FlowSpec, step"))
    script("run")
    with started("-X", "importtime", *words, folder=script.folder) as process:
        stderr = ended(process).stderr
    assert "flowstore.later" in stderr
    assert "attr._make" not in stderr
