"""The built-in architecture MMLNB for `wsikit.models.registry`. Torch is imported when a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from wsikit.errors import ModelError
from wsikit.models.config import OOD_FILE, WEIGHTS_FILE, fingerprint, read_config
from wsikit.models.mmlnb_info import info_of
from wsikit.models.model_folder import check_weights
from wsikit.models.protocol import ModelInfo, PatchModel


class MMLNBKind:
    """Describes and loads MMLNB folders."""

    def describe(self, folder: Path | None) -> ModelInfo:
        """Description of the model in `folder`; see `wsikit.models.registry.describe_model`."""
        assert folder is not None  # MMLNB models are always folders
        config = read_config(folder)
        check_weights(folder, (WEIGHTS_FILE, OOD_FILE))
        return info_of(config, fingerprint(folder), has_ood=(folder / OOD_FILE).is_file())

    def load(self, folder: Path | None, *, device: Literal["auto", "cpu", "cuda"]) -> PatchModel:
        """The model in `folder` on `device`; see `wsikit.models.registry.load_patch_model`."""
        assert folder is not None
        try:
            from wsikit.models.io import load_model
            from wsikit.models.predictor import Predictor
            from wsikit.models.stored_features import StoredFeatures
        except ModuleNotFoundError as error:
            raise ModelError(
                f"{folder}: this model needs the package {error.name!r}, which is not installed here. "
                "Install it with: pip install wsikit"
            ) from error
        model = load_model(folder)
        if isinstance(model.image, StoredFeatures):
            from wsikit.models.feature_branch import FeaturePredictor

            return FeaturePredictor(model, device=device)
        return Predictor(model, device=device)


MMLNB_KIND = MMLNBKind()
