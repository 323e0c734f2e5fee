"""Pages that ask: compare, search, SQL and deployments."""

from __future__ import annotations

import csv
import io
import threading
import time

import pytest

from flowstore.store.opening import ensure_store
from flowstore.web.pages import sql as sql_page
from support.flows import LINEAR, flow_source
from support.recording import add_run

HOSTILE = "<script>alert(1)</script>\x1b[31m"
ENDLESS = "with recursive n (x) as (select 1 union all select x %2B 1 from n) select max(x) from n"


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    """Three runs that differ, and one that failed; gives the path."""
    store = ensure_store(tmp_path_factory.mktemp("asked") / "flowstore.db")
    code = "a = 1\nprint('<b>')\n"
    add_run(store, parameters={"alpha": 1, "same": "s"}, code=code, metrics={"a": 1, "b": 2}, tags=["one"])
    add_run(store, parameters={"alpha": 2, "same": "s"}, code=code.replace("1", "2"), metrics={"a": 1, "b": 3})
    add_run(store, "G", parameters={"alpha": HOSTILE}, code=code, metrics={"a": 1, "b": 2}, width=2)
    add_run(store, fails_at="end", printed=f"{HOSTILE} printed\n")
    with store.write() as db:
        for run_id, number in ((1, 2.0), (2, 3.0)):
            [task_id] = db.execute("select min(id) from tasks where run_id = ?", (run_id,)).fetchone()
            db.execute(
                """insert into numbers (run_id, task_id, artifact, name, magnitude, final)
                   values (?, ?, 'metrics', 'metrics.b', ?, 1)""",
                (run_id, task_id, number),
            )
    store.close()
    return store.path


@pytest.fixture
def browser(browse, store_path):
    """A browser at that store."""
    return browse(store_path)


# --- compare


def test_runs_side_by_side(browser):
    """What differs is shown, what is the same is not until it is asked for; metrics are drawn, code is compared."""
    page = browser.page("/compare?run=F/1&run=F/2&run=G/3")
    assert "3 runs side by side" in page
    assert all(text in page for text in ("alpha", "metrics.b", "same", 'class="bars"', "+a = 2", "-a = 1"))
    assert ">same<" in page  # G/3 has no such parameter
    page = browser.page("/compare?run=F/1&run=F/2")
    assert ">same<" not in page
    assert ">same<" in browser.page("/compare?run=F/1&run=F/2&all=1")
    assert "&lt;b&gt;" in page
    assert "<b>')" not in page


def test_a_comparison_as_json(browser):
    """The runs as elsewhere, and a row for each thing that differs."""
    answer = browser.json("/compare.json?run=F/1&run=F/2&run=F/1")
    assert [run["run"] for run in answer["runs"]] == ["F/1", "F/2"]
    assert [run["metrics"] for run in answer["runs"]] == [{"metrics.b": 2.0}, {"metrics.b": 3.0}]
    rows = {(row["kind"], row["name"]): row for row in answer["rows"]}
    assert [value["value"] for value in rows["parameter", "alpha"]["values"]] == [1, 2]
    assert rows["tag", "one"]["values"] == [True, None]
    assert rows["metric", "metrics.b"] == {
        "kind": "metric", "name": "metrics.b", "values": [2.0, 3.0], "differs": True,
    }  # fmt: skip
    assert ("parameter", "same") not in rows


def test_what_only_one_run_has_is_folded(browse, tmp_path):
    """What several have comes first; the rest of a long group is one link away. What one run measured is not drawn."""
    store = ensure_store(tmp_path / "flowstore.db")
    add_run(store, parameters={"z": 1})
    add_run(store, "G", parameters={**{f"p{n:02}": n for n in range(30)}, "z": 2})
    with store.write() as db:
        db.execute(
            """insert into numbers (run_id, task_id, artifact, name, magnitude, final)
               select 2, min(id), 'alone', 'alone', 7.0, 1 from tasks where run_id = 2"""
        )
    store.close()
    browser = browse(store.path)
    page = browser.page("/compare?run=F/1&run=G/2")
    assert page.index('title="z"') < page.index('title="p00"')
    assert 'title="p18"' in page
    assert 'title="p19"' not in page
    assert "unfold=Parameters" in page
    assert "11 more" in page
    assert 'title="alone"' in page
    assert 'class="bars"' not in page
    assert 'title="p29"' in browser.page("/compare?run=F/1&run=G/2&unfold=Parameters")


