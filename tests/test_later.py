"""Classes of `flowstore.later` are as attrs makes them, once there is an object of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from flowstore import later
from support.processes import python, told


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


def test_the_first_object_finishes_its_class():
    """It takes arguments, has defaults and is frozen, like those after it."""
    _, derived = classes()
    one, other = derived(number=1, text="one"), derived(number=2)
    assert (one.number, one.names, one.text, other.text) == (1, [], "one", "none")
    assert one.names is not other.names
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.number = 3
    assert attrs.evolve(one, number=4).number == 4


def test_wrong_arguments_are_errors_of_the_class():
    """The first call fails as later ones do, and finishes the class as well."""
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


def test_importing_flowstore_imports_no_attrs():
    """Which takes as long as all else of it."""
    assert told(python("import sys, flowstore; print('attr' in sys.modules)")).split() == ["False"]
