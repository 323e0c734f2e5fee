"""Cards in stores: they go where their task goes, and a stranger's file can do nothing with them."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import pytest

import flowstore
from flowstore.cards import get_cards
from flowstore.errors import StoreCorrupt
from flowstore.maintenance import check as checking
from flowstore.store.codecs import encode
from flowstore.store.opening import open_store
from support.cards import card_in
from support.cli import command
from support.recording import store_with

LARGE = "<p>" + "large " * 50_000


@pytest.fixture
def source(tmp_path):
    """F/1 with a small and a large card at its start, F/2 with the same small one."""
    path = store_with(tmp_path / "source.db", {"a": 1}, {"a": 2})
    card_in(path, "<p>small")
    card_in(path, LARGE, n=1, card_id="large")
    card_in(path, "<p>small", attempt=3)
    return path


def cards_in(path, pathspec="F/1/start/1"):
    """The HTML of each card of a task."""
    with contextlib.closing(flowstore.open_store(path, namespace=None)) as store:
        return [card.get() for card in get_cards(store.task(pathspec))]


def count(path, what):
    """How many rows there are."""
    with contextlib.closing(open_store(path)) as store:
        return store.value(f"select count(*) from {what}")


def problems(path):
    """What a deep check finds."""
    with contextlib.closing(open_store(path)) as store:
        return checking.check(store, deep=True).problems


def test_they_are_exported_and_imported(source, tmp_path):
    """With ids of their own there; a second time changes nothing."""
    command("--store", source, "export", tmp_path / "out.db", "F/1")
    assert cards_in(tmp_path / "out.db") == ["<p>small", LARGE]
    target = store_with(tmp_path / "target.db", {"a": 9})
    for _ in range(2):
        command("--store", target, "import", tmp_path / "out.db")
    assert cards_in(target, "F/2/start/3") == ["<p>small", LARGE]
    assert count(target, "cards") == 2
    assert problems(target) == problems(tmp_path / "out.db") == []


def test_one_that_was_rendered_again_since_it_was_listed(source):
    """The newest state is shown, as the one that was listed is gone."""
    with contextlib.closing(flowstore.open_store(source, namespace=None)) as store:
        listed = get_cards(store.task("F/1/start/1"))
        card_in(source, "<p>now", n=1, card_id="large")
        assert [card.get() for card in listed] == ["<p>small", "<p>now"]


def test_they_are_deleted_with_their_run(source):
    """A blob that another card has stays."""
    command("--store", source, "delete", "F/1", "--yes")
    assert count(source, "cards") == 1
    assert count(source, "blobs where codec = 'html'") == 1
    command("--store", source, "vacuum")
    assert cards_in(source, "F/2/start/3") == ["<p>small"]
    command("--store", source, "delete", "F/2", "--yes")
    assert count(source, "blobs where codec = 'html' and sha is not null") == 0
    assert problems(source) == []


def test_the_last_state_replaces_the_one_before(source):
    """Its blob goes, unless something else has it."""
    card_in(source, "<p>new")
    assert cards_in(source)[0] == "<p>new"
    assert count(source, "blobs where codec = 'html'") == 3
    card_in(source, "<p>newer")
    assert count(source, "blobs where codec = 'html'") == 3
    assert problems(source) == []


def test_the_view_lists_them(source):
    """By task, with id, size and hash."""
    [small, large, _] = command("--store", source, "sql", "select * from card_list", "--csv").stdout.splitlines()[1:]
    assert small.startswith("F,1,start,1,0,blank,")
    assert ",large,300003," in large


@pytest.mark.parametrize(
    "damage",
    [
        "update cards set blob_id = (select id from blobs where codec <> 'html' limit 1) where n = 1",
        "update cards set n = -1 where n = 1",
        "update cards set updated_at = -5 where n = 1",
        "update cards set data = x'ff' where n = 1",
        "pragma foreign_keys = off; update cards set blob_id = 999 where n = 1",
        "pragma foreign_keys = off; update cards set attempt_id = 999 where n = 1",
    ],
)
def test_what_is_wrong_with_a_card_is_found_and_repaired(damage, source, tmp_path):
    """By dropping that card; a file with such a row is not imported."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(source)) as db:
        db.executescript(damage)
    assert problems(source)
    target = store_with(tmp_path / "target.db", {"a": 9})
    assert "Nothing was imported" in command("--store", target, "import", source, expect=1).stderr
    command("--store", source, "check", "--deep", "--repair", expect=None)
    assert problems(source) == []
    assert cards_in(source) == ["<p>small"]


def test_a_strangers_card_is_read_and_nothing_else_is(source, tmp_path, monkeypatch):
    """Without trust, in a file of another home; a card that names a pickle is refused."""
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "other home"))
    assert cards_in(source) == ["<p>small", LARGE]
    card_in(source, encode(print), n=2)
    with pytest.raises(StoreCorrupt, match="is not a card"):
        cards_in(source)
    with contextlib.closing(flowstore.open_store(source, namespace=None)) as store:
        assert "<p>small" not in get_cards(store.task("F/1/start/1"))[0]._repr_html_()


def test_cards_as_objects(source):
    """A list with types, ids and hashes; a file for the browser; a frame for notebooks, out of which nothing gets."""
    flowstore.use_store(source)
    flowstore.namespace(None)
    cards = get_cards("F/1/start/1")
    assert [card.id for card in cards] == [None, "large"]
    assert [card.id for card in cards[1:]] == ["large"]
    assert repr(cards[1]) == "Card('F/1/start/1', type='blank', id='large')"
    assert Path(cards[0].path).read_text() == "<p>small"
    assert cards[0].get_data() is None
    assert 'sandbox="allow-scripts"' in cards._repr_html_()
    assert [f'height="{height}"' in card._repr_html_() for card, height in zip(cards, (200, 600), strict=True)] == [
        True
    ] * 2
    assert len(get_cards("F/1/start/1", type="default")) == 0
    with pytest.raises(flowstore.NotFound):
        get_cards("F/1/start/77")


def test_older_stores_have_no_cards(tmp_path):
    """They are read as they are, and get the table with the first write."""
    path = tmp_path / "old.db"
    path.write_bytes(gzip.decompress((Path(__file__).parents[1] / "stores" / "v7.db.gz").read_bytes()))
    assert cards_in(path, "Old/1/start/1") == []
    assert count(path, "card_list") == 0
    card_in(path, "<p>new")
    assert cards_in(path, "Old/1/start/1") == ["<p>new"]
    assert problems(path) == []
