"""The versions of the distributions that modules come from, as `pip list` names them.

`importlib.metadata` reads files of every installed distribution to answer this, which takes a tenth of a second. Most
modules are called like their distribution, whose folder's name has its version; the lists of files of the others are
read, the likeliest first, until one has the module.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from flowstore import later
from flowstore._version import __version__


@later.frozen
class _Distribution:
    """An installed distribution.

    Attributes:
        name, version: as `pip list` has them.
        info: the folder that describes it.
    """

    name: str
    version: str
    info: str

    def has(self, module: str) -> bool:
        """Return whether one of its files is that of a top-level module."""
        for listing in ("RECORD", "installed-files.txt"):
            try:
                text = Path(self.info, listing).read_text("utf-8", "replace")
            except OSError:
                continue
            return re.search(rf"^(\.\./)?{re.escape(module)}(/|\.[\w.-]*(py|so|pyd)\b)", text, re.MULTILINE) is not None
        return False


def versions(modules: Iterable[str]) -> dict[str, str]:
    """Return the version of each distribution that has one of these top-level modules, by its name.

    Args:
        modules: their names; those of the standard library and of nobody's distribution are left out.
    """
    wanted = {name for name in modules if not name.startswith("_") and name not in sys.stdlib_module_names}
    found_in = [_distribution_of(name) for name in sorted(wanted)]
    named = {item.name: item.version for item in found_in if item is not None}
    return {name: __version__ if name == "flowstore" else version for name, version in named.items()}


def imported() -> dict[str, str]:
    """Return the versions of all distributions of which this process has imported a module."""
    return versions([name for name in sys.modules if "." not in name])


@functools.cache
def _distribution_of(module: str) -> _Distribution | None:
    installed = _installed(tuple(sys.path))
    same = installed.get(module.lower().replace("_", "-"))
    if same is not None:
        return _Distribution(*same)
    folder = _folder_of(module)
    if folder is None:
        return None
    beside = [_Distribution(*item) for item in installed.values() if item[2].startswith(folder + os.sep)]
    beside.sort(key=lambda item: module.lower() not in item.name)
    return next((item for item in beside if item.has(module)), None)


def _folder_of(module: str) -> str | None:
    """Return the folder that a top-level module was found in."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    origin = getattr(spec, "origin", None)
    if not isinstance(origin, str) or not origin.endswith((".py", ".so", ".pyd")):
        return None
    folder = os.path.dirname(origin)  # noqa: PTH120  # a prefix of text
    return os.path.dirname(folder) if getattr(spec, "submodule_search_locations", None) else folder  # noqa: PTH120


@functools.lru_cache(maxsize=2)
def _installed(paths: tuple[str, ...]) -> dict[str, tuple[str, str, str]]:
    """Return name, version and folder of each distribution, by name; Python imports the first of a name."""
    installed: dict[str, tuple[str, str, str]] = {}
    for folder in dict.fromkeys(paths):
        try:
            entries = os.listdir(folder or ".")  # noqa: PTH208
        except OSError:
            continue
        for entry in entries:
            if entry.endswith((".dist-info", ".egg-info")) and "-" in entry[: -len("-info")]:
                first, version, *_ = entry.rpartition(".")[0].split("-")  # of an egg, -py3.11 may follow
                name = first.lower().replace("_", "-").replace(".", "-")
                installed.setdefault(name, (name, version, f"{folder}{os.sep}{entry}"))
    return installed
