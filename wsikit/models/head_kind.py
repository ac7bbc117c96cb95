"""Heads as folders: config.json, model.safetensors, README.md, metrics.json and, with an OOD detector,
novelty.safetensors. Described and loaded for `wsikit.models.registry`; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from wsikit.models.config import OOD_FILE, WEIGHTS_FILE
from wsikit.models.head_config import head_fingerprint, info_of_head, read_head_config
from wsikit.models.model_folder import check_weights, weights_of, write_description, write_folder
from wsikit.models.protocol import ModelInfo, PatchModel
from wsikit.tensor_files import read_arrays


class HeadKind:
    """Describes and loads heads."""

    def describe(self, folder: Path | None) -> ModelInfo:
        """Description of the head in `folder`; see `wsikit.models.registry.describe_model`."""
        assert folder is not None  # heads are always folders
        config = read_head_config(folder)
        check_weights(folder, (WEIGHTS_FILE, OOD_FILE))
        return info_of_head(config, head_fingerprint(folder), has_ood=(folder / OOD_FILE).is_file())

    def load(self, folder: Path | None, *, device: Literal["auto", "cpu", "cuda"]) -> PatchModel:
        """The head in `folder`; it runs on the CPU, whatever the device."""
        from wsikit.models.head import HeadModel
        from wsikit.models.ood import OodDetector

        assert folder is not None
        config = read_head_config(folder)
        arrays = read_arrays(folder / WEIGHTS_FILE)
        path = folder / OOD_FILE
        ood = OodDetector.load(path, width=config.encoder.width) if path.is_file() else None
        with weights_of(folder / WEIGHTS_FILE):
            return HeadModel(config, arrays, ood=ood, fingerprint=head_fingerprint(folder))


def save_head(model: Any, folder: str | Path, *, card: str, metrics: dict[str, Any] | None = None) -> Path:
    """Write a `HeadModel` as a folder, in one step; the folder must not exist yet.

    Raises
    ------
    ModelError
        If it exists: nothing is overwritten.
    """
    from safetensors.numpy import save_file

    def write(staging: Path) -> None:
        write_description(staging, model.config, card, metrics)
        if model.ood is not None:
            model.ood.save(staging / OOD_FILE)
        save_file(model.arrays, str(staging / WEIGHTS_FILE))

    return write_folder(folder, write)


HEAD_KIND = HeadKind()
