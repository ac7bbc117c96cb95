"""Out-of-fold captions: each patient is described by an adapter that never saw that patient, not even to choose by.

What is written is again a table of MMLNB's contract, so that a text branch trains on captions as good, or as bad, as
those it will meet on new patients.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsikit.captions.vlm.files import RECORD_FILE, find_vlm, model_fingerprint
from wsikit.captions.vlm.finetune import Material, finetune_rows, prepare
from wsikit.captions.vlm.model import load_vlm
from wsikit.captions.vlm.patients import folds_of, refuse_seen_patients
from wsikit.captions.vlm.settings import FinetuneSettings
from wsikit.captions.vlm.trainer import Tell
from wsikit.datasets import ImageTable
from wsikit.errors import RequestError
from wsikit.store.atomic import atomic_write

logger = logging.getLogger(__name__)

CAPTIONS_FILE = "captions.csv"
FIELDS = ("file_name", "description", "class", "patient", "slide", "fold", "adapter", "reference")
"""`description` is the generated caption; `reference` the one that was in the table, label words taken out."""


def out_of_fold_captions(
    table: ImageTable,
    n_folds: int,
    *,
    model: str | Path,
    out: str | Path,
    settings: FinetuneSettings | None = None,
    device: str = "auto",
    dtype: str = "auto",
    tell: Callable[[int], Tell] | None = None,
) -> Path:
    """Fine-tune an adapter per fold of patients, and caption each fold by the adapter that never saw it.

    Parameters
    ----------
    table, model, settings, device, dtype
        As for `finetune_captioner`.
    n_folds
        Adapters to train.
    out
        New folder, or that of the same request cut short: finished folds are kept.
    tell
        Given a fold, what to call after each of its epochs.

    Returns
    -------
    Path
        OUT/captions.csv, columns `FIELDS`. The adapters are in OUT/fold-0 and so on.

    Raises
    ------
    RequestError
        If there are too few patients, or `out` holds the folds of another request.
    """
    out, settings = Path(out), settings or FinetuneSettings()
    material = prepare(table)
    digest = material.digest()
    base = model_fingerprint(find_vlm(model))
    folds = folds_of(material.patients.names, n_folds, seed=settings.seed)
    for fold, rows in enumerate(folds):
        if not (out / f"fold-{fold}" / CAPTIONS_FILE).is_file():
            held = set(rows)
            others = [row for row in range(len(material.answers)) if row not in held]
            _one_fold(material, fold, rows, others, base, model, out, settings, device, dtype, tell, digest)
        else:
            _refuse_foreign(out / f"fold-{fold}", base, digest, settings)
    return _join(out, len(folds))


def _one_fold(
    material: Material,
    fold: int,
    rows: list[int],
    others: list[int],
    base: str,
    model: str | Path,
    out: Path,
    settings: FinetuneSettings,
    device: str,
    dtype: str,
    tell: Callable[[int], Tell] | None,
    digest: str,
) -> None:
    folder = out / f"fold-{fold}"
    if (folder / RECORD_FILE).is_file():
        record = _refuse_foreign(folder, base, digest, settings)
    else:
        record = finetune_rows(
            material,
            others,
            model=model,
            out=folder,
            settings=settings,
            device=device,
            dtype=dtype,
            tell=tell(fold) if tell else None,
            digest=digest,
        )
    names = [material.patients.names[row] for row in rows]
    refuse_seen_patients(record, names)
    captioner = load_vlm(model, adapter=folder, device=device, dtype=dtype, batch=max(8, settings.batch))
    table = material.table
    with atomic_write(folder / CAPTIONS_FILE) as path, open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        for first in range(0, len(rows), captioner.batch):
            part = rows[first : first + captioner.batch]
            for row, text in zip(part, captioner.describe(table.images(part)), strict=True):
                patient, slide = material.patients.names[row], table.slides[row] or ""
                label, reference = table.classes[row] or "", material.answers[row]
                adapter = record["adapter"][:12]
                writer.writerow([table.files[row], text, label, patient, slide, fold, adapter, reference])


def _refuse_foreign(folder: Path, base: str, digest: str, settings: FinetuneSettings) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    same = (
        record["base"]["fingerprint"] == base
        and record["data"]["digest"] == digest
        and record["settings"] == settings.model_dump(mode="json")
    )
    if not same:
        raise RequestError(f"{folder}: of another request (other data, base or settings). Give a new folder.")
    return record


def _join(out: Path, n_folds: int) -> Path:
    target = out / CAPTIONS_FILE
    with atomic_write(target) as path, open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        for fold in range(n_folds):
            with open(out / f"fold-{fold}" / CAPTIONS_FILE, encoding="utf-8", newline="") as part:
                writer.writerows(list(csv.reader(part))[1:])
    logger.info("%s: %s", target.name, os.fspath(target))
    return target
