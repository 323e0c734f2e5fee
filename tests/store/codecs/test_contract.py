"""What every codec of the registry promises; a new codec adds its values to `CASES`, and is tested like the others."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import pickle
import sys

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowstore.errors import ArtifactError
from flowstore.store import codecs
from flowstore.store.codecs import REGISTRY, Codec
from flowstore.store.description import Description
from support.processes import python, told


@attrs.frozen
class Case:
    """Values of one codec, as sources.

    Attributes:
        values: sources of values that it takes.
        declined: sources of values of its libraries that it can't bring back, which are pickled.
        damage: whether changed bytes can be told from others: one byte more or less of `bytes` is a value, too.
    """

    values: tuple[str, ...]
    declined: tuple[str, ...] = ()
    damage: bool = True


XARRAY = "import numpy as np, pandas as pd, xarray as xr; "
DATASET = (
    "xr.Dataset({'t': (('x', 'y'), np.arange(6.0).reshape(2, 3), {'units': 'K', 'range': (0, 9)}), 'n': ('x', [1, 2])},"
    " coords={'y': [10, 20, 30], 'x': ['p', 'q'], 'lat': ('x', [0.5, 1.5])}, attrs={'title': 'test'})"
)
CASES = {
    "json": Case(("None", "1", "'text'", "[1, 2.5, {'a': None}]"), ("float('nan')", "2**64", "{1: 2}")),
    "bytes": Case(("b''", "b'abc'", "bytes(range(256)) * 9000"), ("bytearray(b'x')",), damage=False),
    "typed-json": Case(("(1, 2)", "{1: {2, 3}}", "2**64", "b'x', {'a': b'y'}"), ("range(3)", "object")),
    "npy": Case(
        ("__import__('numpy').arange(5)", "__import__('numpy').zeros((2, 0, 3), 'f4')",
         "__import__('numpy').array(['a', 'bc'])"),
        ("__import__('numpy').array([1, None], object)", "__import__('numpy').ma.masked_array([1, 2], [0, 1])"),
    ),
    "parquet": Case(
        ("__import__('pandas').DataFrame({'a': [1, 2], 'b': ['x', None]})", "__import__('pyarrow').table({'a': [1]})",
         "__import__('polars').DataFrame({'a': [1, None]})",
         "pd.DataFrame(np.arange(900.0).reshape(3, 300), columns=[f'c{n}' for n in range(300)])"),
        ("__import__('pandas').DataFrame({'a': [1j]})",),
    ),
    "xarray": Case(
        (DATASET, f"{DATASET}['t']", f"{DATASET}.drop_indexes('x')", "xr.Dataset()", "xr.DataArray(5)",
         "xr.DataArray(np.arange(3), dims='x', name='n', attrs={'a': [1]})",
         "xr.Dataset({'v': ('time', [1.0, 2.0])}, {'time': pd.date_range('2020', periods=2)})",
         "xr.Dataset({'v': ('time', [1.0, 2.0])}, {'time': pd.to_datetime(['2020-01-01', '2020-03-01'])})",
         "xr.Dataset.from_dataframe(pd.DataFrame({'s': [1, 2]}))",
         "xr.Dataset({'v': ('lag', [1.0, 2.0])}, {'lag': pd.timedelta_range('1h', periods=2)})",
         "xr.Dataset({'late': ('x', [1, 2]), 'early': ('x', [3, 4])}).assign_coords(c=('x', [5, 6]))"),
        (f"{DATASET}.stack(z=('x', 'y'))", "xr.Dataset({'o': ('x', np.array(['a', None], object))})",
         "xr.Dataset({'v': ('x', [1])}, attrs={'f': print})", "xr.Dataset({5: ('x', [1])})",
         "xr.Dataset({'v': ('x', [1])}, {'x': pd.CategoricalIndex(['a'])})",
         "type('Mine', (xr.Dataset,), {'__slots__': ()})({'v': 1})"),
    ),
    "html": Case((
        "__import__('flowstore.store.codecs.hypertext').store.codecs.hypertext.Html('<p>é</p>')",
        "__import__('flowstore.store.codecs.hypertext').store.codecs.hypertext.Html('')",
    ), damage=False),
    "pickle": Case(("range(3)", "print", "__import__('collections').OrderedDict(a=[])"), ("(n for n in [])",)),
}  # fmt: skip
NAMES = [entry.name for entry in REGISTRY]
SAFE = [entry for entry in REGISTRY if not entry.runs_code]
SAFE_NAMES = [entry.name for entry in SAFE]


def made(source):
    """The value of a source; skips the test where its library is not installed."""
    scope = {}
    for name in ("numpy", "pandas", "polars", "pyarrow", "xarray"):
        short = {"numpy": "np", "pandas": "pd", "xarray": "xr"}.get(name, name)
        if f"{short}." in source or f"'{name}'" in source:
            scope[short] = pytest.importorskip(name)
    return eval(source, scope)


def content_of(encoded):
    """All bytes of an encoded value."""
    return b"".join(map(bytes, encoded.pieces))


def in_pieces(content, size):
    """Bytes cut into pieces."""
    return (content[at : at + size] for at in range(0, len(content), size))


COMPARE = """
def facts(value):
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if kind.startswith("xarray."):
        names = list(value.variables) if hasattr(value, "variables") else [value.name]
        parts = [(str(n), v.dims, str(v.dtype), v.attrs, v.values.tolist()) for n, v in value._to_temp_dataset()
                 .variables.items()] if not hasattr(value, "variables") else [
                 (str(n), v.dims, str(v.dtype), v.attrs, v.values.tolist()) for n, v in value.variables.items()]
        indexes = [(str(n), type(i).__name__, str(getattr(i, "freq", None))) for n, i in value.indexes.items()]
        return repr((kind, names, parts, indexes, value.attrs, list(value.coords), dict(value.sizes)))
    if hasattr(value, "dtype"):
        return repr((kind, str(value.dtype), value.shape, value.tolist()))
    if hasattr(value, "to_dict"):
        return repr((kind, str(getattr(value, "dtypes", "")), value.to_dict()))
    if hasattr(value, "to_pydict"):
        return repr((kind, str(value.schema), value.to_pydict()))
    return repr((kind, value))
