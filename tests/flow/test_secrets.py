"""Secrets are in the environment of their step, and nowhere else: not in the log, in errors, in cards, in the store."""

from __future__ import annotations

import contextlib
import html
import itertools
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstore import GraphError, secrets
from flowstore.cards import get_cards
from flowstore.flow.secrets import HIDDEN, Redactor
from support.cli import failure
from support.flows import LINEAR, METHODS, flow_source

VALUE = "s3cret-<&>-value"
FILE = "@secrets(sources=[{'type': 'env-file', 'options': {'path': 'keys.env'}}])"
INLINE = "@secrets(sources=[{'type': 'inline', 'options': {'env_vars': {'TOKEN': 'inline-secret'}}}])"
PRINTS = """
token = os.environ["TOKEN"]
print("token:", token)
print("short:", os.environ.get("SHORT"))
sys.stdout.write(token[:5]); sys.stdout.flush(); time.sleep(0.7)
sys.stdout.write(token[5:] + "\\n"); sys.stdout.flush()
print(token[:-1])
for letter in token: sys.stderr.write(letter); sys.stderr.flush()
current.card.append(Markdown(f"my `{token}`"))
"""


@pytest.fixture
def keys(tmp_path):
    """A file of variables beside the flow."""
    (tmp_path / "keys.env").write_text(f"# comment\n\nexport TOKEN='{VALUE}'\nSHORT=abc\n")
    return tmp_path / "keys.env"


def in_store(script, value):
    """Return whether some bytes of the store's file, or any text in it, hold a value."""
    if value.encode() in script.db.read_bytes():
        return True
    with contextlib.closing(sqlite3.connect(script.db)) as db:
        return any(value in statement for statement in db.iterdump())


@pytest.mark.parametrize("method", ["fork", "spawn", "reused fork"])
def test_a_value_is_seen_by_its_step_alone(flow, keys, method):
    """It is hidden in the live output, the log and the card, also where it was printed letter by letter."""
    body = f"{FILE}\n@card\nfrom flowstore.cards import Markdown\n{PRINTS}"
    script = flow(flow_source(LINEAR, start=body, end="print(os.environ.get('TOKEN'))"))
    said = script("run", *METHODS[method])
    run = script.client()
    log = run["start"].task.stdout
    assert log == f"token: {HIDDEN}\nshort: abc\n{HIDDEN}\n{VALUE[:-1]}\n"
    assert run["start"].task.stderr.strip() == HIDDEN
    assert run.end_task.stdout == "None\n"
    assert VALUE not in said.stdout + said.stderr
    assert not in_store(script, VALUE)
    [card] = get_cards(run["start"].task)
    assert HIDDEN in card.get()
    assert html.escape(VALUE) not in card.get()


@pytest.mark.parametrize("mark", ["", "@catch(var='caught')\n"])
def test_a_value_is_hidden_in_errors(flow, keys, mark):
    """In the message, the traceback, what `@catch` keeps, and in what an attempt that died printed last."""
    raising = "raise ValueError('bad ' + os.environ['TOKEN'])"
    dying = "@catch(var='died')\n" + FILE + "\nprint(os.environ['TOKEN'])\nos._exit(3)"
    script = flow(flow_source(LINEAR, start=dying, end=f"{mark}{FILE}\n{raising}"))
    said = script("run", expect=0 if mark else 1)
    run = script.client()
    error = run.data.caught if mark else failure(script)
    assert error.message == f"bad {HIDDEN}"
    assert run["start"].task.data.died.message.endswith(HIDDEN)
    assert VALUE not in said.stdout + said.stderr + error.traceback
    assert not in_store(script, VALUE)


def test_values_in_the_source_are_warned_about(flow):
    """They are in the snapshot, and `check` says so; the card, which shows the source, hides them."""
    script = flow(flow_source(LINEAR, start=f"@card\n{INLINE}\nprint(os.environ['TOKEN'])"))
    assert "step 'start' has secrets of the type inline" in script("check").stderr
    script("run")
    run = script.client()
    assert run["start"].task.stdout == f"{HIDDEN}\n"
    assert "inline-secret" in run.code.flowspec
    assert not any("inline-secret" in row[0] for row in script.sql("select text, 1 from task_logs"))


WRONG = {
    "no file": ("@secrets(sources=['env-file:none.env'])", {}, "none.env cannot be read"),
    "a line": ("@secrets(sources=['env-file:broken.env'])", {}, "line 2 of broken.env is not of the form NAME=VALUE"),
    "set already": (FILE, {"TOKEN": "old"}, "@secrets would replace the variable TOKEN, which is set already"),
    "set by another": (FILE + "\n@environment(vars={'SHORT': 'x'})", {}, "replace the variable SHORT"),
    "twice": (FILE.replace("]", ", 'env-file:keys.env']"), {}, "two sources of @secrets have the variable TOKEN"),
    "no path": ("@secrets(sources=['env-file:~nobody-here/keys.env'])", {}, "is no path of a file. Name another one"),
    "our own": ("@secrets(sources=['env-file:own.env'])", {}, "@secrets cannot set FLOWSTORE_USER"),
}


@pytest.mark.parametrize(("mark", "env", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_are_found_before_a_run_exists(flow, keys, mark, env, message):
    """A message names the variable, and never shows a value."""
    (keys.parent / "broken.env").write_text("A=1\ntop secret text\n")
    (keys.parent / "own.env").write_text("FLOWSTORE_USER=somebody\n")
    script = flow(flow_source(LINEAR, start=mark))
    said = script("run", expect=2, **env).stderr
    assert message in said
    assert "secret text" not in said
    assert not script.db.exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"type": "env-file", "options": "keys.env"}, "options of a source of the type 'env-file' must be a dict"),
        ({"type": "vault"}, "no sources of the type 'vault'"),
        ("aws-secrets-manager.db", "no source 'aws-secrets-manager.db'"),
    ],
)
def test_sources_that_do_not_exist(source, message):
    """They are refused where they are written."""
    with pytest.raises(GraphError, match=message):
        secrets(sources=[source])


def test_a_variable_is_replaced_where_that_is_wished(flow, keys):
    """With `allow_override`, for the time of the step, also in a process that goes on."""
    script = flow(
        flow_source(LINEAR, start=FILE.replace("])", "], allow_override=True)"), end="self.t = os.environ['TOKEN']")
    )
    script("run", "--reuse-workers", TOKEN="old")
    assert script.client().data.t == "old"


@given(st.text("ab-", max_size=40), st.lists(st.integers(0, 40), max_size=6))
def test_any_cut_of_a_stream_is_hidden_alike(text, cuts):
    """However the output is cut, what comes out is what hiding the whole text gives, without any of the values."""
    values = ["aaaaaaaa", "abababab", "babababab-", "a-a-a-a-"]
    data, stream = text.encode(), Redactor(values).stream()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [stream.feed(data[start:stop]) for start, stop in itertools.pairwise(places)]
    whole = b"".join([*pieces, stream.feed(b"", end=True)])
    assert whole == Redactor(values).text(text).encode()
    assert not any(value.encode() in whole for value in values)
    assert (HIDDEN.encode() in whole) == any(value in text for value in values)
