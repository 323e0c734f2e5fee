"""Values of configs that are stored, with a run or a deployment, or on their way to a process that imports the flow."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from flowstore.errors import ArtifactError
from flowstore.flow import spec
from flowstore.flow.configs import configs_of
from flowstore.run.resume import names_of
from flowstore.sqlite.database import Database
from flowstore.store import blobs, queries
from flowstore.store import deployments as rows
from flowstore.store.blobs import Blob
from flowstore.store.codecs import Encoded, decode, encode
from flowstore.store.deployments import Deployment


def encoded(flow: type) -> dict[str, Encoded]:
    """Return the values of a flow's configs, by attribute, encoded.

    Raises:
        ArtifactError: one cannot be stored.
    """
    constants = spec.constants_of(flow)
    values: dict[str, Encoded] = {}
    for name, definition in configs_of(flow).items():
        try:
            values[name] = encode(constants[name])
        except ArtifactError as error:
            raise ArtifactError(f"Config {definition.name} cannot be stored: {error}.") from None
    return values


def packed(flow: type) -> dict[str, tuple[str, str]]:
    """Return the values of a flow's configs, by attribute, as plain text for another process."""
    return {name: (item.codec, base64.b64encode(item.content).decode()) for name, item in encoded(flow).items()}


def unpacked(values: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Return the values that `packed` returned."""
    encoded_values = {name: (codec, base64.b64decode(text)) for name, (codec, text) in values.items()}
    return {name: decode(codec, iter([data]), len(data)) for name, (codec, data) in encoded_values.items()}


def of_run(store: Database, flow: type, run_id: int) -> dict[str, Any]:
    """Return the values that a run has, of the configs that the flow has now.

    Raises:
        UntrustedArtifact: a value is a pickle that this user neither wrote nor trusts.
    """
    stored = names_of(queries.parameters_of(store, run_id), "constant")
    return {
        name: blobs.load(store, Blob.of(stored[name]), name, run_id=run_id)
        for name in configs_of(flow)
        if name in stored
    }


def of_deployment(store: Database, deployment: Deployment) -> dict[str, Any]:
    """Return the values that a deployment has, whose trustworthiness the caller has checked."""
    stored = rows.configs_of(store, deployment.id)
    return {item.name: blobs.load(store, item.blob, item.name) for item in stored if item.blob is not None}