"""
READER = f"""
import sys
from pathlib import Path
from flowstore.store import codecs
{COMPARE}
for line in Path(sys.argv[1]).read_text().splitlines():
    name, path = line.split(" ", 1)
    content = Path(path).read_bytes()
    print(facts(codecs.decode(name, iter([content]), len(content))).encode("unicode_escape").decode())
"""
scope = {}
exec(COMPARE, scope)
facts = scope["facts"]


def test_every_codec_is_tested():
    """Whoever adds a codec adds values for this file's tests."""
    assert list(CASES) == NAMES


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    """The promises of `contract.Codec`."""

    def test_values_are_taken_and_come_back(self, name):
        """The codec takes its values, and each comes back equal and of the same type, however the bytes are cut."""
        for source in CASES[name].values:
            encoded = codecs.encode(made(source))
            assert encoded.codec == name, source
            content = content_of(encoded)
            assert len(content) == encoded.size_bytes
            for size in (len(content) or 1, 1 << 20, 7):
                pieces = in_pieces(content, size if len(content) < 10_000 else max(size, 4096))
                assert facts(codecs.decode(name, pieces, len(content))) == facts(made(source)), source

    def test_values_come_back_in_another_process(self, name, tmp_path):
        """Nothing that this process has imported or set is needed to read them."""
        lines, expected = [], []
        for number, source in enumerate(CASES[name].values):
            value = made(source)
            (tmp_path / f"{number}").write_bytes(content_of(codecs.encode(value)))
            lines.append(f"{name} {tmp_path / str(number)}")
            expected.append(facts(value).encode("unicode_escape").decode())
        (tmp_path / "list").write_text("\n".join(lines))
        assert told(python(READER, tmp_path / "list")).splitlines() == expected

    def test_the_same_value_is_the_same_bytes(self, name):
        """Equal values made anew are one blob."""
        for source in CASES[name].values:
            first, second = codecs.encode(made(source)), codecs.encode(made(source))
            assert first.sha == second.sha == hashlib.sha256(content_of(first)).digest()

    def test_what_cannot_be_brought_back_is_declined(self, name):
        """Another codec takes it, or none: then the error says that it can't be stored."""
        codec = next(entry.codec for entry in REGISTRY if entry.name == name)
        for source in CASES[name].declined:
            value = made(source)
            if name == "pickle":
                with pytest.raises(ArtifactError, match="cannot be pickled"):
                    codecs.encode(value)
            else:
                assert codecs.encode(value).codec != name, source
        others = [source for other in NAMES if other not in (name, "pickle") for source in CASES[other].values]
        for source in others if name not in ("typed-json", "pickle") else ():
            with contextlib.suppress(ImportError, TypeError, AttributeError):
                assert codec.encode(made(source)) is None, source

    def test_a_value_is_described(self, name):
        """Each has a type, a preview and a size, and JSON only if the registry says so."""
        entry = codecs.entry_of(name)
        for source in CASES[name].values:
            encoded = codecs.encode(made(source))
            assert encoded.preview
            assert encoded.type
            assert encoded.description.packed == Description.unpacked(encoded.description.packed).packed
            assert entry.has_json or encoded.description.plain.value is None

    def test_damaged_bytes_are_one_clear_error(self, name):
        """Cut, longer, flipped and foreign bytes raise ArtifactError, or are a value; nothing else happens."""
        if not CASES[name].damage or name == "pickle":
            pytest.skip(
                "any bytes are a value" if name == "bytes" else "its bytes are loaded only where they are trusted"
            )
        for source in CASES[name].values:
            content = content_of(codecs.encode(made(source)))
            for damaged in (content[:-1], content[: len(content) // 2], b"", content + b"\0", b"\0" * len(content)):
                with pytest.raises(ArtifactError) as caught:
                    codecs.decode(name, iter([damaged]), len(damaged))
                assert "\n" not in str(caught.value)[:40]

    def test_its_module_is_light(self, name):
        """Importing a codec imports no library: that happens when it is used."""
        entry = codecs.entry_of(name)
        module = entry.path.partition(":")[0]
        heavy = "numpy pandas polars pyarrow xarray cloudpickle"
        code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({heavy.split()!r})))"
        assert told(python(code)).split() == []

    def test_it_is_documented(self, name):
        """The module and the class say what they are, and the class is a `Codec` with no method undone."""
        entry = codecs.entry_of(name)
        module = importlib.import_module(entry.path.partition(":")[0])
        assert isinstance(entry.codec, Codec)
        assert f"`{name}`" in module.__doc__
        assert type(entry.codec).__doc__ != Codec.__doc__


