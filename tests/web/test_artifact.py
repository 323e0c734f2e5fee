"""The page of an artifact: its value in pages, its picture, its downloads."""

from __future__ import annotations

import io
from urllib.parse import quote

import pytest

from flowstore.store import blobs, opening, pictures
from support.stores import task_with

BASE = "/artifact/F/1/end/1"


@pytest.fixture
def shown(browse, path):
    """Store values as artifacts, and browse them."""

    def at(**values):
        store = opening.ensure_store(path)
        task_with(store, **values)
        store.close()
        return browse(path)

    return at


def test_a_value_is_shown_with_where_it_comes_from(shown):
    """Type, size, codec, hash, the task; a tree of details."""
    page = shown(x={"accuracy": 0.93, "folds": [1, 2]}).page(f"{BASE}/x")
    for text in (
        "dict",
        "31 bytes",
        "json",
        "accuracy",
        "0.93",
        'href="/task/F/1/end/1"',
        "<details open>",
        "Download .json",
    ):
        assert text in page


def test_the_json_has_the_value(shown):
    """And all that the page shows."""
    np = pytest.importorskip("numpy")
    browser = shown(x={"a": [1]}, y=np.arange(4), t="text", u=(1, 2))
    data = browser.json(f"{BASE}/x.json")
    assert (data["value"], data["codec"], data["set_by"], data["downloads"]) == (
        {"a": [1]},
        "json",
        "F/1/end/1",
        [".json"],
    )
    assert browser.json(f"{BASE}/y.json")["table"]["rows"] == [["0"], ["1"], ["2"], ["3"]]
    assert browser.json(f"{BASE}/t.json")["text"]["text"] == "text"
    assert browser.json(f"{BASE}/u.json")["value"] == [1, 2]


@pytest.mark.parametrize("name", ["a b", "a/b", "x.json", "é", "<b>", "a?b", "a#b", "a\nb", "a%b"])
def test_a_name_may_be_anything(shown, name):
    """It is percent-encoded; one that is stored wins over the suffix."""
    browser = shown(**{name: {"named": True}, "x": 5})
    url = f"{BASE}/{quote(name, safe='')}"
    assert "named" in browser.page(url)
    assert browser.json(f"{url}.json")["value"] == {"named": True}
    assert "<b>" not in browser.page(url).partition("<main")[2].replace("<b>type</b>", "").replace(
        "<b>size</b>", ""
    ).replace("<b>stored as</b>", "").replace("<b>set</b>", "").replace("<b>sha</b>", "")


def test_pages_of_a_table_are_in_the_address(shown):
    """Rows, columns, and the position in an array of more dimensions."""
    np = pytest.importorskip("numpy")
    browser = shown(x=np.arange(2 * 120 * 50).reshape(2, 120, 50))
    page = browser.page(f"{BASE}/x?slice=1&page=2&columns=2")
    assert f'<td class="number">{6000 + 50 * 50 + 20}</td>' in page
    assert 'href="?slice=1&amp;columns=2&amp;page=3"' in page
    assert 'value="1"' in page


def test_a_page_that_is_not_there_is_the_last(shown):
    """Whatever numbers stand in the address."""
    browser = shown(x=[*range(150)])
    for query in ("page=999999999999999999", "page=-1", "page=x", "at=9.9.9", "slice=9,9", "at=" + "1." * 3000):
        assert "Value" in browser.page(f"{BASE}/x?{query}")


def test_a_part_of_a_tree_has_an_address(shown):
    """With the way back."""
    page = shown(x={"a": [{"deep": [*range(200)]}]}).page(f"{BASE}/x?at=0.0.0&page=2")
    assert ">deep</b>" in page
    assert 'href="?at=0.0"' in page
    assert "items 101–200 of 200" in page


