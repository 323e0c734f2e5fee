"""The source that a run runs: one snapshot, whatever happens to the files meanwhile, wherever the flow is written."""

from __future__ import annotations

import zipfile

import pytest

import flowstore
from support.cli import Script, command
from support.flows import HEAD, LINEAR, MIDDLE, flow_source
from support.sources import IDS, METHODS, python, write

# --- editing during a run


EDITS = {
    "changed": "path.write_text(path.read_text().replace('one', 'two'))",
    "half saved": "path.write_text(path.read_text()[:len(path.read_text()) // 2] + '(')",
    "deleted": "path.unlink()",
}
EDITED = """
import beside_early, inspect, traceback
WORD = "one"
def failing():
    raise ValueError("one")  # on this line
"""
READS = """
import beside, pack.inner
self.words = [WORD, beside.WORD, pack.inner.WORD, beside_early.WORD]
self.sources = [inspect.getsource(module) for module in (beside, pack.inner, beside_early)]
self.files = [__file__, beside.__file__, pack.inner.__file__]
self.data = Path(__file__).with_name("data.txt").read_text()
for function in (failing, beside.failing, beside_early.failing):
    try:
        function()
    except ValueError:
        self.lines = [*getattr(self, "lines", []), traceback.format_exc().splitlines()[-2 if "^" not in
                      traceback.format_exc().splitlines()[-2] else -3].strip()]
"""
MODULE = 'WORD = "one"\ndef failing():\n    raise ValueError("one")  # on this line\n'


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("method", METHODS, ids=IDS)
@pytest.mark.quick("fork-changed", "spawn-deleted", "reuse-half saved")
def test_editing_during_a_run_changes_nothing_in_it(flow, method, edit):
    """The flow's file, and modules imported early or late, are as they were; so are tracebacks and data files."""
    edits = f"for path in [Path('flow.py'), *Path().glob('beside*.py'), *Path('pack').iterdir()]: {EDITS[edit]}"
    script = flow(flow_source(MIDDLE, head=EDITED, start=edits, middle=READS, end=READS))
    write(script.folder, beside=MODULE, beside_early=MODULE, pack__inner=MODULE)
    (script.folder / "data.txt").write_text("data")
    before = script.file.read_text()
    script("run", *method)
    run = script.client()
    data = run.data
    assert data.words == ["one"] * 4
    assert data.sources == [MODULE] * 3
    assert data.files == [str(script.folder / name) for name in ("flow.py", "beside.py", "pack/inner.py")]
    assert data.data == "data"
    assert data.lines == ['raise ValueError("one")  # on this line'] * 6
    assert run.code.flowspec == before
    assert run.code.files == ["beside.py", "beside_early.py", "flow.py", "pack/inner.py"]


@pytest.mark.parametrize("method", METHODS, ids=IDS)
@pytest.mark.quick("fork", "reuse")
def test_compiled_files_do_not_defeat_the_snapshot(flow, method):
    """A cache file that fits the edited source by time and size is not taken for the snapshot's."""
    edit = """
import importlib, subprocess
before = os.stat("beside.py")
Path("beside.py").write_text("x = 2\\n")
os.utime("beside.py", ns=(before.st_atime_ns, before.st_mtime_ns))
subprocess.run([sys.executable, "-c", "import beside; assert beside.x == 2"], check=True)
"""
    script = flow(flow_source(LINEAR, start=edit, end="import beside; self.x = beside.x"))
    (script.folder / "beside.py").write_text("x = 1\n")
    script("run", *method, PYTHONDONTWRITEBYTECODE="")
    assert script.client().data.x == 1
    script("run", *method, PYTHONDONTWRITEBYTECODE="")
    assert script.client(2).data.x == 2


def test_what_a_step_writes_can_be_imported(flow):
    """A module that the snapshot lacks is found where Python finds it."""
    script = flow(flow_source(LINEAR, start="Path('made.py').write_text('x = 1')", end="import made; self.x = made.x"))
    script("run")
    assert script.client().data.x == 1


@pytest.mark.parametrize("method", METHODS[:2], ids=IDS[:2])
def test_plugins_are_found_as_usual(flow, method):
    """`pkgutil.iter_modules` and packages without `__init__.py` work below the flow's folder."""
    body = """
import importlib, pkgutil, plugins
names = sorted(item.name for item in pkgutil.iter_modules(plugins.__path__))
self.all = [importlib.import_module(f"plugins.{name}").x for name in names]
"""
    script = flow(flow_source(LINEAR, start=body))
    write(script.folder, plugins__a="x = 1", plugins__b="x = 2")
    script("run", *method)
    assert script.client().data.all == [1, 2]


