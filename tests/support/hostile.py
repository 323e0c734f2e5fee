"""What a stranger writes into a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import re
import sqlite3


def edited(path, sql, data=None):
    """Change the file as somebody with sqlite3 can."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.create_function("sha", 1, lambda data: hashlib.sha256(data).digest())
        connection.execute(sql, {"data": data})


TRICKS = "\x1b[2J\x1b]8;;http://evil\x07\x9b31m\u202etxt\r\x00\x08"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Canary:
    """Leaves a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


CANARY = pickle.dumps(Canary())


def changed(path, *statements):
    """Change a file as somebody can who cares for no rule: no types, no checks, no references."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in (
            "writable_schema = on",
            "ignore_check_constraints = on",
            "foreign_keys = off",
            "synchronous = 0",
        ):
            connection.execute(f"pragma {pragma}")
        for sql, *values in statements:
            connection.execute(sql, values)
    return path
