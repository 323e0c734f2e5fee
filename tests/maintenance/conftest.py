"""Where a store is that is sound at the end."""

from __future__ import annotations

import pytest

from support.stores import assert_sound


@pytest.fixture
def path(tmp_path):
    """Where a test's store is; it is sound at the end."""
    place = tmp_path / "flowstore.db"
    yield place
    assert_sound(place)