def test_a_syntax_error_in_a_late_module_is_told_by_the_task(flow):
    """A half-saved module fails the task that imports it, with the line; a fresh interpreter says it likewise."""
    for method in METHODS[:2]:
        script = flow(flow_source(LINEAR, start="import beside"))
        (script.folder / "beside.py").write_text("x = (\n")
        said = script("run", *method, expect=1)
        assert "SyntaxError" in said.stdout
        assert "flowstore/run" not in said.stdout + said.stderr


@pytest.mark.parametrize("method", METHODS[:2], ids=IDS[:2])
def test_a_file_that_changes_while_the_run_starts(flow, method):
    """What has been imported is no longer what the file says: nothing runs, and one message says so."""
    for edit, code in (("read.replace('one', 'two')", 1), ("read + '# a comment'", 0)):
        for name in ("flow.py", "beside.py"):
            head = f"import beside\nread = Path({name!r}).read_text()\nPath({name!r}).write_text({edit})"
            script = flow(flow_source(LINEAR, head=head, start="self.x = 'one'"))
            (script.folder / "beside.py").write_text("def f(): return 'one'\n")
            said = script("run", *method, expect=code).stderr
            assert ("was changed after this process had read it" in said) == bool(code)
            assert script.db.exists() != bool(code)
            script.db.unlink(missing_ok=True)


@pytest.mark.parametrize("method", METHODS[:2], ids=IDS[:2])
def test_a_folder_that_is_not_searched_stays_so(tmp_path, method):
    """With `python -P`, a file beside the flow does not hide a module of the standard library."""
    (tmp_path / "colorsys.py").write_text("raise SystemExit('hidden')\n")
    (tmp_path / "flow.py").write_text(flow_source(LINEAR, start="import colorsys; colorsys.rgb_to_hsv(1, 1, 1)"))
    python(tmp_path, "-P", "flow.py", "run", *method)


# --- a large folder


def test_a_run_in_a_large_folder_keeps_what_it_needs(flow):
    """With thousands of files around, the run keeps the imported modules, their packages, and the script's siblings."""
    script = flow(flow_source(LINEAR, head="import pack.early", start="import beside; from pack import late"))
    write(script.folder, beside="", pack__early="", pack__late="", other__unused="")
    (script.folder / "data").mkdir()
    for number in range(2_100):
        (script.folder / "data" / str(number)).touch()
    script("run")
    assert script.client().code.files == ["beside.py", "flow.py", "pack/early.py", "pack/late.py"]


def test_package_suffixes(flow):
    """Files of the suffixes that are named are kept, too, by a run, a resumed run and a deployment."""
    body = "self.text = [Path(__file__).with_name(name).read_text() for name in ('q.sql', 'c.yaml')]"
    script = flow(flow_source(LINEAR, start=body))
    for name in ("q.sql", "c.yaml", "other.txt"):
        (script.folder / name).write_text(name)
    script("run", "--package-suffixes", ".sql,.yaml")
    script("resume", "--package-suffixes", "sql", "--package-suffixes", ".yaml")
    script("deploy", "create", "--package-suffixes", ".sql,.yaml")
    for name in ("q.sql", "c.yaml"):
        (script.folder / name).unlink()
    script("deploy", "trigger", "--namespace", "")
    flowstore.namespace(None)
    for number in (1, 2, 3):
        assert script.client(number).code.files == ["c.yaml", "flow.py", "q.sql"]
    assert script.client(3)["start"].task.data.text == ["q.sql", "c.yaml"]


# --- where there is no file


PLAIN = flow_source(LINEAR, start="self.x = sys.argv[1:2]", end="assert self.x in (['run'], ['--store'])")


