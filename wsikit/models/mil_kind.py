"""MIL models as folders: config.json, model.safetensors, README.md, metrics.json; with an image encoder of their own,
image.safetensors. Described and loaded for `wsikit.models.registry`; torch only for that encoder."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsikit.errors import ModelError
from wsikit.models.config import CARD_FILE, CONFIG_FILE, METRICS_FILE, WEIGHTS_FILE
from wsikit.models.mil_config import IMAGE_WEIGHTS, info_of_mil, mil_fingerprint, read_mil_config
from wsikit.models.mmlnb_kind import check_whole
from wsikit.models.protocol import ModelInfo


class MilKind:
    """Describes and loads MIL models."""

    def describe(self, folder: Path | None) -> ModelInfo:
        """Description of the model in `folder`; see `wsikit.models.registry.describe_model`."""
        assert folder is not None  # they are always folders
        config = read_mil_config(folder)
        for name in (WEIGHTS_FILE, IMAGE_WEIGHTS):
            if (folder / name).is_file():
                check_whole(folder / name)
        return info_of_mil(config, mil_fingerprint(folder))

    def load(self, folder: Path | None, *, device: Literal["auto", "cpu", "cuda"]) -> Any:
        """The model in `folder`, a `MilModel`. Its pooling runs on the CPU; an image encoder of its own on `device`."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        from wsikit.models.mil import MilModel

        assert folder is not None
        config = read_mil_config(folder)
        weights = folder / WEIGHTS_FILE
        try:
            arrays = load_file(str(weights))
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{weights}: damaged or not safetensors ({error}); copy the model's folder again."
            ) from error
        encode = None
        if config.image is not None:
            from wsikit.models.mil_image import load_image_encoder

            encode = load_image_encoder(folder, config, device=device)
        return MilModel(config, arrays, encode=encode, fingerprint=mil_fingerprint(folder))


def save_mil(
    model: Any,
    folder: str | Path,
    *,
    card: str,
    metrics: dict[str, Any] | None = None,
    image: dict[str, npt.NDArray[np.floating]] | None = None,
) -> Path:
    """Write a `MilModel` as a folder, in one step; the folder must not exist yet.

    Parameters
    ----------
    image
        Weights of the image encoder, of a model that has one.

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
        save_file({name: np.ascontiguousarray(values) for name, values in model.arrays.items()}, staging / WEIGHTS_FILE)
        if image is not None:
            save_file(dict(image), str(staging / IMAGE_WEIGHTS))
        for weights in staging.glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors also writes for the owner only
        os.replace(staging, folder)
    except BaseException:
        shutil.rmtree(staging)  # made by this call
        raise
    return folder


MIL_KIND = MilKind()
