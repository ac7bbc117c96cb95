"""`finetune_captioner`: train a LoRA adapter on images with descriptions, with a record, metrics and a card.

Writes OUT/adapter, OUT/wsikit.json, OUT/metrics.json, OUT/README.md; OUT/training while it runs. A stopped run resumes.
"""

from __future__ import annotations

import json
import logging
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from wsikit._version import __version__
from wsikit.captions.vlm.chat import DEFAULT_PROMPT, Chat
from wsikit.captions.vlm.files import (
    ADAPTER_FOLDER,
    RECORD_FILE,
    adapter_fingerprint,
    data_digest,
    find_vlm,
    model_fingerprint,
    read_record,
    text_id,
)
from wsikit.captions.vlm.loading import choose_place, load_base
from wsikit.captions.vlm.model import DEFAULT_IMAGE_PX
from wsikit.errors import RequestError, WsikitError
from wsikit.scrub import scrub
from wsikit.store.atomic import names_in, write_json
from wsikit.training.captioner.adapters import add_lora
from wsikit.training.captioner.card import adapter_card
from wsikit.training.captioner.patients import Patients, hold_out, patient_id, patients_of
from wsikit.training.captioner.settings import FinetuneSettings
from wsikit.training.captioner.trainer import CHECKPOINTS, EpochCallback, Examples, Fitted, fit
from wsikit.training.datasets import ImageTable

logger = logging.getLogger(__name__)

REQUEST_FILE = "request.json"
METRICS_FILE = "metrics.json"
CARD_FILE = "README.md"
_READ_AT_ONCE = 64


@dataclass(frozen=True)
class Material:
    """Prepared training data: rows with a description, label words removed, patients identified."""

    table: ImageTable
    answers: tuple[str, ...]
    patients: Patients
    scrubbed: int
    """Number of descriptions from which words that name the diagnosis were removed."""
    undescribed: int
    """Number of rows left out because they have no description."""

    def examples(self, rows: Sequence[int]) -> Examples:
        """Some rows in the form of the trainer."""
        part = self.table.select(rows)
        return Examples(part.images, tuple(self.answers[row] for row in rows))

    def digest(self) -> str:
        """sha256 over names, answers, patients and every image's pixels."""

        def parts() -> Any:
            for first in range(0, len(self.table), _READ_AT_ONCE):
                rows = range(first, min(first + _READ_AT_ONCE, len(self.table)))
                for row, image in zip(rows, self.table.images(rows), strict=True):
                    yield self.table.files[row].encode()
                    yield self.answers[row].encode()
                    yield self.patients.names[row].encode()
                    yield str(image.shape).encode() + image.tobytes()

        return data_digest(parts())


def prepare(table: ImageTable) -> Material:
    """Select the rows with a description and remove label words from them.

    Raises
    ------
    RequestError
        If no row has a description, or patients are known for some rows only.
    """
    rows = [row for row, text in enumerate(table.captions) if text]
    if not rows:
        raise RequestError(f"{table.source}: no row has a description. Fill the column description.")
    described = table.select(rows)
    answers = tuple(scrub(text or "") for text in described.captions)
    scrubbed = sum(clean != " ".join((text or "").split()) for clean, text in zip(answers, described.captions))
    empty = [described.files[row] for row, clean in enumerate(answers) if not clean]
    if empty:
        raise RequestError(
            f"{table.source}: {len(empty)} description(s) contain only the diagnosis (first: {empty[0]}). "
            "Describe what is visible, or remove the rows."
        )
    patients = patients_of(described)
    if patients.known_by != "patient":
        logger.warning(
            "%s: no column patient; rows are grouped by %s (%d groups). If a patient has several, "
            "the validation is too optimistic.",
            table.source,
            patients.known_by,
            len(set(patients.names)),
        )
    return Material(described, answers, patients, scrubbed, len(table) - len(rows))


def finetune_captioner(
    table: ImageTable,
    *,
    model: str | Path,
    out: str | Path,
    settings: FinetuneSettings | None = None,
    device: str = "auto",
    dtype: str = "auto",
    on_epoch: EpochCallback | None = None,
) -> dict[str, Any]:
    """Fine-tune a captioner on the descriptions of a table, by LoRA.

    Parameters
    ----------
    table
        Images with descriptions, as `wsikit.training.datasets.read_table` reads them.
    model
        The base model, as in `load_vlm`.
    out
        New folder; or the folder of the same request, stopped, which resumes from its last epoch.
    settings
        Default: MMLNB's.
    on_epoch
        Called after each epoch with the fraction done and its metrics.

    Returns
    -------
    dict
        The record that is also written as wsikit.json.

    Raises
    ------
    RequestError
        If the table is unsuitable for training, or `out` holds something else.
    ModelError
        If the base cannot be used.
    """
    return finetune_rows(
        prepare(table),
        None,
        model=model,
        out=Path(out),
        settings=settings,
        device=device,
        dtype=dtype,
        on_epoch=on_epoch,
    )