@pytest.mark.parametrize("method", METHODS, ids=IDS)
@pytest.mark.parametrize("how", ["folder", "zip", "command", "launcher", "runpy", "module", "profiler"])
@pytest.mark.quick(
    "folder-fork", "zip-spawn", "command-fork", "launcher-reuse", "module-spawn", "runpy-fork", "profiler-fork"
)
def test_wherever_the_flow_is_written(tmp_path, how, method):
    """It runs, and its code is kept, also where it is no plain script."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text(PLAIN)
    (tmp_path / "flow.py").write_text(PLAIN)
    (tmp_path / "launch.py").write_text("import flow\nif __name__ == '__main__':\n    flow.F()\n")
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("__main__.py", "import inner\nif __name__ == '__main__':\n    inner.F()\n")
        archive.writestr("inner.py", PLAIN)
    words = {
        "folder": ["app"],
        "zip": ["app.zip"],
        "command": ["-c", PLAIN],
        "launcher": ["launch.py"],
        "runpy": ["-c", "import runpy; runpy.run_path('flow.py', run_name='__main__')"],
        "module": ["-c", "import flow; flow.F()"],
        "profiler": ["-m", "cProfile", "-o", "profile", "flow.py"],
    }
    python(tmp_path, *words[how], "run", *method)
    script = Script(tmp_path, PLAIN)
    run = script.client()
    assert run.successful
    assert run.code.flowspec == PLAIN


def test_a_flow_from_stdin(tmp_path):
    """Nothing can read it again: one message says to save it in a file."""
    said = python(tmp_path, "-", "run", stdin=PLAIN, expect=1)
    assert "Save the flow in a file" in said
    assert "Traceback" not in said


def test_no_file_at_all(tmp_path):
    """Where the source is known but no other process can read it, fork works, and spawn is one clear message."""
    code = (
        "import linecache, sys\nsource = sys.stdin.read()\nlinecache.cache['<typed>'] = (1, None, "
        "source.splitlines(True), '<typed>')\nexec(compile(source, '<typed>', 'exec'))\n"
    )
    (tmp_path / "typed.py").write_text(code)
    launch = "import pathlib, sys; sys.argv = ['', 'run', *sys.argv[1:]]; exec(pathlib.Path('typed.py').read_text())"
    python(tmp_path, "-c", launch, stdin=PLAIN)
    said = python(tmp_path, "-c", launch, "--start-method", "spawn", stdin=PLAIN, expect=1)
    assert "Save it in one" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("how", ["folder", "zip"])
def test_a_program_in_a_folder_or_zip_file_can_be_deployed(tmp_path, how):
    """The deployment runs when what it was made from is gone; hints name what was run."""
    script = Script(tmp_path, PLAIN)
    write(tmp_path, app__inner=PLAIN)
    (tmp_path / "app" / "__main__.py").write_text("import inner\nif __name__ == '__main__':\n    inner.F()\n")
    name = "app"
    if how == "zip":
        name = "app.zip"
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in (tmp_path / "app").iterdir():
                archive.write(path, path.name)
    assert f"python {name} deploy trigger" in python(tmp_path, name, "deploy", "create")
    (tmp_path / "app" / "inner.py").write_text(PLAIN.replace("in (['run']", "in (['changed']"))
    if how == "folder":
        python(tmp_path, name, "deploy", "trigger")
    else:
        python(tmp_path, "flow.py", "deploy", "trigger")
    assert script.sql("select status from run_summary") == ["successful"]


HALF = HEAD + "class F(FlowSpec):\n    @step\n    def start(self:\n"


def test_a_flow_that_is_not_what_it_was(tmp_path):
    """A flow's file is half saved while the run starts: a fresh interpreter says so, without internals."""
    (tmp_path / "flow.py").write_text(PLAIN)
    launch = (
        "import flow\nif __name__ == '__main__':\n    import pathlib\n"
        f"    pathlib.Path('flow.py').write_text({HALF!r})\n    flow.F()\n"
    )
    (tmp_path / "launch.py").write_text(launch)
    said = python(tmp_path, "launch.py", "run", "--start-method", "spawn", expect=1)
    assert "flow.py" in said
    assert "flowstore/run/" not in said


# --- classes of modules beside the flow, read elsewhere


@pytest.mark.parametrize("elsewhere", ["not there", "another one", "after an import"])
def test_a_class_of_a_module_beside_the_flow(flow, tmp_path_factory, elsewhere):
    """Where its module can't be imported, the error says that the run has its source, and how to get it."""
    script = flow(flow_source(LINEAR, start="from pack.inner import M; self.x = M(); self.x.n = 3"))
    write(script.folder, pack__inner="class M: pass")
    script("run")
    folder, db = tmp_path_factory.mktemp("elsewhere"), script.db
    if elsewhere == "another one":
        write(folder, pack__inner="")
    elif elsewhere == "after an import":
        command("export", folder / "out.db", "--store", db)
        db = folder / "out.db"
    read = f"import flowstore; flowstore.use_store({str(db)!r}); print(flowstore.Run('F/1').data.x.n)"
    extract = f"import flowstore; flowstore.use_store({str(db)!r}); flowstore.Run('F/1').code.extract('F-1')"
    (folder / "flow.py").write_text(script.file.read_text())
    for words, code in (
        (["-c", read], 1),
        (["-m", "flowstore", "get", "F/1/end/2/x", "-o", "x.json", "--store", db], 1),
        (["flow.py", "dump", "1/end", "--file", "dumped", "--store", db], 1),
        (["flow.py", "dump", "1/end", "--store", db], 0),
    ):
        said = python(folder, *words, expect=code)
        for fact in ("'pack", "(pack/inner.py)", 'Run("F/1").code.extract("F-1")', "$PYTHONPATH"):
            assert fact in said, words
    python(folder, "-c", extract)
    if elsewhere == "another one":
        (folder / "pack" / "inner.py").unlink()
        (folder / "pack").rmdir()
    assert python(folder, "-c", read, PYTHONPATH="F-1") == "3\n"
