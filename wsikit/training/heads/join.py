"""Features in place of the pixels of a patch set, for an MMLNB whose image branch reads features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from wsikit.errors import RequestError
from wsikit.models.config import FeatureBranchConfig, ModelConfig
from wsikit.models.model_folder import EncoderRecord
from wsikit.models.stored_features import StoredFeatures
from wsikit.training.config import FeatureBranch, TrainConfig
from wsikit.training.data import PatchSet
from wsikit.training.heads.data import Load, load_features
from wsikit.training.heads.fits import standard


def with_features(
    patches: PatchSet,
    config: TrainConfig,
    *,
    device: str = "auto",
    load: Load | None = None,
    message: Callable[[str], None] = lambda text: None,
) -> tuple[PatchSet, EncoderRecord | None]:
    """The patches with their features, float32 (N, D), instead of pixels, and the encoder; unchanged, and None, if the
    image branch reads pixels. Patches whose features are not finite are left out."""
    if not isinstance(config.image, FeatureBranch):
        return patches, None
    found = load_features(config, config.image, colours=False, device=device, load=load)
    message(found.words)
    places = {one: row for row, one in enumerate(patches.ids)}
    chosen = patches.select([places[one] for one in found.patches.ids])
    return replace(chosen, images=found.features), found.encoder  # type: ignore[arg-type]


def standardise(branch: StoredFeatures, training: PatchSet) -> None:
    """Set the mean and scale of the branch from the features of the training patches."""
    mean, scale = standard(np.asarray(training.images, dtype=np.float32))
    branch.mean.copy_(torch.from_numpy(mean))
    branch.scale.copy_(torch.from_numpy(scale))


def check_encoder(model: ModelConfig, found: EncoderRecord | None) -> None:
    """RequestError if a model reads other features than those of `found`."""
    wanted = model.image if isinstance(model.image, FeatureBranchConfig) else None
    if (wanted is None) != (found is None):
        raise RequestError(
            f"model {model.name}: reads {'pixels' if wanted is None else 'features of ' + wanted.name}, unlike the "
            "configuration. Give the configuration of its training."
        )
    if wanted is None or found is None:
        return
    prints = {wanted.fingerprint, found.fingerprint} - {""}
    if (wanted.name, wanted.width) != (found.name, found.width) or len(prints) > 1:
        raise RequestError(
            f"model {model.name}: trained on features of {wanted.name} ({wanted.width} numbers, fingerprint "
            f"{wanted.fingerprint[:12] or 'unknown'}), these are of {found.name} ({found.width}, "
            f"{found.fingerprint[:12] or 'unknown'}). Give features of the same encoder."
        )
