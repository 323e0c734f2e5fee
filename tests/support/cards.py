"""Cards that are written straight into a store."""

from __future__ import annotations

import contextlib

from flowstore.store import blobs, cards
from flowstore.store.codecs import Encoded, encode
from flowstore.store.codecs.hypertext import Html
from flowstore.store.description import Description, NewBlob
from flowstore.store.opening import open_store


def card_in(path, html, *, attempt=1, n=0, card_id=None, kind="blank"):
    """Give an attempt a card: its HTML as text, or what stands in the place of that: bytes, an encoded value."""
    if isinstance(html, str):
        html = encode(Html(html))
    elif isinstance(html, bytes):
        html = Encoded(Description("html", len(html), "x", "x"), [html])
    with contextlib.closing(open_store(path)) as store, store.write() as db:
        blob_id = blobs.put(db, store, html)
        card = cards.RenderedCard(n, kind, card_id, NewBlob(html.description))
        cards.put(db, attempt, card, blob_id, 1_700_000_000_000)
    return path
