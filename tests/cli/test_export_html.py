"""`flowstore export --html`: runs as one file that shows all of them, loads nothing, and needs nothing."""

from __future__ import annotations

import html.parser
import json
import re

import pytest

from flowstore.store import opening, records
from support.cards import card_in
from support.cli import command
from support.flows import FOREACH, LINEAR, PATIENT, flow_source
from support.recording import add_run, store_with

ALONE = {
    "src",
    "href",
    "action",
    "data",
    "poster",
    "srcset",
    "formaction",
    "background",
}  # attributes that load or lead


class Reader(html.parser.HTMLParser):
    """Reads a file as browsers do: its elements, ids, links and visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.addresses, self.handlers, self.text = set(), [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note an element."""
        self.tags.add(tag)
        for name, value in attrs:
            self.ids += [value] if name == "id" else []
            self.addresses += [(tag, value)] if name in ALONE else []
            self.handlers += [name] if name.startswith("on") or name == "style" else []

    def handle_data(self, data):
        """Note a text."""
        self.text.append(data)


def read(path):
    """Read a file, and check what holds for each: no script, nothing loaded, each link leads to a part of it."""
    text = path.read_text("utf-8")
    reader = Reader(text)
    assert "script" not in reader.tags
    assert reader.handlers == []
    assert len(set(reader.ids)) == len(reader.ids)
    for tag, address in reader.addresses:
        assert address.startswith("data:") if tag in {"img", "link"} else address.removeprefix("#") in reader.ids, (
            address
        )
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert '<link rel="stylesheet"' not in text
    return text, " ".join(" ".join(reader.text).split())


def test_a_failed_run_is_shown_whole(flow):
    """Why it failed, how to go on, the graph, all tasks with their logs, pictures and the code."""
    pytest.importorskip("PIL")
    script = flow(
        flow_source(
            FOREACH,
            head=PATIENT,
            start="from PIL import Image\nself.figure, self.xs = Image.new('RGB', (9, 9)), [*range(12)]",
            body="print('\x1b[31mnumber', self.input)\nif self.input == 7: raise ValueError('<seven>')",
        )
    )
    script("run", "--max-workers", "1", expect=1)
    done = script.flowstore("export", "--html", "out.html", "F/1")
    assert re.match(r"Exported 1 run \([\d.]+ kB\) to out.html.", done.stdout)
    text, shown = read(script.folder / "out.html")
    assert "ValueError: <seven>" in shown
    assert "resume --origin-run-id 1" in shown
    assert 'class="box stroke-none"' in text  # join has not started
    assert 'class="timeline"' in text
    for number in range(8):
        assert f"number {number}" in shown
    assert "\x1b" not in text
    assert 'alt="figure, as a picture" src="data:image/png;base64,iVBORw0KGgo' in text
    assert "self.next(self.body, foreach='xs')" in shown
    assert " ago" not in shown


def test_several_runs_are_listed_first(tmp_path):
    """Each has its own part; what resumes a run that is in the file leads there."""
    path = store_with(
        tmp_path / "flowstore.db",
        {"width": 3, "fails_at": "join", "x": 1},
        {"width": 3, "resumes": 1, "tags": ["good"]},
        {"flow": "G"},
    )
    out = tmp_path / "runs.html"
    done = command("--store", path, "export", out, "F", "--html", "--json")
    assert json.loads(done.stdout) == [{"path": str(out), "runs": 2, "size_bytes": out.stat().st_size}]
    text, shown = read(out)
    assert "2 runs" in shown
    assert 'href="#r1">F/1</a>' in text
    assert "taken over from F/1/start/1" in shown
    assert "G/3" not in shown
    command("--store", path, "export", out, "F/latest", "--html", "--force", "--no-logs")
    text, shown = read(out)
    assert "hello" not in shown
    assert "F/2" in shown
    assert 'id="r1"' not in text


