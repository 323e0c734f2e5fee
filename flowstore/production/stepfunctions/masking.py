"""Secrets that AWS may not learn: production tokens, and the names of namespaces, which show them."""

from __future__ import annotations

import json
import re
from typing import Any

from flowstore.errors import FlowstoreError
from flowstore.sqlite.database import Database
from flowstore.store import deployments

_NAMESPACE = re.compile(r"production:[^\s\"',)\]}]+")


def mask(store: Database, text: str) -> str:
    """Return a text without the store's production tokens, and without names of production namespaces."""
    text = _NAMESPACE.sub("production:***", text)
    for token in deployments.tokens(store):
        text = re.sub(re.escape(token), "***", text, flags=re.IGNORECASE)
    return text


def check_secret(store: Database, *values: Any) -> None:
    """Raise FlowstoreError where something that is about to be sent holds a production token."""
    text = json.dumps(values, ensure_ascii=False)
    if mask(store, text) != text:
        raise FlowstoreError(
            "What is to be sent to AWS holds a production token or the name of a production namespace, which AWS is "
            "not to learn. Leave it out, of the values of parameters for example."
        )
