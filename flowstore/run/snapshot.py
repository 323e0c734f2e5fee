"""The code that a deployment keeps: the flow's file, and every Python file below its folder.

All of them, not only those imported by now, because a step may import another one only when it runs. Virtual
environments, hidden folders and installed packages are left out: the run finds them where they are.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flowstore.errors import FlowstoreError

LARGEST_BYTES = 100 << 20
_LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})


def take() -> tuple[str, dict[str, bytes]]:
    """The name of the script that runs, and the contents of its folder's Python files by their relative paths.

    Raises:
        FlowstoreError: there is no file, one can't be read, or they are too large to be a flow's.
    """
    main = getattr(sys.modules["__main__"], "__file__", None)
    if main is None or not Path(main).is_file():
        raise FlowstoreError("Only a flow in a file can be deployed: python flow.py deploy create")
    script = Path(os.path.realpath(main))  # as Python does for the folder that imports are looked for in
    found: dict[str, bytes] = {}
    size_bytes = 0
    for path in dict.fromkeys([script, *_python_files(script.parent)]):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise FlowstoreError(f"{path} can't be read: {error.strerror}. Nothing was deployed.") from error
        size_bytes += len(content)
        if size_bytes > LARGEST_BYTES:
            raise FlowstoreError(
                f"The Python files below {script.parent} are more than {LARGEST_BYTES >> 20} MiB. "
                "Put the flow and its modules into a folder of their own; nothing was deployed."
            )
        found[path.relative_to(script.parent).as_posix()] = content
    return script.name, found


def _python_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_left_out(Path(place, name)))
        found += [Path(place, name) for name in sorted(files) if name.endswith(".py") and _is_module(Path(place, name))]
    return found


def _is_left_out(folder: Path) -> bool:
    return folder.name in _LEFT_OUT or folder.name.startswith(".") or (folder / "pyvenv.cfg").exists()


def _is_module(path: Path) -> bool:
    """Whether Python could import it: editors leave dangling links, and a name may be no text at all."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return path.is_file()