def test_downloads(shown):
    """With the name of the artifact, as what it is."""
    np = pytest.importorskip("numpy")
    browser = shown(x={"é": 1}, y=np.arange(6).reshape(2, 3), t="größe\n", big=b"0123456789" * 400_000)
    answer = browser.ask(f"{BASE}/x?download=.json")
    assert (answer.json(), answer.headers["content-type"]) == ({"é": 1}, "application/json")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''x.json"
    assert np.load(io.BytesIO(browser.ask(f"{BASE}/y?download=.npy").content)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert browser.ask(f"{BASE}/y?download=.csv").text == "0,1,2\n3,4,5\n"
    assert browser.ask(f"{BASE}/t?download=.txt").content == "größe\n".encode()
    assert browser.ask(f"{BASE}/big?download=.bin").content == b"0123456789" * 400_000
    assert "cannot be downloaded" in browser.page(f"{BASE}/x?download=.npy", 404)


def test_a_pickle_is_not_loaded(shown, tmp_path):
    """It is previewed, and downloaded as its bytes."""
    canary = tmp_path / "canary"
    browser = shown(x=Canary(canary))
    canary.unlink(missing_ok=True)
    assert "preview of it" in browser.page(f"{BASE}/x")
    assert browser.json(f"{BASE}/x.json")["value"] is None
    assert len(browser.ask(f"{BASE}/x?download=.pickle").content) > 20
    assert not canary.exists()


class Canary:
    """An object that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()

    def __repr__(self):
        return "preview of it"


def test_a_picture_is_shown(browse, path, monkeypatch):
    """From the PNG that was kept; without one, the address is not found."""
    image = pytest.importorskip("PIL.Image")
    store = opening.ensure_store(path)
    task_with(store, x=image.new("RGB", (3, 2)), y=1)
    monkeypatch.setattr(pictures, "LONGEST_S", 30.0)  # on a busy machine
    png = pictures.picture(image.new("RGB", (3, 2)))
    with store.write() as db:
        blobs.insert_picture(db, store.value("select blob_id from artifacts where name = 'x'"), png)
    store.close()
    browser = browse(path)
    assert '<img src="?picture=1" alt="Picture of x">' in browser.page(f"{BASE}/x")
    answer = browser.ask(f"{BASE}/x?picture=1")
    assert (answer.content, answer.headers["content-type"]) == (png, "image/png")
    assert answer.headers["x-content-type-options"] == "nosniff"
    browser.ask(f"{BASE}/y?picture=1", 404)
    assert browser.json(f"{BASE}/x.json")["downloads"] == [".png", ".pickle"]


def test_damage_is_one_sentence(browse, path):
    """The rest of the page is there."""
    store = opening.ensure_store(path)
    task_with(store, x={"a": 1})
    with store.write() as db:
        db.execute("update blobs set data = ?, size_bytes = 3 where type = 'dict'", (b"{no",))
    store.close()
    browser = browse(path)
    page = browser.page(f"{BASE}/x")
    assert "do not match their hash. The file is damaged." in page
    data = browser.json(f"{BASE}/x.json")
    assert (data["value"], "damaged" in data["problem"], data["type"]) == (None, True, "dict")
    browser.ask(f"{BASE}/x?download=.json", 503)


def test_what_an_export_left_out_is_one_sentence(browse, path):
    """It says how the bytes come, and the preview is shown."""
    store = opening.ensure_store(path)
    task_with(store, x=[*range(30_000)])
    with store.write() as db:
        row = store.value("select id from blobs where type = 'list'")
        db.execute("delete from chunks where blob_id = ?", (row,))
        blobs.leave_out(db, row)
    store.close()
    browser = browse(path)
    page = browser.page(f"{BASE}/x")
    assert "was left out" in page
    assert "flowstore import FILE" in page
    assert "[0, 1, 2," in page
    assert browser.json(f"{BASE}/x.json")["value"] is None
    browser.ask(f"{BASE}/x?download=.json", 400)


def test_equal_values_are_named(browse, path):
    """Other artifacts of the same bytes, where those are not too few to say anything."""
    store = opening.ensure_store(path)
    for _ in range(3):
        task_with(store, x=[*range(100)], y=1)
    store.close()
    browser = browse(path)
    assert browser.json(f"{BASE}/x.json")["same_bytes"] == ["F/3/end/3/x", "F/2/end/2/x"]
    assert browser.json(f"{BASE}/y.json")["same_bytes"] == []
    assert 'href="/artifact/F/3/end/3/x"' in browser.page(f"{BASE}/x")