HOSTILE = [
    pickle.dumps(print), b"\x80\x04", b"{}", b"[]", b"null", b"PAR1" * 3, b"\x93NUMPY\x01\x00v\x00{", b"\0" * 8,
    (2**63).to_bytes(8, "big"), (20).to_bytes(8, "big") + b"{" * 20,
]  # fmt: skip
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LONG = pytest.mark.parametrize(
    "examples", [300, pytest.param(20_000, marks=[pytest.mark.soak, pytest.mark.timeout(3000)])]
)


@LONG
@pytest.mark.parametrize("name", SAFE_NAMES)
def test_hostile_bytes(name, examples):
    """Changed bytes of a codec's values, and any others, are a value or one ArtifactError."""
    contents = [content_of(codecs.encode(made(source)))[:20_000] for source in CASES[name].values] + HOSTILE

    @settings(FUZZ, max_examples=examples)
    @given(
        st.one_of(st.sampled_from(contents), st.binary(max_size=300)),
        st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
        st.integers(1, 5000),
    )
    def fuzz(content, changes, cut):
        damaged = bytearray(content)
        for at, byte in changes:
            if at < len(damaged):
                damaged[at] = byte
        with contextlib.suppress(ArtifactError):
            codecs.decode(name, in_pieces(bytes(damaged), cut), len(damaged))

    fuzz()