REFUSED = {
    "no runs named": (["new.html"], 2, "Name the runs"),
    "a size": (["new.html", "F/1", "--max-artifact-size", "1MB"], 2, "--max-artifact-size does not go with --html"),
    "no such run": (["new.html", "F/9"], 1, "F/9"),
    "nothing selected": (["new.html", "F", "--tag", "none"], 1, "No run is selected"),
    "it is there": (["old.html", "F/1"], 1, "is there already"),
    "a store": (["flowstore.db", "F/1", "--force"], 1, "is an SQLite database"),
    "no folder": (["none/new.html", "F/1"], 1, "there is no folder"),
    "a folder": ([".", "F/1", "--force"], 2, "is a directory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path, monkeypatch, case):
    """One message each, and no file is changed or left."""
    store_with(tmp_path / "flowstore.db", {})
    (tmp_path / "old.html").write_text("mine")
    monkeypatch.chdir(tmp_path)
    words, code, message = REFUSED[case]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    done = command("export", "--html", *words, expect=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_store_is_not_named_like_a_page(tmp_path):
    """Without --html, a browser would be given a database."""
    store_with(tmp_path / "flowstore.db", {})
    out = tmp_path / "out.html"
    done = command("--store", tmp_path / "flowstore.db", "export", out, "F/1", expect=2)
    assert "For a page, add --html." in done.stderr
    assert not out.exists()


def test_a_hostile_store_stays_text(tmp_path):
    """Names, parameters, tags, notes, errors, logs, items and code cannot become markup, leave an attribute or load."""
    bad = '"></pre></style></details><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x1b]0;x\x07'
    store = opening.ensure_store(tmp_path / "flowstore.db")
    code = f"class F:\n    @step\n    def start(self):\n        '''{bad}'''\n        self.next(self.end)\n"
    run_id = add_run(store, flow="F", parameters={bad: bad}, tags=["<b>bold"], code=code, printed=bad + "\n", x=bad)
    with store.write() as db:
        step_id = records.ensure_step(db, run_id, bad)
        task_id = records.start_task(db, records.NewTask(run_id, step_id, (), None, "0"))
        attempt_id = records.start_attempt(db, task_id, 0)
        records.finish_attempt(db, task_id, attempt_id, records.AttemptEnd("failed", error=(bad, bad, bad)))
        db.execute("update runs set note = ?, user = ?, status = 'failed'", (bad, bad))
        db.execute("update tasks set item = ?", (bad,))
    store.close()
    out = tmp_path / "out.html"
    command("--store", store.path, "export", "--html", out, "F/1")
    text, shown = read(out)
    assert "<script>alert(1)</script>" in shown
    assert not re.search("\u202e|\x1b|\x07|<b>bold", text)


def test_cards_are_in_frames_in_which_nothing_runs(tmp_path):
    """A card is the text of an attribute, and what is not one is said to be none; the rest of the file stays."""
    hostile = '</iframe>"><script>parent.document.body.textContent = "EVIL"</script><img src=http://127.0.0.1:1/x>'
    path = store_with(tmp_path / "flowstore.db", {"x": 1})
    card_in(path, f"<style>{'.' * 9000}</style><body><h1>A report</h1>", kind="default")
    card_in(path, hostile, n=1, kind="own")
    out = tmp_path / "out.html"
    command("--store", path, "export", "--html", out, "F/1")
    text, shown = read(out)
    assert text.count("<iframe ") == text.count('sandbox=""') == 2
    assert '&lt;body&gt;&lt;h1&gt;A report&lt;/h1&gt;"' in text
    assert text.count('class="card short"') == 2  # a style sheet makes no card higher
    assert "It has a script, which does not run in this file." in shown
    assert "EVIL" not in shown


def test_a_progress_bar_is_shown_as_it_ended(tmp_path):
    """As a terminal shows it at last."""
    path = store_with(tmp_path / "flowstore.db", {"printed": "10%\r20%\r30%\ndone\n"})
    out = tmp_path / "out.html"
    command("--store", path, "export", "--html", out, "F/1")
    _, shown = read(out)
    assert "30% done" in shown
    assert "20%" not in shown


def test_a_log_of_any_length_is_whole(tmp_path):
    """It is written piece by piece, in lines that are cut nowhere."""
    store = opening.ensure_store(tmp_path / "flowstore.db")
    add_run(store, printed="")
    with store.write() as db:
        rows = [(1, "stdout", n, f"line {n} \x1b[3") for n in range(900)]
        rows = [row for n, row in enumerate(rows) for row in (row, (1, "stdout", n, "1mred\x1b[0m\n"))]
        records.append_log(db, rows)
    store.close()
    out = tmp_path / "out.html"
    command("--store", store.path, "export", "--html", out, "F/1")
    text, shown = read(out)
    assert "line 0 red line 1 red" in shown
    assert "line 899 red" in shown
    assert "[31" not in text


def test_what_is_written_is_the_same_for_a_large_run(tmp_path):
    """All tasks of a wide foreach are in the file."""
    path = store_with(tmp_path / "flowstore.db", {"width": 60, "printed": ""})
    out = tmp_path / "out.html"
    command("--store", path, "export", "--html", out, "F/1")
    text, _ = read(out)
    assert text.count('<details class="task"') == 63
    assert text.count("<rect") < 300


def test_a_step_of_very_many_tasks_is_in_groups(tmp_path):
    """A browser is slow to show thousands at once, so they are folded by the hundreds."""
    path = store_with(tmp_path / "flowstore.db", {"width": 430, "printed": ""})
    out = tmp_path / "out.html"
    command("--store", path, "export", "--html", out, "F/1")
    text, shown = read(out)
    assert text.count('<details class="task"') == 433
    assert re.findall(r"\d+ to \d+", shown) == ["1 to 200", "201 to 400", "401 to 430"]


def test_a_file_needs_no_more_than_its_own_libraries(flow):
    """Without jinja2 one message says what to install."""
    script = flow(flow_source(LINEAR))
    script("run")
    (script.folder / "jinja2.py").write_text("raise ImportError('gone', name='jinja2')")
    done = script.flowstore("export", "--html", "out.html", "F/1", expect=1, fresh=True, PYTHONPATH=str(script.folder))
    assert "export --html needs jinja2, and jinja2 is missing: pip install jinja2" in done.stderr
    assert not (script.folder / "out.html").exists()
