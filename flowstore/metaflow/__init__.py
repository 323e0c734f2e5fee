"""The name `metaflow`, which stands for flowstore here, so that flows written for Metaflow run without a change.

    python -m flowstore.metaflow flow.py run             instead of: python flow.py run
    python -m flowstore.metaflow -m shop.train run       instead of: python -m shop.train run
    import flowstore.metaflow                            in a notebook, before anything says `import metaflow`

From then on `from metaflow import FlowSpec, step` means flowstore's `FlowSpec` and `step`, in this process and in the
tasks of its runs; so do `metaflow.cards`, `metaflow.exception` and what else Metaflow's documentation imports. What
such a flow stores names flowstore only, and is read by the plain Client without this module.
"""

from __future__ import annotations

from flowstore.metaflow import names

names.install()
