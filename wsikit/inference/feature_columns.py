"""Stored feature columns as inputs of a model: are they there, and are they of the encoder that it was trained on?"""

from __future__ import annotations

import logging
from typing import Any

from wsikit.errors import ModelError
from wsikit.models.protocol import FeatureSource, ModelInfo
from wsikit.store.table import PatchTable

logger = logging.getLogger(__name__)

PREFIX = "features_"


def encoder_record(table: PatchTable, column: str) -> dict[str, Any]:
    """What is stored with a feature column about its encoder: at least `name`; `fingerprint` if it is known."""
    attributes = table.attributes(column)
    stored = attributes.get("encoder")
    if isinstance(stored, dict):
        return {"name": column.removeprefix(PREFIX)} | stored
    named = {"name": stored} if isinstance(stored, str) and stored else {"name": column.removeprefix(PREFIX)}
    return named | {key: attributes[key] for key in ("fingerprint", "source", "licence", "notice") if key in attributes}


def how_to_compute(table: PatchTable, name: str) -> str:
    """What to do about features that are not in the table."""
    store = table.folder.parent.parent
    there = [column.removeprefix(PREFIX) for column in table.columns() if column.startswith(PREFIX)]
    known = f" (there: {', '.join(there)})" if there else ""
    return f"Compute them: wsikit features {store} --encoder {name}, or import them{known}."


def named(model: ModelInfo, column: str) -> str:
    """The encoder of a model's feature column, as `load_encoder` takes it, as far as the model states it."""
    known = {PREFIX + source.name: source.encoder for source in model.features}
    return known.get(column) or column.removeprefix(PREFIX)


def check_features(table: PatchTable, model: ModelInfo) -> None:
    """Check that the feature columns of a model are in the table, and of the encoders that it was trained on.

    Features whose encoder has no stored fingerprint, such as those of other tools, are accepted by name and width, with
    a warning.

    Raises
    ------
    ModelError
        A column is missing or incomplete, of another width, or of an encoder with another fingerprint.
    """
    there = set(table.columns())
    sources = {PREFIX + source.name: source for source in model.features}
    for column in model.feature_columns:
        if column not in there:
            raise ModelError(
                f"{table.folder}: model {model.name} reads the column {column}, which is missing or incomplete. "
                f"{how_to_compute(table, named(model, column))}"
            )
        if column in sources:
            _check(table, column, sources[column], model)


def _check(table: PatchTable, column: str, wanted: FeatureSource, model: ModelInfo) -> None:
    width = table.width(column)
    if width != wanted.width:
        raise ModelError(
            f"{table.folder}: column {column} has {width} numbers per patch, model {model.name} was trained on "
            f"{wanted.width}: features of another encoder. {how_to_compute(table, wanted.encoder or wanted.name)}"
        )
    found = str(encoder_record(table, column).get("fingerprint") or "")
    if found and wanted.fingerprint and found != wanted.fingerprint:
        raise ModelError(
            f"{table.folder}: column {column} is of an encoder with the fingerprint {found[:12]}, model {model.name} "
            f"was trained on features of {wanted.fingerprint[:12]}: other weights or another transform. Compute them "
            f"with the weights of the training, or train the model on these features."
        )
    if found != wanted.fingerprint:
        logger.warning(
            "%s: column %s and model %s have the same encoder by name (%s) and width only: the fingerprint is not "
            "recorded with %s",
            table.folder,
            column,
            model.name,
            wanted.name,
            "the model" if found else "the column",
        )
