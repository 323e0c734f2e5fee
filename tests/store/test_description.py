"""Descriptions: what is known of a value without loading it, and the form in which that travels."""

from __future__ import annotations

import hashlib
import marshal

import attrs
import pytest

from flowstore.store import codecs
from flowstore.store.description import Description, NewBlob
from flowstore.store.plain import NOTHING, Plain


@pytest.mark.parametrize("value", [None, 0.5, (1, 2.5), {"a": {1: 2}}, b"x", print, {1: {"accuracy": 0.5}}])
def test_a_description_survives_a_message(value):
    """Whatever describes a value arrives as it was sent, in a blob too."""
    described = codecs.encode(value)
    back = Description.unpacked(marshal.loads(marshal.dumps(described.description.packed)))
    assert back.packed == described.description.packed
    assert (back.plain is NOTHING) == (described.description.plain is NOTHING)
    for blob in (NewBlob(back, data=described.content), NewBlob(back, described.sha)):
        arrived = NewBlob.unpacked(marshal.loads(marshal.dumps(blob.packed)))
        assert (arrived.packed, arrived.codec, arrived.type) == (blob.packed, described.codec, described.type)


def test_a_picture_survives_a_message():
    """The bytes of a picture and the numbers of a value travel with the rest."""
    plain = Plain("[1]", exact=False, number=None, numbers=[("0", 1.0)])
    described = Description("pickle", 3, "F", "<F>", plain, b"png")
    back = Description.unpacked(marshal.loads(marshal.dumps(described.packed)))
    assert (back.picture, attrs.astuple(back.plain)) == (b"png", attrs.astuple(plain))


def test_a_hash_is_computed_once(monkeypatch):
    """A large value is hashed at the first question for its hash, and not again."""
    encoded = codecs.encode(bytes(1 << 20))
    first = encoded.sha
    monkeypatch.setattr(hashlib, "sha256", None)
    assert encoded.sha == first