def test_many_runs_cost_the_same_each(browser):
    """Statements for a comparison grow with the number of runs, whatever those hold."""
    counts = []
    for runs in (["F/1", "F/2"], ["F/1", "F/2", "G/3", "F/4"]):
        with browser.stores.lease() as (store, _):
            statements = []
            store._scope.store.connection().set_trace_callback(statements.append)
        browser.page("/compare?" + "&".join(f"run={run}" for run in runs))
        counts.append(len(statements))
        with browser.stores.lease() as (store, _):
            store._scope.store.connection().set_trace_callback(None)
    assert counts[1] <= 2.2 * counts[0]


def test_runs_are_chosen_first(browser):
    """Without two runs there is a list to choose from; a run that is not there is named."""
    page = browser.page("/compare")
    assert page.count('type="checkbox"') == 4
    page = browser.page("/compare?run=G/3")
    assert 'value="G/3"' in page
    assert 'value="F/1"' not in page
    assert "F/77" in browser.page("/compare?run=F/1&run=F/77", 404)


def test_an_empty_store(browse, tmp_path):
    """Each page says what fills it."""
    ensure_store(tmp_path / "empty.db").close()
    browser = browse(tmp_path / "empty.db")
    assert "flowstore demo" in browser.page("/compare")
    assert "No run holds this text" in browser.page("/search?q=x")
    assert "deploy create" in browser.page("/deployments")
    assert "No rows" in browser.page("/sql?q=select+*+from+run_summary")


# --- search


def test_search(browser):
    """It is the command's search: what holds the text, where, and how far it looked."""
    page = browser.page("/search?q=IT+FAILED")
    assert "F/4" in page
    assert "<mark>it failed</mark>" in page
    assert "All runs were looked at: 4." in page
    answer = browser.json("/search.json?q=printed")
    assert [(hit["run"], hit["where"]) for hit in answer["runs"]] == [("F/4", "log")]
    assert (answer["looked_at"], answer["complete"], answer["before"]) == (4, True, None)
    assert browser.json("/search.json")["runs"] == []
    assert [hit["run"] for hit in browser.json("/search.json?q=alpha&flow=G")["runs"]] == ["G/3"]


def test_a_search_goes_on(browser, monkeypatch):
    """A page that had no time leads to the next one."""
    monkeypatch.setattr("flowstore.web.pages.search.DEADLINE_S", 0.0)
    answer = browser.json("/search.json?q=nowhere")
    assert (answer["looked_at"], answer["complete"], answer["before"]) == (1, False, "F/4")
    assert "before=F%2F4" in browser.page("/search?q=nowhere")
    assert "No run among these" in browser.page("/search?q=nowhere&before=F/4")


def test_hostile_text_stays_text(browser):
    """In what was found, what was looked for, a comparison and a result of SQL."""
    for url in (
        "/search?q=alert", "/search?q=%3Cscript%3Ealert", "/compare?run=F/1&run=G/3",
        "/sql?q=select+parameters+from+run_summary", "/sql?q=%3Cscript%3Ealert(1)",
    ):  # fmt: skip
        page = browser.page(url)
        assert "<script>alert" not in page
        assert "\x1b" not in page
        assert "alert" in page


# --- SQL


def test_sql(browser):
    """Rows, links to runs, the views with their columns, and the cookbook's questions."""
    page = browser.page("/sql?q=select+flow,+run_id,+1.5+as+x+from+run_summary+order+by+run_id")
    assert all(
        text in page for text in ("4 rows", 'href="/run/F/1"', "artifact_values", "duration_s", "Which run did best?")
    )
    answer = browser.json("/sql.json?q=select+run_id,+status+from+run_summary+where+run_id=4")
    assert answer["rows"] == [{"run_id": 4, "status": "failed"}]
    assert answer["complete"] is True


