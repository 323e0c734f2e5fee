"""The version of flowstore: the one place that states it.

It is a literal and not read from the installed metadata, because `importlib.metadata` costs every start about 20 ms and
knows nothing of a checkout that is merely on the path. `pyproject.toml` reads this file; everything else imports it.
"""

from __future__ import annotations

__version__ = "0.2.0.dev0"
