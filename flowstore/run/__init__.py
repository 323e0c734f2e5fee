"""Running flows: from `python flow.py run` to a run that has ended."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def import_start() -> ModuleType:
    """Import `run.start`, with all that only a driver needs.

    Meanwhile the garbage collector rests, and it never looks at what was imported afterwards: a driver imports much and
    then often runs for a fraction of a second, of which the collector took a tenth.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        from flowstore.run import start
    finally:
        if was_enabled:
            gc.freeze()
            gc.enable()
    return start