WATCHED = """
import io, sys
from flowstore.store import codecs
for entry in codecs.REGISTRY:
    entry.codec
for module in ("numpy", "pandas", "pyarrow", "polars", "xarray"):
    try:
        __import__(module)
    except ImportError:
        pass
from flowstore.store.codecs import typed_json
if "xarray" in sys.modules:
    codecs.decode("xarray", iter([bytes.fromhex(sys.argv[2])]), len(sys.argv[2]) // 2)
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event in
    {"exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class", "os.exec", "marshal.loads"} else None)
content = bytes.fromhex(sys.argv[1])
for entry in codecs.REGISTRY:
    if not entry.runs_code:
        seen.clear()
        try:
            codecs.decode(entry.name, iter([content]), len(content))
        except Exception as error:
            assert type(error).__name__ == "ArtifactError", (entry.name, error)
        assert "pickle.find_class" not in seen and "os.system" not in seen, (entry.name, seen)
print("safe")
"""


def test_no_safe_codec_unpickles():
    """A pickle that would run a command does nothing, whatever safe codec is to read it."""

    class Attack:
        def __reduce__(self):
            return os.system, ("exit 1",)

    content = b""
    if "xarray" in sys.modules or importlib.util.find_spec("xarray"):
        content = content_of(codecs.encode(made("xr.Dataset()")))
    assert told(python(WATCHED, pickle.dumps(Attack()).hex(), content.hex())) == "safe\n"


def test_an_unknown_codec_is_one_clear_error():
    """A file that a newer flowstore wrote may name a codec that this one lacks."""
    with pytest.raises(ArtifactError, match=r"codec 'futuristic'.*newer version.*pip install --upgrade flowstore"):
        codecs.decode("futuristic", iter([b"x"]), 1)
    assert not codecs.is_safe("futuristic")


def test_a_missing_library_is_named():
    """Each codec that needs a library says how to install it."""
    code = """
    import sys
    from flowstore.store import codecs
    sys.modules[sys.argv[2]] = None
    try:
        codecs.decode(sys.argv[1], iter([bytes(100)]), 100)
    except codecs.ArtifactError as error:
        print(error, end="")
    """
    for entry in REGISTRY:
        if entry.needs:
            message = told(python(code, entry.name, entry.needs))
            assert message == f"Loading it needs {entry.needs}: pip install {entry.install}"


def test_no_codec_is_imported_for_a_library_that_is_not():
    """Encoding what tasks usually set imports the codecs of builtins only."""
    code = """
    import sys
    from flowstore.store import codecs
    for value in (None, 1, 0.5, "x", [1], {"a": 1}, b"x"):
        codecs.encode(value)
    print(*sorted(name for name in sys.modules if name.startswith("flowstore.store.codecs.")))
    """
    expected = [f"flowstore.store.codecs.{name}" for name in ("contract", "plain_json", "raw_bytes")]
    assert told(python(code)).split() == expected


MEMORY = """
import resource, sys
from flowstore.store import codecs
import numpy as np
name, source = sys.argv[1:]
if name == "xarray":
    import xarray as xr
if name == "parquet":
    import pandas as pd
value = eval(source)
for small in (value[:10] if name != "xarray" else value.isel(x=slice(10)),):
    encoded = codecs.encode(small)
    codecs.decode(name, iter([b"".join(map(bytes, encoded.pieces))]), encoded.size_bytes)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
base = peak()
encoded = codecs.encode(value)
assert encoded.codec == name
print(peak() - base)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes there")
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("bytes", "bytes(200 << 20)"),
        ("npy", "np.random.default_rng(1).random(25 << 20)"),
        ("xarray", "xr.Dataset({'a': ('x', np.random.default_rng(1).random(25 << 20))})"),
    ],
)
def test_encoding_copies_nothing(name, source):
    """The pieces of 200 MiB are views of the value's own memory."""
    if name == "xarray":
        pytest.importorskip("xarray")
    assert int(told(python(MEMORY, name, source))) < 60
