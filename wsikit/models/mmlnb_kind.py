"""The built-in architecture MMLNB for `wsikit.models.registry`. Torch is imported when a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from wsikit.errors import ModelError
from wsikit.models.config import OOD_FILE, ModelConfig, fingerprint, read_config
from wsikit.models.protocol import IMAGE, OOD_SCORE, PROBABILITY, TEXT, ModelColumn, ModelInfo, PatchModel

COLUMNS = (
    ModelColumn(PROBABILITY, per_class=True),
    ModelColumn("probability_image", per_class=True),
    ModelColumn("probability_text", per_class=True),
    ModelColumn("gate", unit="0 image only … 1 text only"),
)
OOD_COLUMN = ModelColumn(OOD_SCORE, unit="above 1: out of the distribution of the training patches")


class MMLNBKind:
    """Describes and loads MMLNB folders."""

    def describe(self, folder: Path | None) -> ModelInfo:
        """Description of the model in `folder`; see `wsikit.models.registry.describe_model`."""
        assert folder is not None  # MMLNB models are always folders
        config = read_config(folder)
        return info_of(config, fingerprint(folder), has_ood=(folder / OOD_FILE).is_file())

    def load(self, folder: Path | None, *, device: Literal["auto", "cpu", "cuda"]) -> PatchModel:
        """The model in `folder` on `device`; see `wsikit.models.registry.load_patch_model`."""
        assert folder is not None
        try:
            from wsikit.models.io import load_model
            from wsikit.models.predictor import Predictor
        except ModuleNotFoundError as error:
            raise ModelError(
                f"{folder}: this model needs the package {error.name!r}, which is not installed here. "
                "Install it with: pip install wsikit"
            ) from error
        return Predictor(load_model(folder), device=device)


MMLNB_KIND = MMLNBKind()


def info_of(config: ModelConfig, fingerprint: str, *, has_ood: bool) -> ModelInfo:
    """An MMLNB's configuration as `ModelInfo`."""
    return ModelInfo(
        name=config.name,
        version=config.version,
        architecture=config.architecture,
        fingerprint=fingerprint,
        patch_px=config.patch_px,
        mpp=config.mpp,
        stain=config.stain,
        classes=config.classes,
        class_names=config.class_names,
        colors=config.colors,
        background=config.background,
        notice=config.notice,
        captioner=config.captioner,
        inputs=(IMAGE, TEXT),
        columns=(*COLUMNS, OOD_COLUMN) if has_ood else COLUMNS,
    )
