"""Heads as folders: config.json, model.safetensors, README.md, metrics.json and, with an OOD detector,
novelty.safetensors. Described and loaded for `wsikit.models.registry`; no torch."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from wsikit.errors import ModelError
from wsikit.models.config import CARD_FILE, CONFIG_FILE, METRICS_FILE, OOD_FILE, WEIGHTS_FILE
from wsikit.models.head_config import head_fingerprint, info_of_head, read_head_config
from wsikit.models.mmlnb_kind import check_whole
from wsikit.models.protocol import ModelInfo, PatchModel


class HeadKind:
    """Describes and loads heads."""

    def describe(self, folder: Path | None) -> ModelInfo:
        """Description of the head in `folder`; see `wsikit.models.registry.describe_model`."""
        assert folder is not None  # heads are always folders
        config = read_head_config(folder)
        for name in (WEIGHTS_FILE, OOD_FILE):
            if (folder / name).is_file():
                check_whole(folder / name)
        return info_of_head(config, head_fingerprint(folder), has_ood=(folder / OOD_FILE).is_file())

    def load(self, folder: Path | None, *, device: Literal["auto", "cpu", "cuda"]) -> PatchModel:
        """The head in `folder`; it runs on the CPU, whatever the device."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        from wsikit.models.head import HeadModel
        from wsikit.models.ood import OodDetector

        assert folder is not None
        config = read_head_config(folder)
        weights = folder / WEIGHTS_FILE
        try:
            arrays = load_file(str(weights))
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{weights}: damaged or not safetensors ({error}); copy the model's folder again."
            ) from error
        path = folder / OOD_FILE
        ood = OodDetector.load(path, width=config.encoder.width) if path.is_file() else None
        return HeadModel(config, arrays, ood=ood, fingerprint=head_fingerprint(folder))


def save_head(model: Any, folder: str | Path, *, card: str, metrics: dict[str, Any] | None = None) -> Path:
    """Write a `HeadModel` as a folder, in one step; the folder must not exist yet.

    Raises
    ------
    ModelError
        If it exists: nothing is overwritten.
    """
    from safetensors.numpy import save_file

    from wsikit.store.atomic import write_json

    folder = Path(folder)
    if folder.exists():
        raise ModelError(f"{folder}: exists; give a new folder, nothing is overwritten.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        staging.chmod(0o755)  # mkdtemp makes it private; models are shared
        (staging / CONFIG_FILE).write_text(model.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (staging / CARD_FILE).write_text(card, encoding="utf-8")
        if metrics is not None:
            write_json(staging / METRICS_FILE, metrics)
        if model.ood is not None:
            model.ood.save(staging / OOD_FILE)
        save_file(model.arrays, str(staging / WEIGHTS_FILE))
        for weights in staging.glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors also writes for the owner only
        os.replace(staging, folder)
    except BaseException:
        shutil.rmtree(staging)  # made by this call
        raise
    return folder


HEAD_KIND = HeadKind()
