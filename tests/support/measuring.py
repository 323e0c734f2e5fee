"""Values of all kinds, and metrics."""

from __future__ import annotations

HEAD = """
import collections, dataclasses, datetime, decimal, enum, fractions, pathlib, uuid

class Color(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Score:
    accuracy: float
    folds: tuple = (1, 2)

Pair = collections.namedtuple("Pair", "left right")

class Hostile:
    def __repr__(self):
        raise RuntimeError("no")

class Trap(dict):
    def keys(self):
        raise RuntimeError("no")
    __iter__ = __len__ = keys
"""

METRICS = """
self.metrics = {
    "deep": {"loss": 1}, "folds": (3, {"auc": 0.75}), "accuracy": 0.9, "good": True, "name": "x", "bad": float("nan"),
    "curve": list(range(21)), "few": list(range(20)), "inf": float("inf"), 7: decimal.Decimal("0.5"),
}
self.scores, self.one, self.flag, self.text = [0.5, 0.25], 3, True, "4"
self.many, self.full = {str(n): n for n in range(101)}, {str(n): n for n in range(100)}
self.big = {"accuracy": 0.25, "curve": [float(n) for n in range(30000)]}
self._private = 5
"""
