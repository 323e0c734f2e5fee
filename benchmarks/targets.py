"""What flowstore is held to, in words and as a test of medians."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen
class Target:
    """A bound on flowstore's median: so many times the floor's, and so much more.

    Attributes:
        text: for people.
        times_floor: how many times the floor; 0 where the floor does not count.
        more: in the line's unit.
        slower: how many times flowstore's median a peer's has to be at least, by peer.
    """

    text: str
    times_floor: float = 0
    more: float = 0
    slower: Mapping[str, float] = attrs.field(factory=dict)

    def met(self, medians: Mapping[str, float]) -> bool:
        """Return whether these medians, by contestant, keep to it; a peer that is not there is not asked.

        >>> floor_plus(60, "ms").met({"floor": 14.0, "flowstore": 70.0})
        True
        >>> times_floor(2, slower={"metaflow": 8}).met({"floor": 1.0, "flowstore": 2.0, "metaflow": 9.0})
        False
        """
        ours = medians["flowstore"]
        bound = self.times_floor * medians.get("floor", 0) + self.more
        return ours <= bound and all(
            medians[peer] >= ours * times for peer, times in self.slower.items() if peer in medians
        )


def times_floor(times: float, what: str = "floor", *, slower: Mapping[str, float] | None = None) -> Target:
    """Return the target of at most so many times the floor; `what` names that floor."""
    others = "".join(f"; {peer} >= {least} x" for peer, least in (slower or {}).items())
    return Target(f"<= {times} x {what}{others}", times_floor=times, slower=slower or {})


def floor_plus(more: float, unit: str) -> Target:
    """Return the target of at most so much more than the floor."""
    return Target(f"<= floor + {more} {unit}", times_floor=1, more=more)


def at_most(more: float, unit: str) -> Target:
    """Return the target of at most so much, whatever the floor."""
    return Target(f"<= {more} {unit}", more=more)
