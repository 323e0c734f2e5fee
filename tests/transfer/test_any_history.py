"""What is exported and imported is what was there, over any history."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import flowstore
from support.cli import command
from support.recording import add_run
from support.shipped import VIEWS, check, seen, sql, view

NAMES = st.sampled_from(["F", "G"])
LARGE = {"large bytes": b"b" * 70_000, "large text": "z" * 70_000, "large pickle": ("p" * 70_000,)}
VALUES = st.integers() | st.text(max_size=8) | st.tuples(st.integers(0, 3)) | st.sampled_from([*LARGE])
RUN = st.fixed_dictionaries(
    {
        "flow": NAMES,
        "tags": st.lists(st.sampled_from(["a", "b", "c", "ä\n"]), unique=True, max_size=3),
        "width": st.integers(0, 2),
        "attempts": st.integers(1, 2),
        "fails_at": st.sampled_from([None, None, "start", "body", "join", "end"]),
        "status": st.sampled_from([None, None, "stopped"]),
        "printed": st.sampled_from(["", "said\n", "ü" * 50]),
        "code": st.sampled_from([None, "one", "two"]),
        "parameters": st.sampled_from([None, {"alpha": 1}, {"beta": (1,)}]),
        "x": VALUES,
        "y": VALUES,
    }
)
HISTORY = st.lists(st.tuples(RUN, st.none() | st.integers(1, 4)), min_size=1, max_size=4)


def recorded(path, history):
    """A store with these runs; a number is that of the run to resume, if there is one of this flow."""
    store = flowstore.store.opening.ensure_store(path)
    flows = []
    for options, resumed in history:
        taken = resumed if resumed is not None and flows[resumed - 1 : resumed] == [options["flow"]] else None
        values = {name: LARGE.get(options[name], options[name]) for name in ("x", "y")}
        add_run(store, resumes=taken, **options | values)
        flows.append(options["flow"])
    store.close()
    return path


@settings(max_examples=8, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORY, HISTORY, st.lists(st.integers(1, 4), min_size=1, unique=True))
def test_what_is_exported_and_imported_is_what_was_there(tmp_path_factory, there, here, chosen):
    """Whatever was run, there and here, the chosen runs look as they did, and those that were here stay."""
    folder = tmp_path_factory.mktemp("any")
    source, target, out = recorded(folder / "source.db", there), recorded(folder / "target.db", here), folder / "out.db"
    flows = dict(sql(source, "select run_id, flow from run_summary"))
    ids = [run_id for run_id in chosen if run_id in flows] or [1]
    command("export", out, *(f"{flows[run_id]}/{run_id}" for run_id in ids), "--store", source)
    for name in VIEWS:
        assert view(out, name, ids) == view(source, name, ids)
    before, there_seen, uuids = seen(target), seen(source), sql(out, "select uuid from runs")
    command("import", out, "--store", target)
    after = seen(target)
    assert after == before | {uuid: without_lost(there_seen[uuid], uuids) for uuid in uuids}
    command("import", source, "--store", target)
    came = {uuid: without_lost(run, uuids) if uuid in uuids else run for uuid, run in there_seen.items()}
    assert seen(target) == before | came
    check(out)
    check(target)


def without_lost(run, known):
    """A run as it is seen where only these runs are known: an origin elsewhere is no run of the store."""
    tasks = [
        {**task, "origin": task["origin"] and task["origin"][1] in known and task["origin"]} for task in run["tasks"]
    ]
    return {**run, "origin": run["origin"] if run["origin"] in known else None, "tasks": tasks}