def test_sql_as_csv(browser):
    """A file in which nothing is a formula."""
    answer = browser.ask("/sql?as=csv&q=select+run_id,+'=1%2B1'+as+f,+null+as+n,+x'00ff'+as+b+from+run_summary+limit+1")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert list(csv.reader(io.StringIO(answer.text))) == [["run_id", "f", "n", "b"], ["1", "'=1+1", "", "00ff"]]


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("selec 1", "syntax error"),
        ("delete from runs", "Only reading is allowed"),
        ("pragma journal_mode = wal", "Only reading is allowed"),
        ("attach 'x.db' as x", "Only reading is allowed"),
        ("select * from nowhere", "no such table"),
        ("select 1; select 2", ""),
        ("\ud800", ""),
    ],
)
def test_what_is_wrong_is_said(browser, question, text):
    """An error is text beside the question, and one of JSON in JSON; never a failure of the page."""
    encoded = browser.stranger.build_request("GET", "/", params={"q": question.encode("utf-8", "replace").decode()}).url
    url = f"/sql?{encoded.query.decode()}"
    page = browser.page(url)
    assert text in page
    assert 'class="error"' in page
    assert text in browser.json(url.replace("/sql?", "/sql.json?"), 400)["error"]


def test_a_question_without_end(browser, monkeypatch):
    """It ends at the deadline, and what is asked next is answered."""
    monkeypatch.setattr(sql_page, "DEADLINE_S", 0.2)
    assert "took more than" in browser.page(f"/sql?q={ENDLESS}")
    assert "took more than" in browser.ask(f"/sql?as=csv&q={ENDLESS}", 400).text
    assert browser.json("/sql.json?q=select+1+as+x")["rows"] == [{"x": 1}]


def test_a_large_answer_is_cut(browser):
    """A page has so many rows, and says that there are more; the file has all."""
    many = "with recursive n (x) as (select 1 union all select x %2B 1 from n where x < 2500) select x from n"
    assert "The first 1,000 rows" in browser.page(f"/sql?q={many}")
    assert browser.json(f"/sql.json?q={many}")["complete"] is False
    assert len(browser.ask(f"/sql?as=csv&q={many}").text.splitlines()) == 2501


def test_the_server_ends_in_the_middle_of_a_question(browse, store_path):
    """It does not wait for the deadline."""
    browser = browse(store_path)
    browser.page("/sql?q=select+1")  # all that it needs is imported
    answers = []
    url = f"/sql?q={ENDLESS}"
    asking = threading.Thread(
        target=lambda: answers.append(browser.stranger.get(url, headers=browser.headers)), daemon=True
    )
    asking.start()
    deadline = time.monotonic() + 10
    while not browser.stores._busy and time.monotonic() < deadline:
        time.sleep(0.01)
    began = time.monotonic()
    browser.stores.close()
    asking.join(timeout=10)
    assert not asking.is_alive()
    assert time.monotonic() - began < 5
    assert answers[0].status_code in {200, 503}, "it is interrupted in the question, or beside it"
    assert "was stopped" in browser.page("/", 503)


# --- deployments


@pytest.mark.long
def test_deployments(flow, browse):
    """What is in production, its parameters, its schedule with the next time, and its last runs."""
    members = "alpha = Parameter('alpha', default=0.5)"
    source = flow_source(LINEAR, members=members)
    script = flow(source.replace("class F(", "from flowstore import schedule\n\n@schedule(daily=True)\nclass F("))
    script("deploy", "create", "--tag", "nightly")
    script("deploy", "trigger")
    browser = browse(script.db)
    page = browser.page("/deployments")
    assert all(text in page for text in ("flowstore scheduler", "0 0 * * *", "UTC", "1 parameter", 'href="/run/F/1"'))
    answer = browser.json("/deployments.json")
    [deployment] = answer["deployments"]
    assert (deployment["flow"], deployment["version"], deployment["parameters"]) == ("F", 1, {"alpha": 0.5})
    assert [(run["run"], run["status"]) for run in deployment["runs"]] == [("F/1", "successful")]
    assert deployment["next_due_at"].endswith("00:00:00.000")
    assert answer["scheduler"] is False
