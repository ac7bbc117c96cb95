"""The stages between tiling and export: predict; caption and vote (see there). Each reads a store and adds columns.

No stage knows another; they share the table. What is up to date by its receipt is kept.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ModelError
from wsikit.inference.caption import caption, caption_stage
from wsikit.inference.vote import stored_vote, vote
from wsikit.progress import SILENT, Progress
from wsikit.slides.store import SlideStore, StoreLike, open_store
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable, coords_digest
from wsikit.tiling.stream import iterate_patches
from wsikit.voting.parameters import VoteParameters

if TYPE_CHECKING:
    from wsikit.inference.predict import Predictor
    from wsikit.models.config import ModelConfig

logger = logging.getLogger(__name__)

PREDICT_REVISION = 1
OOD_SCORE = "ood_score"

__all__ = ["VoteParameters", "caption", "caption_stage", "predict", "stored_vote", "vote", "why_not_applicable"]


def predict(
    store: StoreLike,
    *,
    model: Predictor | str | os.PathLike[str] | None = None,
    grid: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> PatchTable:
    """Classify every readable patch from its image and, if there is one, its caption.

    Parameters
    ----------
    model
        A loaded predictor, the name of a packaged model, or a model's folder; by default the packaged one.
    device
        "auto", "cpu", "cuda" …

    Returns
    -------
    PatchTable
        With `probability`, float32 (N, C) in the model's class order, `gate`, float32 (N,): how far the text was
        trusted, 0 without text; `probability_image` and `probability_text`, float32 (N, C): each branch alone. NaN
        where a patch could not be read (and for the text branch where there is no text). And `ood_score`, float32
        (N,), above 1 where a patch is unlike all that the model was trained on; models that do not know what that
        looked like leave it out.

    Raises
    ------
    ModelError
        If the model does not apply: other patch size or scale than it was trained on, or another kind of stain.
    """
    predictor = _predictor(model, device)
    opened = open_store(store)
    table = opened.patches(grid)
    config = predictor.model.config
    fault = why_not_applicable(config, opened, table)
    if fault:
        raise ModelError(f"{opened.folder}: model {config.name} does not apply: {fault}.")
    texts = table.receipt("caption") if "caption" in table.columns() else None
    if texts is not None:
        _warn_captioner_mismatch(str(table.attributes("caption").get("captioner", "")), config)
    inputs = {"patches": coords_digest(table), "model": predictor.model.fingerprint or ""}
    if texts is not None:
        inputs["caption"] = texts.digest
    receipt = Receipt("predict", PREDICT_REVISION, {}, inputs)
    attributes = {"names": list(config.classes), "model": model_record(predictor)}
    width = len(config.classes)
    specs: tuple[ColumnSpec, ...] = (
        ColumnSpec("probability", "float32", width, attributes),
        ColumnSpec("probability_image", "float32", width, attributes),
        ColumnSpec("probability_text", "float32", width, attributes),
        ColumnSpec("gate", "float32", attributes={"unit": "0 image only … 1 text only"}),
    )
    if predictor.model.ood_detector is not None:
        specs = (*specs, ColumnSpec(OOD_SCORE, "float32", attributes={"unit": "above 1: unlike the training patches"}))
    elif OOD_SCORE in table.columns():
        table.drop(OOD_SCORE)  # another model's
    ranges = table.prepare(specs, receipt)
    progress.start("predictions", sum(rows.stop - rows.start for rows in ranges), "patches")
    coords = table.coords
    for rows, batch in iterate_patches(opened, table.grid, coords, ranges):
        captions: list[str | None] = [None] * len(batch.images)
        if texts:
            captions = [str(text) or None for text in table.read("caption", rows)]
        columns = _predict_rows(predictor, batch.images, batch.readable, captions)
        for spec in specs:
            table.write(spec.name, rows, columns[spec.name])
        progress.advance(rows.stop - rows.start)
    progress.finish()
    return table


def why_not_applicable(config: ModelConfig, store: SlideStore, table: PatchTable) -> str | None:
    """Why a model must not be asked about a slide, in words, or None."""
    grid = table.grid
    if grid.patch_px != config.patch_px or abs(grid.target_mpp / config.mpp - 1) > 0.01:
        return (
            f"it reads patches of {config.patch_px} px at {config.mpp:g} µm/px, "
            f"these are {grid.patch_px} px at {grid.target_mpp:.4g} µm/px"
        )
    stain = store.tissue_record()["stain"]
    if stain != "brightfield" and config.stain != stain:
        return f"it was trained on {config.stain}, this slide is {stain}"
    return None


def _warn_captioner_mismatch(captioner: str, config: ModelConfig) -> None:
    """Warn where a model reads words of another kind than it was trained on: it may misjudge how far to trust them."""
    from wsikit.captions.registry import name_of

    taught = name_of(config.captioner)
    if captioner and captioner != taught:
        logger.warning("model %s was trained on captions by %s, these are by %s", config.name, taught, captioner)


def model_record(predictor: Predictor) -> dict[str, Any]:
    """What is kept of a model beside its predictions: enough to vote, to draw and to warn without it."""
    config = predictor.model.config
    return {
        "name": config.name,
        "version": config.version,
        "fingerprint": predictor.model.fingerprint,
        "class_names": list(config.class_names),
        "colors": list(config.colors),
        "background": list(config.background),
        "notice": config.notice,
    }


def _predict_rows(
    predictor: Predictor,
    images: npt.NDArray[np.uint8],
    readable: npt.NDArray[np.bool_],
    captions: list[str | None],
) -> dict[str, npt.NDArray[np.float32]]:
    width = len(predictor.model.config.classes)
    columns: dict[str, npt.NDArray[np.float32]] = {
        name: np.full((len(images), width), np.nan, dtype=np.float32)
        for name in ("probability", "probability_image", "probability_text")
    }
    columns |= {name: np.full(len(images), np.nan, dtype=np.float32) for name in ("gate", OOD_SCORE)}
    seen = np.flatnonzero(readable)
    if len(seen):
        found = predictor.predict(images[seen], [captions[index] for index in seen])
        columns["probability"][seen] = found.probs
        columns["probability_image"][seen] = found.probs_image
        columns["probability_text"][seen] = found.probs_text
        columns["gate"][seen] = found.gate
        columns[OOD_SCORE][seen] = found.ood_score
    return columns


def _predictor(model: Predictor | str | os.PathLike[str] | None, device: str) -> Predictor:
    from wsikit.inference.predict import Predictor
    from wsikit.models.config import DEFAULT_MODEL
    from wsikit.models.io import load_model

    if isinstance(model, Predictor):
        return model
    loaded = load_model(os.fspath(model) if model is not None else DEFAULT_MODEL)
    return Predictor(loaded, device=device)  # type: ignore[arg-type]