def finetune_rows(
    material: Material,
    rows: Sequence[int] | None,
    *,
    model: str | Path,
    out: Path,
    settings: FinetuneSettings | None,
    device: str,
    dtype: str,
    on_epoch: EpochCallback | None,
    digest: str | None = None,
) -> dict[str, Any]:
    """`finetune_captioner` on some rows of the prepared data (None: all)."""
    settings = settings or FinetuneSettings()
    chosen = list(range(len(material.answers))) if rows is None else list(rows)
    names = [material.patients.names[row] for row in chosen]
    train, validation = hold_out(names, share=settings.validation_share, seed=settings.seed)
    train, validation = [chosen[i] for i in train], [chosen[i] for i in validation]

    folder = find_vlm(model)
    place = choose_place(device, dtype)
    base = {"name": Path(model).name or str(model), "fingerprint": model_fingerprint(folder)}
    data = _data_record(material, train, validation, digest)
    _claim(
        out,
        {
            "base": base["fingerprint"],
            "data": data,
            "rows": text_id(json.dumps([train, validation])),
            "settings": settings.model_dump(mode="json"),
        },
    )

    clean, processor = load_base(folder, place)
    chat = _chat(processor, read_record(folder), settings)
    torch.manual_seed(settings.seed)
    whole, modules = add_lora(clean, settings)
    if settings.gradient_checkpointing:
        whole.enable_input_require_grads()
    fitted = fit(
        whole,
        chat,
        place,
        training=material.examples(train),
        validation=material.examples(validation),
        settings=settings,
        folder=out,
        on_epoch=on_epoch,
    )
    whole.save_pretrained(out / ADAPTER_FOLDER, safe_serialization=True)
    patients = {
        "known_by": material.patients.known_by,
        "trained": _ids(material, train),
        "validated": _ids(material, validation),
    }
    record = {
        "format": 1,
        "kind": "adapter",
        "base": base,
        "adapter": adapter_fingerprint(out / ADAPTER_FOLDER),
        "chat": {"prompt": chat.prompt, "image_px": chat.image_px, "max_new_tokens": settings.max_new_tokens},
        "mpp": _mpp_seen(material, chat, settings),
        "modules": modules,
        "data": data,
        "patients": patients,
        "figures": asdict(fitted.best),
        "settings": settings.model_dump(mode="json"),
        "precision": {"device": place.device.type, "dtype": str(place.dtype).removeprefix("torch.")},
        "versions": _versions(),
    }
    _finish(out, record, fitted)
    return record


def _data_record(
    material: Material, train: Sequence[int], validation: Sequence[int], digest: str | None
) -> dict[str, Any]:
    return {
        "table": Path(material.table.source).name,
        "digest": digest or material.digest(),
        "training_rows": len(train),
        "validation_rows": len(validation),
        "undescribed_rows": material.undescribed,
        "descriptions_scrubbed": material.scrubbed,
    }


def _claim(out: Path, request: dict[str, Any]) -> None:
    """Claim the folder for this request; raise if it holds anything else."""
    if (out / RECORD_FILE).is_file():
        raise RequestError(f"{out}: already holds a finished adapter. Give a new folder; nothing is overwritten.")
    path = out / CHECKPOINTS / REQUEST_FILE
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != request:
            raise RequestError(
                f"{out}: holds another unfinished fine-tuning (other data, base or settings). Repeat that request "
                "to resume it, or give a new folder."
            )
        return
    # a folder with our name but without our request is not ours (unless empty), and ours is removed at the end
    unknown = names_in(out / CHECKPOINTS) or [name for name in names_in(out) if name != CHECKPOINTS]
    if unknown or (out.exists() and not out.is_dir()):
        raise RequestError(f"{out}: not empty; give a new folder, nothing is overwritten.")
    write_json(path, request)


def _chat(processor: Any, record: dict[str, Any], settings: FinetuneSettings) -> Chat:
    asked = record.get("chat", {})
    return Chat(
        processor,
        settings.prompt if settings.prompt is not None else asked.get("prompt", DEFAULT_PROMPT),
        settings.image_px or asked.get("image_px", DEFAULT_IMAGE_PX),
    )


def _mpp_seen(material: Material, chat: Chat, settings: FinetuneSettings) -> float | None:
    """µm/px of the model's input images."""
    mpp = settings.mpp or material.table.mpp
    if mpp is None:
        return None
    return float(mpp * material.table.images([0])[0].shape[0] / chat.image_px)


def _ids(material: Material, rows: Sequence[int]) -> list[str]:
    return sorted({patient_id(material.patients.names[row]) for row in rows})


def _versions() -> dict[str, str]:
    modules = (torch, transformers, peft)
    return {"python": platform.python_version(), "wsikit": __version__} | {m.__name__: m.__version__ for m in modules}


def _finish(out: Path, record: dict[str, Any], fitted: Fitted) -> None:
    """Write metrics and card first, the record last as the mark of completeness; then remove the checkpoints."""
    metrics = {"best_epoch": fitted.best.epoch, "epochs": [asdict(epoch) for epoch in fitted.epochs]}
    write_json(out / METRICS_FILE, metrics)
    (out / CARD_FILE).write_text(adapter_card(record, metrics), encoding="utf-8")
    write_json(out / RECORD_FILE, record)
    try:
        shutil.rmtree(out / CHECKPOINTS)
    except OSError as error:
        raise WsikitError(f"{out / CHECKPOINTS}: could not be removed ({error}); the adapter is complete.") from error
