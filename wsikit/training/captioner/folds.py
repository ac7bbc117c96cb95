"""Out-of-fold captions: each patient is described by an adapter not trained or selected on that patient.

The output is a table in MMLNB's format, so a text branch can be trained on captions of the same quality as those of
new patients.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsikit.captions.vlm.files import RECORD_FILE, find_vlm, model_fingerprint, read_record
from wsikit.captions.vlm.model import load_vlm
from wsikit.errors import RequestError
from wsikit.store.atomic import atomic_write
from wsikit.tables import harmless
from wsikit.training.captioner.finetune import Material, finetune_rows, prepare
from wsikit.training.captioner.patients import folds_of, refuse_seen_patients
from wsikit.training.captioner.settings import FinetuneSettings
from wsikit.training.captioner.trainer import EpochCallback
from wsikit.training.datasets import ImageTable

logger = logging.getLogger(__name__)

CAPTIONS_FILE = "captions.csv"
FIELDS = ("file_name", "description", "class", "patient", "slide", "fold", "adapter", "reference")
"""`description` is the generated caption; `reference` the one of the table, label words removed."""


def out_of_fold_captions(
    table: ImageTable,
    n_folds: int,
    *,
    model: str | Path,
    out: str | Path,
    settings: FinetuneSettings | None = None,
    device: str = "auto",
    dtype: str = "auto",
    on_epoch: Callable[[int], EpochCallback] | None = None,
) -> Path:
    """Fine-tune an adapter per fold of patients, and caption each fold by the adapter not trained on it.

    Parameters
    ----------
    table, model, settings, device, dtype
        As for `finetune_captioner`.
    n_folds
        Number of adapters to train.
    out
        New folder, or the folder of the same request, stopped: finished folds are kept.
    on_epoch
        Function of the fold number that returns the callback for its epochs.

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
    job = _Job(
        material, material.digest(), model, model_fingerprint(find_vlm(model)), out, settings, device, dtype, on_epoch
    )
    folds = folds_of(material.patients.names, n_folds, seed=settings.seed)
    for fold, rows in enumerate(folds):
        job.run(fold, rows)
    return _join(out, len(folds))


@dataclass(frozen=True)
class _Job:
    """Settings shared by all folds."""

    material: Material
    digest: str
    model: str | Path
    base: str
    """Fingerprint of the base model."""
    out: Path
    settings: FinetuneSettings
    device: str
    dtype: str
    on_epoch: Callable[[int], EpochCallback] | None

    def run(self, fold: int, rows: Sequence[int]) -> None:
        """Train on all rows but these, then caption these; finished work is kept."""
        folder = self.out / f"fold-{fold}"
        record = self._record(folder) if (folder / RECORD_FILE).is_file() else self._train(fold, folder, rows)
        if (folder / CAPTIONS_FILE).is_file():
            return
        refuse_seen_patients(record, [self.material.patients.names[row] for row in rows])
        # the base is loaded again: the model in training contains the adapter
        captioner = load_vlm(
            self.model, adapter=folder, device=self.device, dtype=self.dtype, batch=max(8, self.settings.batch)
        )
        texts: list[str] = []
        for first in range(0, len(rows), captioner.batch):
            texts += captioner.describe(self.material.table.images(rows[first : first + captioner.batch]))
        with atomic_write(folder / CAPTIONS_FILE) as path, open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(FIELDS)
            for row, text in zip(rows, texts, strict=True):
                writer.writerow([harmless(cell) for cell in self._line(row, text, fold, record)])

    def _line(self, row: int, text: str, fold: int, record: dict[str, Any]) -> list[Any]:
        table, material = self.material.table, self.material
        source = (table.classes[row] or "", material.patients.names[row], table.slides[row] or "")
        return [table.files[row], text, *source, fold, record["adapter"][:12], material.answers[row]]

    def _train(self, fold: int, folder: Path, rows: Sequence[int]) -> dict[str, Any]:
        held = set(rows)
        return finetune_rows(
            self.material,
            [row for row in range(len(self.material.answers)) if row not in held],
            model=self.model,
            out=folder,
            settings=self.settings,
            device=self.device,
            dtype=self.dtype,
            on_epoch=self.on_epoch(fold) if self.on_epoch else None,
            digest=self.digest,
        )

    def _record(self, folder: Path) -> dict[str, Any]:
        """Record of a finished fold; raise if it belongs to another request."""
        record = read_record(folder)
        same = (
            record["base"]["fingerprint"] == self.base
            and record["data"]["digest"] == self.digest
            and record["settings"] == self.settings.model_dump(mode="json")
        )
        if not same:
            raise RequestError(
                f"{folder}: belongs to another request (other data, base or settings). Give a new folder."
            )
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
