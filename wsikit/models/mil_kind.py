"""MIL models as folders: config.json, model.safetensors, README.md, metrics.json; with an image encoder of their own,
image.safetensors. Described and loaded for `wsikit.models.registry`; torch only for that encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsikit.models.config import WEIGHTS_FILE
from wsikit.models.mil_config import IMAGE_WEIGHTS, info_of_mil, mil_fingerprint, read_mil_config
from wsikit.models.model_folder import check_weights, weights_of, write_description, write_folder
from wsikit.models.protocol import ModelInfo
from wsikit.tensor_files import read_arrays


class MilKind:
    """Describes and loads MIL models."""

    def describe(self, folder: Path | None) -> ModelInfo:
        """Description of the model in `folder`; see `wsikit.models.registry.describe_model`."""
        assert folder is not None  # they are always folders
        config = read_mil_config(folder)
        check_weights(folder, (WEIGHTS_FILE, IMAGE_WEIGHTS))
        return info_of_mil(config, mil_fingerprint(folder))

    def load(self, folder: Path | None, *, device: Literal["auto", "cpu", "cuda"]) -> Any:
        """The model in `folder`, a `MilModel`. Its pooling runs on the CPU; an image encoder of its own on `device`."""
        from wsikit.models.mil import MilModel

        assert folder is not None
        config = read_mil_config(folder)
        arrays = read_arrays(folder / WEIGHTS_FILE)
        encode = None
        if config.image is not None:
            from wsikit.models.mil_image import load_image_encoder

            encode = load_image_encoder(folder, config, device=device)
        with weights_of(folder / WEIGHTS_FILE):
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

    def write(staging: Path) -> None:
        write_description(staging, model.config, card, metrics)
        arrays = {name: np.ascontiguousarray(values) for name, values in model.arrays.items()}
        save_file(arrays, staging / WEIGHTS_FILE)
        if image is not None:
            save_file(dict(image), str(staging / IMAGE_WEIGHTS))

    return write_folder(folder, write)


MIL_KIND = MilKind()
